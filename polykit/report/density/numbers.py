"""The numbers of a density study, with the statistics of Schoots et al., Propensity for density.

The null hypothesis says that the core, the weights left at the effective density, does not grow
with the width: a network of another width then has the core of its counterpart at scale 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from polykit.report.numbers import Estimate, estimate, label
from polykit.runtime.store import SavedRun

NETWORK = ("scale", "init", "optimizer", "seed", "data_seed")
"""What tells networks apart."""

_COUNTERPART = ["pruner", "optimizer", "init", "seed", "data_seed"]


@dataclass(frozen=True)
class Width:
    """All networks of one width, by one pruner and optimiser; shares in [0, 1].

    `null` is what the null hypothesis expects, None without counterparts; `p` is that of an
    unpaired two-sided t-test between the two, None where it cannot be made.
    """

    pruner: str
    optimizer: str
    scale: float
    parameters: int
    density: Estimate
    sd: float
    core: Estimate
    null: float | None
    null_sd: float
    p: float | None


def effective(run: SavedRun) -> pd.DataFrame:
    """Return one row per network and pruner that crossed the threshold."""
    return run.tables["effective"].dropna(subset=["density"])


def reference(table: pd.DataFrame) -> float:
    """Return the width that the others are compared with: 1, or what comes nearest as a factor."""
    scales = table["scale"].unique()
    return float(min(scales, key=lambda scale: (abs(math.log(scale)), scale)))


def with_null(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `null`: core of the counterpart / own weights, at most 1; missing without one.

    The counterpart has the same seeds, optimiser and initialisation at the width of reference.
    Source: Schoots et al., §4.2.
    """
    at = table[table["scale"] == reference(table)] if len(table) else table
    cores = at.set_index(_COUNTERPART)["core"].rename("counterpart")
    joined = table.join(cores, on=_COUNTERPART)
    share = (joined["counterpart"] / joined["parameters"]).clip(upper=1.0)
    return joined.drop(columns="counterpart").assign(null=share)


def widths(run: SavedRun) -> list[Width]:
    """Return the rows of the paper's Table 2: one per pruner, optimiser and width."""
    table = effective(run)
    if table.empty:
        return []
    table, at = with_null(table), reference(table)
    found = []
    for pruner, optimizer, rows in by_study(run, table):
        for _, part in rows.groupby("scale"):
            scale = float(part["scale"].iloc[0])
            null = part["null"].dropna().to_numpy()
            p = t_test(part["density"].to_numpy(), null) if scale != at else None
            found.append(
                Width(
                    pruner,
                    optimizer,
                    scale,
                    int(part["parameters"].iloc[0]),
                    estimate(part["density"]),
                    deviation(part["density"].to_numpy()),
                    estimate(part["core"]),
                    float(null.mean()) if len(null) else None,
                    deviation(null),
                    p,
                )
            )
    return found


def pruners(run: SavedRun) -> list[str]:
    """Return the pruners whose densities the run has, in the order in which they were asked for."""
    known = [label(record) for record in (run.meta.get("plugins") or {}).get("pruners") or []]
    found = sorted(run.tables["effective"]["pruner"].unique())
    return [*(name for name in known if name in found), *(n for n in found if n not in known)]


def by_study(run: SavedRun, table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield pruner, optimiser and their rows of a table.

    The paper pools initialisations, seeds and splits of those.
    """
    for pruner in pruners(run):
        for optimizer, part in table[table["pruner"] == pruner].groupby("optimizer"):
            yield pruner, str(optimizer), part


def studies(run: SavedRun) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield pruner, optimiser and their rows of `effective`."""
    yield from by_study(run, effective(run))


def anova(part: pd.DataFrame) -> float | None:
    """Return the p-value of a one-way analysis of variance of core sizes over widths.

    None with fewer than two widths of two networks each, or without any variance.
    """
    groups = [g["core"].to_numpy() for _, g in part.groupby("scale") if len(g) > 1]
    if len(groups) < 2 or all(float(np.ptp(group)) == 0 for group in groups):
        return None
    return _finite(stats.f_oneway(*groups).pvalue)


def t_test(found: np.ndarray, expected: np.ndarray) -> float | None:
    """Return the p-value of an unpaired two-sided t-test; None without two values or variance."""
    if min(len(found), len(expected)) < 2 or (np.ptp(found) == 0 and np.ptp(expected) == 0):
        return None
    told = [
        number
        for values in (found, expected)
        for number in (float(values.mean()), deviation(values), len(values))
    ]
    return _finite(stats.ttest_ind_from_stats(*told).pvalue)


def kernel_density(values: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """Return the Gaussian kernel density estimate (Scott's rule); None without two values."""
    if len(values) < 2 or float(np.ptp(values)) == 0:
        return None
    return np.asarray(stats.gaussian_kde(values)(at))


def deviation(values: np.ndarray) -> float:
    """Return the sample standard deviation, 0 of a single value and of equal ones.

    >>> deviation(np.full(3, 0.96)), deviation(np.array([1.0]))
    (0.0, 0.0)
    """
    return float(np.std(values, ddof=1)) if len(values) and np.ptp(values) > 0 else 0.0


def _finite(p: float) -> float | None:
    return float(p) if math.isfinite(p) else None


def summary(run: SavedRun) -> pd.DataFrame:
    """Return one row per pruner, optimiser and width; densities are shares, `p` may be missing."""
    columns = ["networks", "weights", "density", "sd", "null_density", "core", "p"]
    index = ["pruner", "optimizer", "scale"]
    rows = [
        (
            w.pruner,
            w.optimizer,
            w.scale,
            w.density.n,
            w.parameters,
            w.density.mean,
            w.sd,
            math.nan if w.null is None else w.null,
            w.core.mean,
            math.nan if w.p is None else w.p,
        )
        for w in widths(run)
    ]
    return pd.DataFrame(rows, columns=[*index, *columns]).set_index(index)


def overlaps(run: SavedRun) -> pd.DataFrame:
    """Return how many of the smallest weights stay the smallest, by network and layer."""
    return run.rows[run.rows["metric"] == "small-weights"]
