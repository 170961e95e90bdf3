"""What every workflow counts with: quantities, and means over seeds with their intervals.

Intervals are two-sided 95 % t-intervals; differences are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

CONFIDENCE = 0.95
BOOKKEEPING = ("loss", "accuracy", "density", "parameters", "flops")


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
        plain = self.metric in BOOKKEEPING
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
    half = t_quantile(n) * float(sample.std(ddof=1)) / math.sqrt(n)
    return Estimate(float(sample.mean()), n, half)


def t_quantile(n: int) -> float:
    """Return t(0.975, n−1), by which an interval over n > 1 values is wider than its error.

    >>> round(t_quantile(5), 3)
    2.776
    """
    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))


def paired(ours: pd.Series[float], theirs: pd.Series[float]) -> Estimate | None:
    """Return the estimate of ours − theirs over the seeds both have; None if there are none."""
    difference = (ours - theirs).dropna()
    return estimate(difference) if len(difference) else None


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows whose value is no number; `page` says how many those are."""
    return rows[np.isfinite(rows["value"].astype(float))]


def select(
    rows: pd.DataFrame, metric: str, statistic: str, layer: str = ALL_LAYERS
) -> pd.DataFrame:
    """Return the finite rows of one statistic of one layer."""
    wanted = (rows["metric"] == metric) & (rows["statistic"] == statistic)
    return finite(rows[wanted & (rows["layer"] == layer)])


def has(run: SavedRun, metric: str, statistic: str) -> bool:
    """Whether a statistic has a finite value for some whole network."""
    return not select(run.rows, metric, statistic).empty


def metric_records(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a run records about its metrics, those that were only tracked included."""
    plugins = meta.get("plugins") or {}
    records = [*(plugins.get("metrics") or []), *(plugins.get("tracked") or [])]
    return list({label(record): record for record in reversed(records)}.values())[::-1]


def label(record: Mapping[str, Any]) -> str:
    """Return what a metric is called in the tables."""
    return str(record.get("label") or record.get("name"))


def describe(run: SavedRun, metric: str, statistic: str) -> Quantity:
    """Return a statistic with what the run's record of its metric says about it."""
    records = {label(record): record for record in metric_records(run.meta)}
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
