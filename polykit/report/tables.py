"""The tables of the page: text for the eye and a key to sort by, for every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from polykit.report import numbers, words
from polykit.report.numbers import Estimate, Quantity
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

_NETWORK = ["seed", "pruner", "density", "stage"]


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by: a number, or None for text and for what is missing."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with its heading; `numeric` says which columns hold numbers."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def all_tables(run: SavedRun) -> list[Table]:
    """Return the tables that have rows: results, differences, all statistics."""
    made = [results(run), differences(run), statistics(run)]
    return [table for table in made if table.rows]


def results(run: SavedRun) -> Table:
    """One row per pruner, density and stage, with what the run was made for side by side."""
    performance = numbers.task(run)
    quantities = [*([performance] if performance else []), *numbers.headlines(run)]
    quantities.append(Quantity("density", "effective_density", "effective density"))
    quantities += [
        Quantity(quantity.metric, "silent", "silent units") for quantity in numbers.headlines(run)
    ]
    found = [(q, numbers.select(run.rows, q.metric, q.statistic)) for q in quantities]
    columns = [(quantity, numbers.by_network(table)) for quantity, table in found if len(table)]
    rows = []
    achieved = numbers.by_network(run.rows.drop_duplicates(_NETWORK), "achieved_density")
    for network, reached in achieved.items():
        pruner, density, stage = network
        values = [_estimated(column.get(network)) for _, column in columns]
        rows.append((Cell(pruner), Cell(stage), _density(density), _estimated(reached), *values))
    heads = ("pruner", "stage", "density", "achieved density", *(q.noun for q, _ in columns))
    return Table(
        "results",
        "Results",
        f"Whole network. Means over seeds{_interval_note(run)}.",
        heads,
        (False, False, *(True,) * (len(heads) - 2)),
        tuple(rows),
    )


def differences(run: SavedRun) -> Table:
    """One row per quantity, pruner, density and stage: change from dense, difference to random."""
    performance = numbers.task(run)
    quantities = [*numbers.headlines(run), *([performance] if performance else [])]
    rows = []
    for quantity in quantities:
        for c in numbers.compare(run, quantity):
            rows.append(
                (
                    Cell(quantity.noun),
                    Cell(c.pruner),
                    Cell(c.stage),
                    _density(c.density),
                    _difference(c.change),
                    Cell(_reading(c.change)),
                    _difference(c.control),
                    Cell(_reading(c.control)),
                )
            )
    return Table(
        "differences",
        "Differences",
        "Paired by seed. In brackets: 95\u00a0% t-interval; “no” means that it includes 0.",
        (
            "quantity",
            "pruner",
            "stage",
            "density",
            "change from dense",
            "differs from dense",
            "difference to random",
            "differs from random",
        ),
        (False, False, False, True, True, False, True, False),
        tuple(rows),
    )


def statistics(run: SavedRun) -> Table:
    """Every statistic of the whole network; layers and units are in the run's tables."""
    rows = numbers.finite(run.rows[run.rows["layer"] == ALL_LAYERS])
    keys = ["metric", "statistic", "pruner", "stage", "density"]
    made = []
    for key, part in rows.groupby(keys, sort=False):
        cells = [Cell(str(name)) for name in key[:-1]]
        density = float(part["density"].iloc[0])
        made.append((*cells, _density(density), _estimated(part["value"])))
    return Table(
        "statistics",
        "All statistics",
        f"Whole network. Means over seeds{_interval_note(run)}. Single seeds, layers and units are "
        "in rows.parquet and units.parquet beside this page.",
        (*keys, "value"),
        (False, False, False, False, True, True),
        tuple(made),
    )


def _interval_note(run: SavedRun) -> str:
    return " ± half the width of the 95\u00a0% t-interval" if run.rows["seed"].nunique() > 1 else ""


def _density(value: float) -> Cell:
    return Cell(f"{value:g}", value)


def _estimated(values: pd.Series[float] | None) -> Cell:
    if values is None or values.empty:
        return Cell("–")
    found = numbers.estimate(values)
    spread = ""
    if found.half and found.half > 1e-9 * abs(found.mean):  # else rounding noise of equal seeds
        spread = f" ± {words.number(found.half, found.mean)}"
    return Cell(f"{words.number(found.mean)}{spread}", found.mean)


def _difference(found: Estimate | None) -> Cell:
    return Cell("–") if found is None else Cell(words.interval(found), found.mean)


def _reading(found: Estimate | None) -> str:
    if found is None:
        return "–"
    if found.half is None:
        return "one seed"
    return "yes" if found.clear else "no"


def pairs(table: Sequence[tuple[str, object]] | dict[str, object]) -> list[tuple[str, str]]:
    """Write names and values as text, nested ones as `outer.inner`.

    >>> pairs({"lr": 0.001, "options": {"force": {"rounds": 5}}, "seeds": [0, 1]})
    [('lr', '0.001'), ('options.force.rounds', '5'), ('seeds', '0, 1')]
    """
    found: list[tuple[str, str]] = []
    for name, value in dict(table).items():
        if isinstance(value, dict):
            found += [(f"{name}.{inner}", text) for inner, text in pairs(value)]
        elif isinstance(value, (list, tuple)):
            found.append((str(name), ", ".join(str(part) for part in value) or "none"))
        else:
            found.append((str(name), "none" if value is None else str(value)))
    return found
