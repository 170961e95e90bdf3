"""The tables of an analysis: results, differences, by basis, all statistics."""

from __future__ import annotations

from polykit.report.analyze import numbers
from polykit.report.analyze.bases import by_basis
from polykit.report.numbers import Estimate, Quantity, finite, select
from polykit.report.tables import Cell, Table, difference, exact, spread, spread_note
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

_NETWORK = ["seed", "pruner", "density", "stage"]


def all_tables(run: SavedRun) -> list[Table]:
    """Return the tables that have rows: results, differences, by basis, all statistics."""
    made = [results(run), differences(run), by_basis(run), statistics(run)]
    return [table for table in made if table.rows]


def results(run: SavedRun) -> Table:
    """One row per pruner, density and stage, with what the run was made for side by side."""
    performance = numbers.task(run)
    quantities = [*([performance] if performance else []), *numbers.headlines(run)]
    quantities.append(Quantity("density", "effective_density", "effective density"))
    quantities += [
        Quantity(quantity.metric, "silent", "silent units") for quantity in numbers.headlines(run)
    ]
    found = [(q, select(run.rows, q.metric, q.statistic)) for q in quantities]
    columns = [(quantity, numbers.by_network(table)) for quantity, table in found if len(table)]
    rows = []
    achieved = numbers.by_network(run.rows.drop_duplicates(_NETWORK), "achieved_density")
    for network, reached in achieved.items():
        pruner, density, stage = network
        values = [spread(column.get(network)) for _, column in columns]
        rows.append((Cell(pruner), Cell(stage), exact(density), spread(reached), *values))
    heads = ("pruner", "stage", "density", "achieved density", *(q.noun for q, _ in columns))
    return Table(
        "results",
        "Results",
        f"Whole network. Means over seeds{spread_note(run.rows)}.",
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
                    exact(c.density),
                    difference(c.change),
                    Cell(_reading(c.change)),
                    difference(c.control),
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
    rows = finite(run.rows[run.rows["layer"] == ALL_LAYERS])
    keys = ["metric", "statistic", "pruner", "stage", "density"]
    made = []
    for key, part in rows.groupby(keys, sort=False):
        cells = [Cell(str(name)) for name in key[:-1]]
        density = float(part["density"].iloc[0])
        made.append((*cells, exact(density), spread(part["value"])))
    return Table(
        "statistics",
        "All statistics",
        f"Whole network. Means over seeds{spread_note(run.rows)}. Single seeds, layers and "
        "units are in rows.parquet and units.parquet beside this page.",
        (*keys, "value"),
        (False, False, False, False, True, True),
        tuple(made),
    )


def _reading(found: Estimate | None) -> str:
    if found is None:
        return "–"
    if found.half is None:
        return "one seed"
    return "yes" if found.clear else "no"
