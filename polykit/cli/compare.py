"""`polykit compare`: what lies between two networks, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, Call, command_of, epilog, launch
from polykit.cli.runs import PANEL
from polykit.errors import UsageError
from polykit.workflows.compare.config import FLAGS, CompareConfig

EXAMPLES = """Match networks' units, look at the line between them, and say how alike they are.

A network is RUN:SEED or RUN:CELL of a run of analyze or map, or a file of weights.

\b
  polykit compare RUN:0 RUN:1
  polykit compare RUN:0 RUN:1 RUN:2 --metric ig --metric hoyer
  polykit compare RUN:0 RUN:seed-0-magnitude-0.1
  polykit compare RUN:0 RUN:1 --pull 0.001 --pull 0.01 --pull 0.1 --epochs 20
  polykit compare a.safetensors b.safetensors --model mlp:widths=64 --dataset digits
  polykit compare RUN:0 other.pt --model convnet --no-path
  polykit compare --resume runs/NAME
"""
LINE, TRAINING = "The line between them", "Training under a pull"
PLACES = {
    **dict.fromkeys(("model", "dataset", "samples", "seed", "options"), WHAT),
    **dict.fromkeys(("path", "points", "starts", "randoms", "metrics", "layers"), LINE),
    "eval_batch_size": LINE,
    **dict.fromkeys(("device", "engine", "threads"), PANEL),
}
LAYOUT = settings.Layout(FLAGS, PLACES, TRAINING, (WHAT, LINE, TRAINING, PANEL), "POLYKIT_COMPARE_")
FirstArgument = Annotated[str | None, typer.Argument(metavar="A", help="The first network.")]
OthersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="B…", help="The networks it is compared with.")
]

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def compare(
    ctx: typer.Context,
    call: Call,
    a: FirstArgument = None,
    others: OthersArgument = None,
    *,
    fields: Mapping[str, Any],
) -> None:
    """Launch it on networks that are named by runs or files."""
    if a is not None and not others:
        raise UsageError("name two networks at least, e.g. polykit compare RUN:0 RUN:1")
    if a is not None and others:
        found = [locate_network(text, call.runs_dir) for text in (a, *others)]
        fields = {**fields, "a": found[0], "others": found[1:]}
    launch(ctx, call, CompareConfig, fields)


def locate_network(text: str, runs_dir: Path) -> str:
    """Put the folder of runs before the name of a run that is in there, not here."""
    names = [name for name in (text, text.rpartition(":")[0]) if name]
    here = any(Path(name).exists() for name in names)
    there = any((runs_dir / name).is_dir() for name in names)
    return str(runs_dir / text) if there and not here else text


app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(command_of(CompareConfig, LAYOUT, compare))
