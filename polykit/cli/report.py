"""`polykit report`: the page of a saved run."""

from __future__ import annotations

import typer

from polykit.cli.output import say
from polykit.cli.runs import RUNS, RunArgument, RunsDirOption, locate

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Start with:  polykit report runs/NAME")
def report(run: RunArgument, runs_dir: RunsDirOption = RUNS) -> None:
    """Write report.html, one self-contained page, into the run and print where it is."""
    from polykit import session

    say(str(session.write_report(locate(run, runs_dir))))
