"""One number over scenarios: a sign-flip test over worlds, and an interval for scenarios at large.

The two answer different questions. The test asks whether there is an effect in the worlds that were
run; the interval, from a random-effects model, what to expect of a scenario like these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from polykit.report.numbers import Estimate, estimate, t_quantile

_EXACT = 16  # worlds up to which all 2^n signs are tried
_DRAWS = 20_000


@dataclass(frozen=True)
class Pooled:
    """An effect over scenarios, in percent of the dense network's value.

    `worlds` is the plain mean over worlds with the t-interval that takes them as alike; `at_large`
    the random-effects mean over scenarios (its n counts scenarios, no interval with one of them).
    `p` is of the sign-flip test, None with a single world.
    """

    scenarios: tuple[str, ...]
    worlds: Estimate
    at_large: Estimate
    p: float | None


def pool(values: pd.Series[float]) -> Pooled | None:
    """Pool values of worlds (indexed by scenario and seed, among others); None without any."""
    if values.empty:
        return None
    groups = {str(name): part.to_numpy() for name, part in values.groupby(level="scenario")}
    return Pooled(
        tuple(dict.fromkeys(str(name) for name in values.index.get_level_values("scenario"))),
        estimate(values),
        random_effects(groups),
        sign_flip(values.to_numpy()) if len(values) > 1 else None,
    )


def sign_flip(values: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of a mean under random signs.

    Exact up to 16 values, by 20,000 draws from a fixed seed beyond. The least p-value that n values
    can give is 2^(1−n).

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    least = abs(sample.sum()) * (1 - 1e-12)
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ sample) >= least).mean())
    draws = np.random.default_rng(0).integers(0, 2, (_DRAWS, n), dtype=np.int8)
    hits = int((np.abs((1 - 2 * draws) @ sample) >= least).sum())
    return (hits + 1) / (_DRAWS + 1)


def random_effects(groups: Mapping[str, Sequence[float] | np.ndarray]) -> Estimate:
    """Return the mean over scenarios with its 95 % interval; `n` counts scenarios.

    Spread between scenarios by DerSimonian & Laird (1986), interval by Hartung & Knapp (2001) from
    t with k−1 degrees of freedom. Where a scenario has a single world, or worlds that do not
    differ, its error is not known: then scenarios count alike, with the t-interval of their means.
    """
    means = np.array([float(np.mean(g)) for g in groups.values()])
    k = len(means)
    if k == 1:
        return Estimate(float(means[0]), 1)
    errors = np.array(
        [float(np.var(g, ddof=1)) / len(g) if len(g) > 1 else 0.0 for g in groups.values()]
    )
    if (errors <= 1e-18 * (means**2).max()).any():
        return estimate(means)
    fixed = 1 / errors
    q = float((fixed * (means - (fixed @ means) / fixed.sum()) ** 2).sum())
    scale = float(fixed.sum() - (fixed**2).sum() / fixed.sum())
    between = max(0.0, (q - (k - 1)) / scale)
    weight = 1 / (errors + between)
    mean = float(weight @ means / weight.sum())
    error = float((weight * (means - mean) ** 2).sum()) / ((k - 1) * weight.sum())
    return Estimate(mean, k, t_quantile(k) * math.sqrt(error))
