"""`polykit clusters`: which units are driven by several groups of pictures."""

from __future__ import annotations

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, command_of, epilog, launch_any
from polykit.cli.runs import PANEL
from polykit.workflows.clusters.config import FLAGS, ClustersConfig

EXAMPLES = """Find units whose strongest pictures fall into several groups, and rank them.

\b
  polykit clusters
  polykit clusters --layer conv2 --unit 0-7 --pca 10 --scale standardise
  polykit clusters --model alexnet --weights DEFAULT --data imagefolder:DIR --layer features.10
  polykit clusters --model mine:network --checkpoint mine.safetensors --data imagefolder:DIR
  polykit clusters --model alexnet --data imagefolder:DIR,workers=2 --epochs 0 --dry-run
  polykit clusters --resume runs/NAME
"""
READING, HOW, TRAINING = "How to read the units", "How to cluster", "Training"
PLACES = {
    **dict.fromkeys(("model", "dataset", "checkpoint", "seed", "options", "split"), WHAT),
    **dict.fromkeys(("layers", "units"), WHAT),
    **dict.fromkeys(("position", "center", "at", "precision", "shard_size"), READING),
    **dict.fromkeys(("eval_batch_size", "montage", "thumbnail"), READING),
    **dict.fromkeys(("top", "min_cluster_size", "min_samples", "scale", "pca"), HOW),
    **dict.fromkeys(("resamples", "nulls", "sensitivity"), HOW),
    **dict.fromkeys(("device", "engine", "threads"), PANEL),
}
LAYOUT = settings.Layout(
    FLAGS, PLACES, TRAINING, (WHAT, READING, HOW, TRAINING, PANEL), "POLYKIT_CLUSTERS_"
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(
    command_of(ClustersConfig, LAYOUT, launch_any(ClustersConfig))
)
