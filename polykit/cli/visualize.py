"""`polykit visualize`: what a unit looks for, and where in its pictures it finds it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polykit.cli import settings
from polykit.cli.launch import WHAT, ConfigOption, DryRunOption, epilog, launch
from polykit.cli.runs import (
    PANEL,
    RUNS,
    JsonOption,
    OutOption,
    ReportOption,
    ResumeOption,
    RunsDirOption,
    locate,
)
from polykit.errors import UsageError
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
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run of clusters: its name or directory.")
    ] = None,
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
    place = runs_dir
    if run is not None:
        path = locate(run, runs_dir)
        fields["run"], place = str(path), path / "visualizations"
    elif resume is None:
        raise UsageError("name a run of clusters, e.g. polykit visualize runs/NAME --unit conv3:5")
    launch(
        ctx,
        VisualizeConfig,
        fields,
        file=config,
        dry_run=dry_run,
        resume=resume,
        out=out,
        runs_dir=place,
        as_json=as_json,
        report=report,
    )


settings.add_fields(visualize, VisualizeConfig, LAYOUT)
app.command(help=EXAMPLES, epilog=epilog(LAYOUT))(visualize)
