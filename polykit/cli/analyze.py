"""`polykit analyze`: the main job."""

from __future__ import annotations

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, command_of, epilog, launch_any
from polykit.cli.runs import PANEL
from polykit.workflows.analyze.config import FLAGS, AnalyzeConfig

EXAMPLES = """Train or load networks, prune them, and measure what that did to their units.

\b
  polykit analyze
  polykit analyze --pruner force --metric ig --density 0.1 --seed 0
  polykit analyze --pruner force:rounds=20,schedule=linear -o ig.at=post
  polykit analyze --metric ig --metric hoyer --basis interaction --basis pca
  polykit analyze --model mlp:widths=300,100 --dataset mnist --data-root data
  polykit analyze --model resnet18 --weights DEFAULT --granularity unit
  polykit analyze --config sweep.toml --dry-run
  polykit analyze --resume runs/NAME
"""
HOW, TRAINING = "What to prune and measure", "Training"
PLACES = {
    **dict.fromkeys(("model", "dataset", "checkpoint", "pruners", "metrics"), WHAT),
    **dict.fromkeys(("densities", "seeds", "control", "options"), WHAT),
    **dict.fromkeys(("layers", "prune_layers", "granularity", "scope", "objective"), HOW),
    **dict.fromkeys(("prune_at", "score_samples", "bases"), HOW),
    **dict.fromkeys(("device", "engine"), PANEL),
}
LAYOUT = settings.Layout(FLAGS, PLACES, TRAINING, (WHAT, HOW, TRAINING, PANEL), "POLYKIT_ANALYZE_")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(
    command_of(AnalyzeConfig, LAYOUT, launch_any(AnalyzeConfig))
)
