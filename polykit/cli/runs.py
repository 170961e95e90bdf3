"""`polykit runs`: what was run, what came of it, and once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polykit.cli.group import state_of
from polykit.cli.output import new_table, print_json, print_table, say
from polykit.errors import RunError, UsageError, did_you_mean
from polykit.workflows.config import value_text

if TYPE_CHECKING:
    from polykit.session import Run

app = typer.Typer(
    help="List, show and repeat saved runs.",
    epilog="Start with:  polykit runs list  ·  polykit runs show NAME",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

COLUMNS = ("workflow", "model", "dataset", "pruners", "densities", "seeds")
RUNS = Path("runs")
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or directory.")]
PANEL = "The run"
RunsDirOption = Annotated[
    Path,
    typer.Option(
        envvar="POLYKIT_RUNS",
        metavar="DIR",
        help="The folder that holds the runs.",
        rich_help_panel=PANEL,
    ),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Continue an interrupted run.", rich_help_panel=PANEL),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The run's own directory; by default a new one in --runs-dir.",
        rich_help_panel=PANEL,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=PANEL)
]
ReportOption = Annotated[
    bool,
    typer.Option("--report/--no-report", help="Write the report page, too.", rich_help_panel=PANEL),
]
TrackersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Follow the run in tensorboard or mlflow; repeatable, or POLYKIT_TRACKERS.",
        rich_help_panel=PANEL,
    ),
]


@app.command("list")
def list_runs(
    ctx: typer.Context, runs_dir: RunsDirOption = RUNS, as_json: JsonOption = False
) -> None:
    """List the runs of a folder."""
    from polykit import session

    runs = [(run.path, _meta(run)) for run in session.list_runs(runs_dir)]
    if as_json:
        print_json({"runs": [{"run": str(path), **meta} for path, meta in runs]})
        return
    table = new_table("run", "status", *COLUMNS)
    for path, meta in runs:
        about = {"workflow": meta.get("workflow", ""), **meta["config"]}
        if "scenarios" in about:
            about["dataset"] = [scenario["name"] for scenario in about["scenarios"]]
            about["pruners"] = about["pruner"]
        texts = (value_text(about.get(name, "")) for name in COLUMNS)
        table.add_row(path.name, meta["status"], *texts)
    if runs:
        print_table(table)
    else:
        say(f"no runs in {runs_dir}")


@app.command()
def show(run: RunArgument, runs_dir: RunsDirOption = RUNS, as_json: JsonOption = False) -> None:
    """Show a run's configuration and its results."""
    from polykit import session
    from polykit.cli import results

    found = session.open_run(locate(run, runs_dir))
    if not as_json:
        say(f"status  {found.status}")
        for name, value in found.meta["config"].items():
            say(f"{name:<16} {value_text(value)}")
        for cell, message in found.failures.items():
            say(f"failed  {cell}: {message}")
        say("")
    results.show(found, as_json=as_json)


@app.command()
def rerun(
    ctx: typer.Context,
    run: RunArgument,
    runs_dir: RunsDirOption = RUNS,
    out: OutOption = None,
    as_json: JsonOption = False,
    report: ReportOption = True,
    trackers: TrackersOption = None,
) -> None:
    """Run again with a saved run's configuration, into a new directory."""
    from polykit import session
    from polykit.cli.results import carry_out

    path = locate(run, runs_dir)
    carry_out(
        state_of(ctx),
        lambda registry: session.rerun(path, registry, out=out, runs_dir=runs_dir),
        as_json=as_json,
        report=report,
        trackers=trackers or (),
    )


def locate(run: str, runs_dir: Path) -> Path:
    """Return the directory of a run given by path or by name; raise UsageError for neither."""
    for path in (Path(run), runs_dir / run):
        if path.is_dir():
            return path
    known = [path.name for path in runs_dir.iterdir()] if runs_dir.is_dir() else []
    raise UsageError(
        f"no run {run!r}, neither here nor in {runs_dir}.{did_you_mean(run, known)} "
        f"`polykit runs list` shows all"
    )


def _meta(run: Run) -> dict[str, Any]:
    """Read `run.json`; a damaged one must not hide the other runs."""
    try:
        return run.meta
    except RunError as error:
        return {"status": "damaged", "problem": str(error), "config": {}}
