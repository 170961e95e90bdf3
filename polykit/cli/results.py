"""Carries out a run under the eyes of a user, and prints what came of it."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from polykit.api import TRACKERS_VARIABLE
from polykit.cli.group import State
from polykit.cli.output import new_table, note, print_json, print_table, say
from polykit.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from polykit.registry import Registry
    from polykit.session import Run

PARTS, ROWS = 8, 100
"""How many parts of a verdict, and rows of numbers, are printed at most."""


def carry_out(
    state: State,
    start: Callable[[Registry], Run],
    *,
    as_json: bool,
    report: bool,
    trackers: Sequence[str],
) -> None:
    """Run, show progress, print the result; exit 1 if a cell failed.

    `trackers` follow the run, here and in the processes that this one starts. An interruption goes
    on to the caller, with the command that continues the run.
    """
    from polykit import session

    if trackers:
        os.environ[TRACKERS_VARIABLE] = ",".join(trackers)
    registry = state.working_registry()
    display = ProgressDisplay(quiet=state.quiet)
    registry.register(display, "progress", "polykit")
    try:
        run = start(registry)
    except KeyboardInterrupt:
        how = f"polykit run --resume {shlex.quote(str(display.path))}"
        raise KeyboardInterrupt(
            f"interrupted; continue with: {how}" if display.path else "interrupted"
        ) from None
    finally:
        display.stop()
    show(run, as_json=as_json)
    if report:
        page = session.write_report(run.path)
        (note if as_json else say)(f"report  {page}")
    if run.status != "complete":
        raise typer.Exit(1)


def show(run: Run, *, as_json: bool) -> None:
    """Print the run's rows as JSON, or its headline numbers as a table."""
    for line in run.notices:
        note(f"notice: {line}")
    if as_json:
        print_json({"run": str(run.path), "rows": run.rows.to_dict("records")})
        return
    if run.meta["workflow"] == "analyze":
        _print_networks(run)
    else:
        _print_findings(run)
    say(f"run     {run.path}")


def _print_findings(run: Run) -> None:
    """Print the answer in words, then the numbers behind it; the first of them if they are many."""
    verdict = run.verdict()
    say(verdict.answer)
    for name, sentences in verdict.parts[:PARTS]:
        say(f"\n{name}")
        for sentence in sentences:
            say(f"  {sentence}")
    say("")
    numbers = run.summary()
    if numbers.empty:
        return
    first = numbers.head(ROWS)
    table = new_table(*map(str, numbers.index.names), *map(str, numbers.columns))
    for place, row in zip(first.index, first.to_dict("records"), strict=True):
        table.add_row(*(_text(value) for value in (*place, *row.values())))
    print_table(table)
    left = len(numbers) - len(first)
    say(f"and {left} more: polykit runs show --json {run.path}\n" if left else "")


def _text(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _print_networks(run: Run) -> None:
    """Print one line per pruner, density and stage, one column per metric's headline."""
    numbers = run.summary()
    headlines = {metric["label"]: metric["headline"] for metric in run.meta["plugins"]["metrics"]}
    labels = list(dict.fromkeys(numbers.columns.get_level_values(0)))
    titles = [n if n == headlines[n] else f"{n} {headlines[n]}" for n in labels]
    table = new_table("pruner", "density", "stage", *titles)
    for (pruner, density, stage), row in zip(
        numbers.index, numbers.to_dict("records"), strict=True
    ):
        cells = [_spread(row[label, "mean"], row[label, "sd"]) for label in labels]
        table.add_row(pruner, f"{density:g}", stage, *cells)
    print_table(table)
    seeds = run.rows["seed"].nunique()
    say(f"\nmean ± standard deviation over {seeds} seeds" if seeds > 1 else "\none seed")


def _spread(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "–"
    shown = f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.3g}"
    return f"{shown} ± {sd:.2g}" if sd > 0 else shown
