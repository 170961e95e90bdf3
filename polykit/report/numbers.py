"""The numbers behind figures and words: which quantities a run has, and what they come to.

Everything is a mean over seeds with a two-sided 95 % t-interval; differences are paired by seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from polykit.report.style import CONTROL, DENSE
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

CONFIDENCE = 0.95
STAGES = ("pruned", "retrained")
Network = tuple[str, float, str]
"""Pruner, density and stage: one network per seed."""
DENSE_NETWORK: Network = (DENSE, 1.0, DENSE)
_NO_VALUES = pd.Series(dtype=float)
_BOOKKEEPING = ("loss", "accuracy", "density", "parameters", "flops")


@dataclass(frozen=True)
class Quantity:
    """One statistic of one metric, with its description, unit of measure and range."""

    metric: str
    statistic: str
    summary: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def noun(self) -> str:
        """What to call it in a sentence."""
        plain = self.metric in _BOOKKEEPING
        return self.summary if plain else f"{self.summary} ({self.metric})"

    @property
    def axis(self) -> str:
        """What to write at an axis: name and unit of measure."""
        return f"{self.summary} ({self.unit})" if self.unit else self.summary


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half` is half the width of its interval, None with a single seed."""

    mean: float
    n: int
    half: float | None = None

    @property
    def low(self) -> float:
        """Lower end of the interval; the mean itself where there is no interval."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; the mean itself where there is no interval."""
        return self.mean + (self.half or 0.0)

    @property
    def clear(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        return self.half is not None and not self.low <= 0.0 <= self.high


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


def estimate(values: Iterable[float]) -> Estimate:
    """Return mean and t-interval half width t(0.975, n−1)·s/√n of finite values, at least one.

    >>> e = estimate([1.0, 2.0, 3.0])
    >>> e.mean, e.n, round(e.half, 3)
    (2.0, 3, 2.484)
    >>> estimate([4.0])
    Estimate(mean=4.0, n=1, half=None)
    """
    sample = np.asarray(list(values), dtype=float)
    n = len(sample)
    if n == 1:
        return Estimate(float(sample[0]), 1)
    quantile = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * float(sample.std(ddof=1)) / math.sqrt(n)
    return Estimate(float(sample.mean()), n, half)


def paired(ours: pd.Series[float], theirs: pd.Series[float]) -> Estimate | None:
    """Return the estimate of ours − theirs over the seeds both have; None if there are none."""
    difference = (ours - theirs).dropna()
    return estimate(difference) if len(difference) else None


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows whose value is no number; `page` says how many those are."""
    return rows[np.isfinite(rows["value"].astype(float))]


def headlines(run: SavedRun) -> list[Quantity]:
    """Return the headline of every metric that has one and was measured, bookkeeping left out."""
    found = []
    for record in _metric_records(run.meta):
        metric, statistic = _label(record), str(record.get("headline") or "")
        if record.get("name") not in _BOOKKEEPING and _has(run, metric, statistic):
            found.append(describe(run, metric, statistic))
    return found


def task(run: SavedRun) -> Quantity | None:
    """Return what tells how well the network does its task: accuracy, else loss, else None."""
    measured = (name for name in ("accuracy", "loss") if _has(run, name, name))
    name = next(measured, None)
    return describe(run, name, name) if name else None


def describe(run: SavedRun, metric: str, statistic: str) -> Quantity:
    """Return a statistic with what the run's record of its metric says about it."""
    records = {_label(record): record for record in _metric_records(run.meta)}
    column = (records.get(metric, {}).get("columns") or {}).get(statistic) or {}
    low, high = column.get("low"), column.get("high")  # None where JSON has no infinity to write
    if metric == "accuracy":
        low, high = 0.0, 1.0
    return Quantity(
        metric,
        statistic,
        str(column.get("summary") or statistic.replace("_", " ")),
        str(column.get("unit") or ""),
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )


def _metric_records(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((meta.get("plugins") or {}).get("metrics") or [])


def _label(record: Mapping[str, Any]) -> str:
    return str(record.get("label") or record.get("name"))


def _has(run: SavedRun, metric: str, statistic: str) -> bool:
    return not select(run.rows, metric, statistic).empty


def select(
    rows: pd.DataFrame, metric: str, statistic: str, layer: str = ALL_LAYERS
) -> pd.DataFrame:
    """Return the finite rows of one statistic of one layer."""
    wanted = (rows["metric"] == metric) & (rows["statistic"] == statistic)
    return finite(rows[wanted & (rows["layer"] == layer)])


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
