"""The effects of pruning: contrasts paired by seed, with intervals, p-values and their correction.

A world is a scenario with a seed, its data and its first network; a setting is a scenario with a
share of dropout. Every contrast is averaged over the ratios within a world first, and only then
over worlds: networks of one world are not independent of each other. With every ratio in every
world that is what a mixed model of the differences with a random intercept per seed gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import stdtr

from polykit.report.numbers import CONFIDENCE, Estimate, estimate, t_quantile
from polykit.report.style import CONTROL, DENSE

PRUNED, SCRATCH, UNPRUNED = "pruned", "scratch", "unpruned"
WORLD = ["scenario", "dropout", "seed"]
NETWORK = [*WORLD, "arm", "ratio"]
SIGNIFICANT = 0.05
_ALIKE = 1e3  # t beyond which the spread of differences is no more than rounding
Setting = tuple[str, float]
"""Scenario and dropout."""

CONTRASTS: Mapping[str, tuple[str, str]] = {
    "pruning": (PRUNED, UNPRUNED),
    "choice": (PRUNED, CONTROL),
    "history": (PRUNED, SCRATCH),
    "retraining": (UNPRUNED, DENSE),
    "total": (PRUNED, DENSE),
}
"""Contrast → the arms whose difference it is.

`pruning` is the question: what pruning adds to retraining at the same learning rate and epochs.
`choice` and `history` compare equal widths: with random units removed, and trained from scratch.
`total` = `retraining` + `pruning` is what one sees without the controls.
"""


@dataclass(frozen=True)
class Size:
    """A standardised effect: mean over standard deviation of the paired differences, with ends."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """One contrast in one setting, averaged over `ratios`.

    `percent` is the same as a share of the dense network's value. `corrected` is Holm's p-value in
    the family of all settings of this contrast. Both p-values are None with a single seed.
    """

    scenario: str
    dropout: float
    contrast: str
    estimate: Estimate
    percent: Estimate | None
    p: float | None
    corrected: float | None
    ratios: tuple[float, ...]

    @property
    def significant(self) -> bool:
        """Whether it is there after correction."""
        return self.corrected is not None and self.corrected < SIGNIFICANT


def by_world(rows: pd.DataFrame) -> pd.DataFrame:
    """Spread rows of one statistic of one layer: worlds down, (arm, ratio) across."""
    table = rows.drop_duplicates(NETWORK)
    return table.pivot(index=WORLD, columns=["arm", "ratio"], values="value").sort_index(axis=1)


def settings(values: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Take a table of worlds apart by scenario and dropout, in order of appearance."""
    scenarios = values.index.get_level_values("scenario")
    dropouts = values.index.get_level_values("dropout")
    for scenario, dropout in dict.fromkeys(zip(scenarios, dropouts, strict=True)):
        inside = (scenarios == scenario) & (dropouts == dropout)
        yield (str(scenario), float(dropout)), values[inside]


def effects(values: pd.DataFrame) -> list[Effect]:
    """Return every contrast of every setting that has a world with both arms.

    `values` is spread as by `by_world`.
    """
    found, dense = [], dense_values(values)
    for contrast in CONTRASTS:
        family = []
        for (scenario, dropout), part in settings(differences(values, contrast)):
            table = balanced(part)
            if table.size:
                each = table.mean(axis=1)
                share = percent(each, dense)
                made = estimate(each)
                family.append(
                    Effect(
                        scenario,
                        dropout,
                        contrast,
                        made,
                        estimate(share) if len(share) else None,
                        p_value(made),
                        None,
                        tuple(ratio for ratio in map(float, table.columns) if ratio > 0),
                    )
                )
        corrected = holm([effect.p for effect in family])
        found += [replace(e, corrected=p) for e, p in zip(family, corrected, strict=True)]
    return found


def world_percents(values: pd.DataFrame, contrast: str) -> pd.Series[float]:
    """Return a contrast of each world in percent of its dense network's value."""
    tables = [balanced(part) for _, part in settings(differences(values, contrast))]
    parts = [table.mean(axis=1) for table in tables if table.size]
    return percent(pd.concat(parts), dense_values(values)) if parts else pd.Series(dtype=float)


def dense_values(values: pd.DataFrame) -> pd.Series[float]:
    """Return the dense network's value of each world."""
    dense = _side(values, DENSE)
    return pd.Series(dtype=float) if dense.empty else dense.iloc[:, 0]


def percent(each: pd.Series[float], dense: pd.Series[float]) -> pd.Series[float]:
    """Return values of worlds in percent of their dense network's value; worlds without one go."""
    if dense.empty:
        return pd.Series(dtype=float)
    share = 100 * each / dense.abs().reindex(each.index)
    return share[np.isfinite(share)]


