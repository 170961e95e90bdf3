"""`polykit density`: how dense networks of several widths want to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from polykit.cli import settings
from polykit.cli.launch import (
    WHAT,
    Call,
    DataRootOption,
    DownloadOption,
    command_of,
    dataset_options,
    epilog,
    launch,
)
from polykit.cli.runs import PANEL
from polykit.workflows.density.config import FLAGS, DensityConfig

EXAMPLES = """Train networks of several widths, prune them step by step, and compare what is left.

\b
  polykit density
  polykit density --scale 0.1 --scale 1 --seed 0 --seed 1
  polykit density --dataset mnist --data-root data --optimizer sgd --lr 0.001 --epochs 300
  polykit density --compare sgd=0.1 --compare adam=0.001 --init glorot --init he
  polykit density --pruner magnitude --pruner snip --pruner random --rise 0.1
  polykit density --scale 1 --pruner magnitude --pruner force --pruner edge-popup
  polykit density --scale 1 --class-pruner snip --ticket iterative-magnitude
  polykit density --model conv2 --scale 0.1 --stop best --epochs 30
  polykit density --config study.toml --dry-run
  polykit density --resume runs/NAME
"""
HOW, TRAINING = "How to prune and measure", "Training"
PLACES = {
    **dict.fromkeys(("model", "dataset", "scales", "inits", "optimizers"), WHAT),
    **dict.fromkeys(("seeds", "data_seeds", "options"), WHAT),
    **dict.fromkeys(("pruners", "scope", "step", "drop", "rise", "small"), HOW),
    **dict.fromkeys(("metrics", "layers", "score_samples"), HOW),
    **dict.fromkeys(("class_pruner", "class_density", "ticket", "ticket_density"), HOW),
    **dict.fromkeys(("device", "engine"), PANEL),
}
LAYOUT = settings.Layout(FLAGS, PLACES, TRAINING, (WHAT, HOW, TRAINING, PANEL), "POLYKIT_DENSITY_")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def density(
    ctx: typer.Context,
    call: Call,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    *,
    fields: Mapping[str, Any],
) -> None:
    """Launch it on any dataset; the model's start is the study's to choose."""
    of_dataset = dataset_options(data_root, download=download)
    launch(ctx, call, DensityConfig, fields, of_dataset=of_dataset)


app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(command_of(DensityConfig, LAYOUT, density))
