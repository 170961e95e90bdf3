"""`polykit dissect`: the parts that carry a unit's clusters, beside controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, Call, ClustersArgument, command_of, epilog, launch_below
from polykit.cli.runs import PANEL
from polykit.workflows.dissect.config import FLAGS, DissectConfig

EXAMPLES = """Cut units of a clusters run apart: for each cluster, the part that carries it.

\b
  polykit dissect RUN
  polykit dissect RUN --unit features.10:15 --pruner cs --pruner force
  polykit dissect RUN --unit conv3:5 --density 0.02 --density 0.1
  polykit dissect RUN --unit conv3:5 --pruner cs:epochs=60 --objective preserve
  polykit dissect --resume RUN/dissections/NAME

The same is done in other units, in a network with random weights and with shuffled labels, since a
mask over many weights can be made to tell nearly anything apart.
"""
HOW, CHECKS = "How to cut", "How to check it"
PLACES = {
    **dict.fromkeys(("units", "seed", "options"), WHAT),
    **dict.fromkeys(("held_out", "enough", "neither", "others", "randoms"), CHECKS),
    **dict.fromkeys(("device", "engine", "threads", "eval_batch_size"), PANEL),
}
LAYOUT = settings.Layout(FLAGS, PLACES, HOW, (WHAT, HOW, CHECKS, PANEL), "POLYKIT_DISSECT_")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def dissect(
    ctx: typer.Context, call: Call, run: ClustersArgument = None, *, fields: Mapping[str, Any]
) -> None:
    """Launch it in a folder of the run it looks at."""
    launch_below(ctx, call, DissectConfig, fields, run, "dissections")


app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(command_of(DissectConfig, LAYOUT, dissect))