def differences(values: pd.DataFrame, contrast: str) -> pd.DataFrame:
    """Return ours − theirs: worlds down, ratios across (0 where neither arm is pruned).

    What was not pruned is compared with every ratio of what was.
    """
    ours, theirs = (_side(values, arm) for arm in CONTRASTS[contrast])
    if ours.empty or theirs.empty:
        return pd.DataFrame(index=values.index[:0])
    if CONTRASTS[contrast][1] in (DENSE, UNPRUNED):
        return ours.sub(theirs.iloc[:, 0], axis=0)
    shared = [ratio for ratio in ours.columns if ratio in theirs.columns]
    return ours[shared] - theirs[shared]


def _side(values: pd.DataFrame, arm: str) -> pd.DataFrame:
    if arm not in values.columns.get_level_values("arm"):
        return pd.DataFrame(index=values.index)
    side = pd.DataFrame(values.xs(arm, axis=1, level="arm"))
    whole = side.columns.astype(float) == 0
    return side.loc[:, whole if arm in (DENSE, UNPRUNED) else ~whole].dropna(how="all")


def balanced(table: pd.DataFrame) -> pd.DataFrame:
    """Return the worlds and ratios of the largest block without gaps; more worlds win a tie.

    A mean over different ratios in different worlds would mix the worlds' spread with the ratios'.

    >>> balanced(pd.DataFrame({0.1: [1.0, 2.0, 3.0], 0.5: [4.0, 5.0, None]}))
       0.1  0.5
    0  1.0  4.0
    1  2.0  5.0
    """
    there = table.notna().to_numpy()
    order = np.argsort(-there.sum(axis=1), kind="stable")
    most, worlds, ratios = 0, order[:0], there[:0].any(axis=0)
    for count in range(1, len(order) + 1):
        complete = there[order[:count]].all(axis=0)
        if 0 < count * int(complete.sum()) >= most:
            most, worlds, ratios = count * int(complete.sum()), np.sort(order[:count]), complete
    return table.iloc[worlds, np.flatnonzero(ratios)]


def p_value(found: Estimate) -> float | None:
    """Return the two-sided p-value of a mean of differences; None with a single seed.

    >>> round(p_value(estimate([1.0, 2.0, 3.0])), 4)
    0.0742
    >>> p_value(estimate([0.0, 0.0]))
    1.0
    """
    if found.half is None:
        return None
    if found.half == 0:
        return 0.0 if found.mean else 1.0
    return float(2 * stdtr(found.n - 1, -abs(_t(found))))


def standardised(found: Estimate) -> Size | None:
    """Return d_z = mean / s of paired differences with its 95 % interval.

    The interval inverts the noncentral t distribution (Cumming & Finch 2001). None with a single
    seed, or where all differences are alike, as far as rounding lets one see.
    """
    if not found.half or abs(_t(found)) > _ALIKE:
        return None
    from scipy.optimize import brentq
    from scipy.stats import nct

    t, freedom = abs(_t(found)), found.n - 1

    def end(level: float) -> float:
        def off(shift: float) -> float:
            return float(nct.cdf(t, freedom, shift)) - level

        # Step outwards from t, where the distribution is known well; far out it is not a number.
        low, high, step = t, t, 1.0 + t / 4
        while off(low) < 0:
            low -= step
        while off(high) > 0:
            high += step
        return float(brentq(off, low, high)) / math.sqrt(found.n)

    low, high = end(0.5 + CONFIDENCE / 2), end(0.5 - CONFIDENCE / 2)
    value = t / math.sqrt(found.n)
    return Size(value, low, high) if found.mean >= 0 else Size(-value, -high, -low)


def _t(found: Estimate) -> float:
    return float(found.mean * t_quantile(found.n) / (found.half or math.nan))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number (Holm 1979); None stays and does not count.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[place] = highest
    return corrected


def trends(values: pd.DataFrame, actual: pd.DataFrame, arm: str) -> dict[Setting, Estimate]:
    """Return the slope of an arm's values per tenth of the parameters removed, for each setting.

    A straight line is fitted within each world; the estimate is over worlds. `actual` holds the
    pruning ratios that were reached, spread as `values` are.
    """
    found = {}
    heights, places = _side(values, arm), _side(actual, arm) * 10
    for setting, part in settings(heights):
        y = balanced(part)
        x = places.reindex(index=y.index, columns=y.columns)
        x = x.sub(x.mean(axis=1), axis=0)
        square = (x**2).sum(axis=1, skipna=False)
        slope = (x * y).sum(axis=1, skipna=False)[square > 0] / square[square > 0]
        if len(slope):
            found[setting] = estimate(slope)
    return found
