"""`polykit basis`: interaction graphs, and the modules in them."""

from __future__ import annotations

from typing import Any

import typer

from polykit.cli import settings
from polykit.cli.launch import (
    WHAT,
    ConfigOption,
    DataRootOption,
    DownloadOption,
    DryRunOption,
    WeightsOption,
    epilog,
    launch,
)
from polykit.cli.runs import (
    PANEL,
    RUNS,
    JsonOption,
    OutOption,
    ReportOption,
    ResumeOption,
    RunsDirOption,
)
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


def basis(
    ctx: typer.Context,
    weights: WeightsOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = None,
    out: OutOption = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
    report: ReportOption = True,
    **fields: Any,
) -> None:
    """See EXAMPLES, which is what `--help` shows."""
    launch(
        ctx,
        BasisConfig,
        fields,
        weights=weights,
        data_root=data_root,
        download=download,
        file=config,
        dry_run=dry_run,
        resume=resume,
        out=out,
        runs_dir=runs_dir,
        as_json=as_json,
        report=report,
    )


settings.add_fields(basis, BasisConfig, LAYOUT)
app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(basis)
