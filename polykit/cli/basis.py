"""`polykit basis`: interaction graphs, and the modules in them."""

from __future__ import annotations

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, command_of, epilog, launch_any
from polykit.cli.runs import PANEL
from polykit.workflows.basis.config import FLAGS, BasisConfig

EXAMPLES = """Draw the interaction graphs of networks in several bases, and find their modules.

\b
  polykit basis
  polykit basis --basis interaction --basis neuron --origin mean --seed 0
  polykit basis --pruner magnitude --density 0.1 --density 0.05
  polykit basis --model mlp:widths=300,100 --dataset mnist --data-root data --samples 5000
  polykit basis --cutoff 0.001 --cutoff 0.01 --resolution 1 --resolution 3
  polykit basis --model convnet --no-inputs --samples 200
  polykit basis --config graphs.toml --dry-run
  polykit basis --resume runs/NAME
"""
GRAPH, HOW, TRAINING = "The graph", "How to prune", "Training"
PLACES = {
    **dict.fromkeys(("model", "dataset", "checkpoint", "pruners"), WHAT),
    **dict.fromkeys(("densities", "seeds", "control", "options"), WHAT),
    **dict.fromkeys(("bases", "origins", "cutoffs", "resolutions"), GRAPH),
    **dict.fromkeys(("samples", "inputs", "layers", "steps"), GRAPH),
    **dict.fromkeys(("prune_layers", "granularity", "scope", "objective"), HOW),
    **dict.fromkeys(("prune_at", "score_samples"), HOW),
    **dict.fromkeys(("device", "engine"), PANEL),
}
LAYOUT = settings.Layout(
    FLAGS, PLACES, TRAINING, (WHAT, GRAPH, HOW, TRAINING, PANEL), "POLYKIT_BASIS_"
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(
    command_of(BasisConfig, LAYOUT, launch_any(BasisConfig))
)
