"""How far apart two groups of values lie, and how sure that is.

Values are one per picture, `[n]`. Groups need not be of one size. A bootstrap draws pictures, with
replacement, within each group: `draws` says how often each is drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gaussian_kde, rankdata

from polykit.errors import UsageError

Floats = NDArray[np.float64]

_GRID = 512
CONFIDENCE = 0.95


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Return the chance that a positive exceeds a negative, in [0, 1]; ties count one half.

    The area under the ROC curve, by the rank sum (Mann and Whitney 1947). 1/2 is chance.

    >>> auc([3, 4], [1, 2]), auc([1, 2], [1, 2])
    (1.0, 0.5)
    """
    high, low = _group(positives), _group(negatives)
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() / len(high) - (len(high) + 1) / 2) / len(low))


def cohens_d(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Return the difference of means in pooled standard deviations (Cohen 1988, §2.5).

    The pooled variance weighs each group's by its degrees of freedom. 0 where the means are equal;
    ±∞ where they differ and no group varies, or each is a single value.

    >>> round(cohens_d([1.0, 5.0], [0.0, 2.0, 4.0]), 3)
    0.433
    """
    high, low = _group(positives), _group(negatives)
    gap = float(high.mean() - low.mean())
    squares = sum(float(np.square(part - part.mean()).sum()) for part in (high, low))
    if gap == 0:
        return 0.0
    freedom = len(high) + len(low) - 2
    return float(gap / np.sqrt(squares / freedom)) if squares else float(np.copysign(np.inf, gap))


def overlap(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Return the overlap coefficient ∫ min(p, q), in [0, 1]: 1 where the distributions agree.

    Densities are Gaussian kernel estimates with Scott's bandwidth, so the result lies somewhat
    above that of the true densities. A group that does not vary is a point, which overlaps with
    nothing but the same point.

    >>> round(overlap([0.0, 0.1, 0.2], [10.0, 10.1, 10.2]), 3)
    0.0
    """
    high, low = _group(positives), _group(negatives)
    if np.ptp(high) == 0 or np.ptp(low) == 0:
        return float(np.ptp(high) == np.ptp(low) and high[0] == low[0])
    kernels = [gaussian_kde(part) for part in (high, low)]
    reach = 4 * max(float(np.sqrt(kernel.covariance[0, 0])) for kernel in kernels)
    both = np.concatenate([high, low])
    grid = np.linspace(both.min() - reach, both.max() + reach, _GRID)
    common = np.minimum(*(kernel(grid) for kernel in kernels))
    return float(np.clip(np.trapezoid(common, grid), 0, 1))


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Pearson's correlation, in [−1, 1]; 0 where one does not vary: nothing is shared.

    >>> correlation([1, 2, 3], [2, 4, 6]), correlation([1, 2, 3], [5, 5, 5])
    (1.0, 0.0)
    """
    first, second = _group(a), _group(b)
    return float(correlation_of_draws(first, second, np.ones((1, len(first))))[0])


def draws(n: int, times: int, rng: np.random.Generator) -> Floats:
    """Return how often each of `n` pictures is in each of `times` bootstrap samples `[times, n]`.

    >>> draws(3, 2, np.random.default_rng(0)).sum(axis=1).tolist()
    [3.0, 3.0]
    """
    return rng.multinomial(n, np.full(n, 1 / n), size=times).astype(float)


def auc_of_draws(
    positives: ArrayLike, negatives: ArrayLike, drawn: Floats, drawn_negatives: Floats
) -> Floats:
    """Return the AUC of each bootstrap sample `[times]`.

    Holds one comparison per pair of a positive and a negative.
    """
    high, low = _group(positives), _group(negatives)
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    pairs = drawn.sum(axis=1) * drawn_negatives.sum(axis=1)
    return np.asarray(((drawn @ wins) * drawn_negatives).sum(axis=1) / pairs)


def correlation_of_draws(a: ArrayLike, b: ArrayLike, drawn: Floats) -> Floats:
    """Return Pearson's correlation in each bootstrap sample `[times]`; 0 where one is constant."""
    first, second = _standard(_group(a)), _standard(_group(b))
    share = drawn / drawn.sum(axis=1, keepdims=True)
    mean = share @ first, share @ second
    covariance = share @ (first * second) - mean[0] * mean[1]
    squares = [
        share @ np.square(x) - np.square(m) for x, m in zip((first, second), mean, strict=True)
    ]
    scale = np.sqrt(np.clip(squares[0], 0, None) * np.clip(squares[1], 0, None))
    flat = scale < 1e-9
    return np.where(flat, 0.0, np.clip(covariance / np.where(flat, 1.0, scale), -1, 1))


def interval(values: Floats) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap values: the percentile interval (Efron 1979)."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _group(values: ArrayLike) -> Floats:
    group = np.asarray(values, dtype=float)
    if group.ndim != 1 or not len(group):
        raise UsageError("a group of values is a list of at least one number")
    if not np.isfinite(group).all():
        raise UsageError("a group of values holds NaN or infinity; look at the network's weights")
    return group


def _standard(values: Floats) -> Floats:
    """Centre and scale, so that sums of squares lose no digits; a constant becomes 0."""
    centred = values - values.mean()
    deviation = float(centred.std())
    if deviation <= 1e-12 * float(np.abs(values).max()):
        return np.zeros_like(values)
    scaled: Floats = centred / deviation
    return scaled
