"""How the effective density moves with what metrics find: correlations over networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from polykit.report.density import numbers
from polykit.report.numbers import Quantity, describe, metric_records, select
from polykit.report.numbers import label as label_of
from polykit.runtime.clusters.separation import Floats, interval
from polykit.runtime.seeds import derive
from polykit.runtime.store import SavedRun

BOOTSTRAPS = 2000
FEWEST = 10
"""Networks below which no correlation is told: a bootstrap of fewer is too sure of itself."""

ALIKE = ["scale", "init", "optimizer"]
"""What networks share that differ by seed and split only."""

Scope = Literal["pooled", "within"]
Kind = Literal["Spearman", "Pearson"]


@dataclass(frozen=True)
class Relation:
    """A correlation of effective density and a metric's headline, with a bootstrap interval.

    `pooled` is over all networks; `within` compares networks of one width, initialisation and
    optimiser only, so that the width alone cannot make it.
    """

    pruner: str
    quantity: Quantity
    scope: Scope
    kind: Kind
    n: int
    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def pairs(run: SavedRun, pruner: str, quantity: Quantity) -> pd.DataFrame:
    """Return one row per network that has both numbers: its key, `density` and `value`."""
    found = numbers.effective(run)
    found = found[found["pruner"] == pruner]
    values = select(run.rows, quantity.metric, quantity.statistic)
    return found.merge(values[[*numbers.NETWORK, "value"]], on=list(numbers.NETWORK))


def quantities(run: SavedRun) -> list[Quantity]:
    """Return the headline of every metric that has one."""
    records = [record for record in metric_records(run.meta) if record.get("headline")]
    return [describe(run, label_of(record), str(record["headline"])) for record in records]


def relations(run: SavedRun, pruner: str) -> Iterator[Relation]:
    """Yield every correlation for one pruner's effective density that can be told."""
    for quantity in quantities(run):
        table = pairs(run, pruner, quantity)
        if len(table) < FEWEST:
            continue
        group = table.groupby(ALIKE).ngroup().to_numpy()
        x, y = (table[name].to_numpy(dtype=float) for name in ("density", "value"))
        scopes: tuple[Scope, ...] = ("pooled", "within") if len(set(group)) > 1 else ("pooled",)
        for scope in scopes:
            for kind in get_args(Kind):
                seed = derive(0, "relation", pruner, quantity.metric)
                found = correlated(x, y, group, scope, kind, np.random.default_rng(seed))
                if found is not None:
                    yield Relation(pruner, quantity, scope, kind, len(table), *found)


def correlated(
    x: Floats, y: Floats, group: np.ndarray, scope: Scope, kind: Kind, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Return a correlation and its 95 % interval over 2,000 bootstrap samples of networks.

    Networks are drawn within their groups, since those are the design. Within groups, values (or
    ranks in the group) count from their group's mean. None where nothing varies.
    """
    members = [np.flatnonzero(group == number) for number in np.unique(group)]
    value = _correlation(x[None], y[None], members, scope, kind)[0]
    if not np.isfinite(value):
        return None
    drawn = np.empty((BOOTSTRAPS, len(x)), dtype=int)
    for places in members:
        drawn[:, places] = rng.choice(places, size=(BOOTSTRAPS, len(places)))
    samples = _correlation(x[drawn], y[drawn], members, scope, kind)
    return float(value), *interval(samples[np.isfinite(samples)])


def _correlation(
    x: Floats, y: Floats, members: list[np.ndarray], scope: Scope, kind: Kind
) -> Floats:
    """Correlate the rows of two arrays `[samples, n]`; NaN where one does not vary."""
    parts = members if scope == "within" else [np.arange(x.shape[1])]
    first, second = (_centred(values, parts, ranked=kind == "Spearman") for values in (x, y))
    scale = np.sqrt(np.square(first).sum(1) * np.square(second).sum(1))
    with np.errstate(invalid="ignore"):
        return np.asarray((first * second).sum(1) / np.where(scale < 1e-12, np.nan, scale))


def _centred(values: Floats, parts: list[np.ndarray], *, ranked: bool) -> Floats:
    made = np.empty_like(values)
    for places in parts:
        part = rankdata(values[:, places], axis=1) if ranked else values[:, places]
        made[:, places] = part - part.mean(axis=1, keepdims=True)
    return made
