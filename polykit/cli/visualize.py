"""`polykit visualize`: what a unit looks for, and where in its pictures it finds it."""

from __future__ import annotations

from typing import Any

import typer

from polykit.cli import settings
from polykit.cli.launch import (
    WHAT,
    ClustersArgument,
    ConfigOption,
    DryRunOption,
    epilog,
    launch_below,
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
    ctx: typer.Context,
    run: ClustersArgument = None,
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
    launch_below(
        ctx,
        VisualizeConfig,
        fields,
        run=run,
        folder="visualizations",
        file=config,
        dry_run=dry_run,
        resume=resume,
        out=out,
        runs_dir=runs_dir,
        as_json=as_json,
        report=report,
    )


settings.add_fields(visualize, VisualizeConfig, LAYOUT)
app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(visualize)
