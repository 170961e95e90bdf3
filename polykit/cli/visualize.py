"""`polykit visualize`: what a unit looks for, and where in its pictures it finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, Call, ClustersArgument, command_of, epilog, launch_below
from polykit.cli.runs import PANEL
from polykit.workflows.visualize.config import FLAGS, VisualizeConfig

EXAMPLES = """Grow pictures that raise units of a clusters run; show which pixels make their value.

\b
  polykit visualize RUN
  polykit visualize RUN --unit features.10:15 --unit features.10:167 --pictures 6
  polykit visualize RUN --unit conv3:5 --dissection NAME
  polykit visualize RUN --unit conv3:5 --pictures 0 --attribution saliency
  polykit visualize --resume RUN/visualizations/NAME
"""
HOW = "How to show it"
PLACES = {
    **dict.fromkeys(("units", "dissection", "seed"), WHAT),
    **dict.fromkeys(("device", "engine", "threads"), PANEL),
}
LAYOUT = settings.Layout(FLAGS, PLACES, HOW, (WHAT, HOW, PANEL), "POLYKIT_VISUALIZE_")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def visualize(
    ctx: typer.Context, call: Call, run: ClustersArgument = None, *, fields: Mapping[str, Any]
) -> None:
    """Launch it in a folder of the run it looks at."""
    launch_below(ctx, call, VisualizeConfig, fields, run, "visualizations")


app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(command_of(VisualizeConfig, LAYOUT, visualize))
