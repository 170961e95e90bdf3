"""The numbers of an analysis: which quantities and networks it has, and what they come to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report.numbers import (
    BOOKKEEPING,
    Estimate,
    Quantity,
    describe,
    estimate,
    finite,
    has,
    label,
    metric_records,
    paired,
    select,
)
from polykit.report.style import CONTROL, DENSE
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

STAGES = ("pruned", "retrained")
Network = tuple[str, float, str]
"""Pruner, density and stage: one network per seed."""
DENSE_NETWORK: Network = (DENSE, 1.0, DENSE)
_NO_VALUES = pd.Series(dtype=float)


@dataclass(frozen=True)
class Comparison:
    """One pruner at one density and stage: its value, and its differences paired by seed.

    `change` is against the dense network, `control` against random pruning at the same density;
    None where no seed has both.
    """

    quantity: Quantity
    pruner: str
    density: float
    stage: str
    value: Estimate
    change: Estimate | None
    control: Estimate | None


def headlines(run: SavedRun) -> list[Quantity]:
    """Return the headline of every metric that has one and was measured, bookkeeping left out."""
    found = []
    for record in metric_records(run.meta):
        metric, statistic = label(record), str(record.get("headline") or "")
        if record.get("name") not in BOOKKEEPING and has(run, metric, statistic):
            found.append(describe(run, metric, statistic))
    return found


def tracked(run: SavedRun) -> list[Quantity]:
    """Return the headlines that were measured after each epoch."""
    table = run.tables["epochs"][["metric", "statistic"]].drop_duplicates()
    return [describe(run, str(m), str(s)) for m, s in table.itertuples(index=False)]


def select_tracked(run: SavedRun, quantity: Quantity) -> pd.DataFrame:
    """Return the finite rows of a tracked quantity, of all layers."""
    table = run.tables["epochs"]
    wanted = table["metric"] == quantity.metric
    return finite(table[wanted & (table["statistic"] == quantity.statistic)])


def task(run: SavedRun) -> Quantity | None:
    """Return what tells how well the network does its task: accuracy, else loss, else None."""
    measured = (name for name in ("accuracy", "loss") if has(run, name, name))
    name = next(measured, None)
    return describe(run, name, name) if name else None


def by_network(table: pd.DataFrame, column: str = "value") -> dict[Network, pd.Series[float]]:
    """Return a column of one statistic of one layer for each network, indexed by seed."""
    found = {}
    for key, part in table.groupby(["pruner", "density", "stage"], sort=False):
        network = (str(key[0]), float(part["density"].iloc[0]), str(key[2]))
        found[network] = part.set_index("seed")[column]
    return found


def pruners(run: SavedRun) -> list[str]:
    """Return the pruners of the rows in order of appearance, the control last."""
    names = [str(name) for name in run.rows["pruner"].unique() if name != DENSE]
    return sorted(names, key=lambda name: name == CONTROL)


def densities(run: SavedRun) -> list[float]:
    """Return the densities that were asked for and reached the table, highest first."""
    pruned = run.rows[run.rows["pruner"] != DENSE]
    return sorted((float(value) for value in pruned["density"].unique()), reverse=True)


def stages(run: SavedRun) -> list[str]:
    """Return which of pruned and retrained the rows have, in this order."""
    present = set(run.rows["stage"])
    return [stage for stage in STAGES if stage in present]


def compare(run: SavedRun, quantity: Quantity) -> list[Comparison]:
    """Return every pruner × density × stage that has a value, in this order."""
    networks = by_network(select(run.rows, quantity.metric, quantity.statistic))
    dense, found = networks.get(DENSE_NETWORK, _NO_VALUES), []
    for pruner, density, stage in itertools.product(pruners(run), densities(run), stages(run)):
        values = networks.get((pruner, density, stage))
        if values is not None:
            random = networks.get((CONTROL, density, stage), _NO_VALUES)
            control = None if pruner == CONTROL else paired(values, random)
            change, value = paired(values, dense), estimate(values)
            found.append(Comparison(quantity, pruner, density, stage, value, change, control))
    return found


def network_mean(run: SavedRun, metric: str, statistic: str, network: Network) -> float | None:
    """Return the mean of a statistic over the seeds of one network; None if it has no value."""
    values = by_network(select(run.rows, metric, statistic)).get(network)
    return None if values is None else float(values.mean())


def stage_words(meta: Mapping[str, Any]) -> dict[str, str]:
    """Say what the stages are called in this run: it matters when the network was pruned."""
    if (meta.get("config") or {}).get("prune_at") == "init":
        return {"pruned": "before training", "retrained": "after training"}
    return {"pruned": "right after pruning", "retrained": "after retraining"}


def summary(run: SavedRun) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of each metric's headline statistic.

    Index: pruner, density, stage; columns: (metric, mean | sd).
    """
    headlines = {record["label"]: record["headline"] for record in run.meta["plugins"]["metrics"]}
    rows = run.rows[run.rows["layer"] == ALL_LAYERS]
    rows = rows[rows["statistic"] == rows["metric"].map(headlines)]
    table = rows.groupby(["pruner", "density", "stage", "metric"], sort=False)["value"]
    wide = table.agg(mean="mean", sd="std").unstack("metric")
    order = [label for label in headlines if label in wide.columns.get_level_values(1)]
    return wide.swaplevel(axis=1)[[(m, s) for m in order for s in ("mean", "sd")]]
