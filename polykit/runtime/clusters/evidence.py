"""Whether clusters are more than chance: they come again, and one blob would not give them.

HDBSCAN without a root cluster splits a blob now and then, and stability alone does not tell: a
density that is singular, as behind a ReLU, has stable modes. So a split must pass both questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from polykit.runtime.clusters.clustering import (
    NOISE,
    Labels,
    Partition,
    Recipe,
    Vectors,
    distances,
    embed,
    partition,
)

SHARE = 1 - math.exp(-1)
"""Share of the points in a subsample: as many as a bootstrap sample has different ones."""

DISSOLVED = 0.5
"""A cluster whose mean Jaccard index is not above this has dissolved (Hennig 2008)."""

LEVEL = 0.05
"""How often one blob may be taken for several clusters."""


@dataclass(frozen=True)
class Confirmed:
    """Clusters that passed, and what was found on the way.

    `labels`: the confirmed clusters, biggest first, −1 for noise and for clusters that dissolved;
    all 0 where no split is confirmed. `stability` is by cluster of `labels` (empty without a
    split). `found` is what HDBSCAN alone said. `p` is the chance of a split as strong in one blob,
    1 where there was nothing to test.
    """

    labels: Labels
    probabilities: NDArray[np.float64]
    stability: tuple[float, ...]
    found: Partition
    p: float

    @property
    def clusters(self) -> int:
        """How many clusters are confirmed; 1 where all stay together, 0 where there is nothing."""
        return int(self.labels.max(initial=NOISE)) + 1


def find_clusters(
    vectors: Vectors,
    mean: Vectors,
    std: Vectors,
    recipe: Recipe,
    draw: np.random.Generator,
    *,
    resamples: int = 20,
    nulls: int = 39,
) -> Confirmed:
    """Cluster vectors `[n, d]` and keep the clusters that pass both tests.

    They must come again in subsamples: mean Jaccard index above one half, in at least two
    clusters. And of `nulls` single blobs with the vectors' own moments (`one_blob`) at most one
    in twenty may be split as strongly, through the same recipe; as strongly means as large a
    `strength`. `mean` and `std` `[d]` are of all pictures, for the recipe's scale.

    Time: that of (1 + resamples) partitions, and of as many for each null that is split at all.

    >>> draw = np.random.default_rng(0)
    >>> x = np.repeat([[0.0, 0.0], [9.0, 0.0]], 30, axis=0) + draw.normal(size=(60, 2))
    >>> found = find_clusters(x, x.mean(0), x.std(0), Recipe(), draw)
    >>> found.clusters, found.p
    (2, 0.025)
    """
    apart = distances(embed(vectors, recipe, mean, std))
    found = partition(apart, recipe)
    together = Confirmed(
        np.zeros(len(vectors), dtype=np.int64), np.ones(len(vectors)), (), found, 1.0
    )
    if found.clusters < 2:
        return together
    lasts = stability(found.labels, apart, recipe, draw, resamples)
    lasting = [int(c) for c in np.flatnonzero(lasts > DISSOLVED)]
    if len(lasting) < 2:
        return together
    blob = one_blob(vectors, draw)
    observed = strength(found.labels, lasts)

    def as_strong() -> bool:
        made = distances(embed(blob(draw), recipe, mean, std))
        split = partition(made, recipe)
        again = comebacks(split.labels, made, recipe, draw, resamples)
        return reaches(observed, split, again, resamples)

    p = monte_carlo(as_strong, nulls)
    if p > LEVEL:
        return Confirmed(together.labels, together.probabilities, (), found, p)
    lasting.sort(key=lambda cluster: -int(np.sum(found.labels == cluster)))
    labels = np.full(len(vectors), NOISE)
    for place, cluster in enumerate(lasting):
        labels[found.labels == cluster] = place
    probabilities = np.where(labels == NOISE, 0.0, found.probabilities)
    return Confirmed(labels, probabilities, tuple(float(lasts[c]) for c in lasting), found, p)


def stability(
    labels: Labels, apart: Vectors, recipe: Recipe, draw: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Return for each cluster how well it comes again when a subsample is clustered `[clusters]`.

    The mean over subsamples of the largest Jaccard index with a cluster found there, on the points
    drawn (Hennig 2007). Subsamples without replacement: points drawn twice would be infinitely
    dense places.
    """
    return np.mean(list(comebacks(labels, apart, recipe, draw, resamples)), axis=0)  # type: ignore[no-any-return]


def comebacks(
    labels: Labels, apart: Vectors, recipe: Recipe, draw: np.random.Generator, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Yield each cluster's largest Jaccard index `[clusters]` in one subsample after the other."""
    n, clusters = len(labels), int(labels.max(initial=NOISE)) + 1
    count, again = round(SHARE * n), recipe.smaller(SHARE)
    for _ in range(resamples):
        drawn = np.sort(draw.choice(n, count, replace=False))
        there = partition(apart[np.ix_(drawn, drawn)], again).labels
        yield jaccard(labels[drawn], there, clusters)


def jaccard(ours: Labels, theirs: Labels, clusters: int) -> NDArray[np.float64]:
    """Return each of our clusters' largest Jaccard index with one of theirs, 0 if there is none.

    >>> jaccard(np.array([0, 0, 1, -1]), np.array([1, 1, 0, 0]), 2).tolist()
    [1.0, 0.5]
    """
    others = int(theirs.max(initial=NOISE)) + 1
    if others == 0:
        return np.zeros(clusters)
    our = ours[:, None] == np.arange(clusters)
    their = theirs[:, None] == np.arange(others)
    both = our.T.astype(float) @ their
    either = our.sum(0)[:, None] + their.sum(0) - both
    return (both / np.maximum(either, 1)).max(1)  # type: ignore[no-any-return]


def strength(labels: Labels, stable: NDArray[np.float64]) -> float:
    """Return the share of points that come again in the same cluster: Σ size · Jaccard / n."""
    sizes = np.bincount(labels[labels != NOISE], minlength=len(stable))
    return float((sizes * stable).sum() / len(labels))


def reaches(
    observed: float, split: Partition, comebacks: Iterator[NDArray[np.float64]], resamples: int
) -> bool:
    """Whether a split is as strong as `observed`; looks at no more subsamples than that takes."""
    if split.clusters < 2:
        return False
    shares = np.bincount(split.labels[split.labels != NOISE]) / len(split.labels)
    left, total = resamples, 0.0
    while total + left * shares.sum() >= observed * resamples:
        if left == 0:
            return True
        total += float(shares @ next(comebacks))
        left -= 1
    return False


def monte_carlo(as_strong: Callable[[], bool], draws: int) -> float:
    """Return the share of the observed and `draws` of the null that are as strong as observed.

    Stops as soon as the result must lie above LEVEL (Besag & Clifford 1991).
    """
    reached = 0
    for made in range(1, draws + 1):
        reached += as_strong()
        if 1 + reached > LEVEL * (draws + 1):
            return (1 + reached) / (1 + made)
    return (1 + reached) / (1 + draws)


def one_blob(
    vectors: Vectors, draw: np.random.Generator, rounds: int = 4
) -> Callable[[np.random.Generator], Vectors]:
    """Fit a single blob to vectors `[n, d]` and return what draws as many from it.

    A normal distribution, cut off at 0 in the coordinates that are never negative and often 0, as
    behind a ReLU. Each coordinate has the vectors' mean and its share of zeros (or its standard
    deviation, where nothing is cut off); the correlations behind the cut are found by `rounds` of
    moment matching on a large sample, which meet those of the vectors to about 0.02.
    """
    n, width = vectors.shape
    zeros = (vectors == 0).mean(0)
    cut = (zeros > 0) & (vectors.min(0) >= 0)
    level = -norm.ppf(np.clip(zeros, 0.5 / n, 1 - 0.5 / n))
    spread = np.where(
        cut, vectors.mean(0) / (level * norm.cdf(level) + norm.pdf(level)), vectors.std(0)
    )
    middle = np.where(cut, level * spread, vectors.mean(0))

    def made(normal: Vectors, root: Vectors) -> Vectors:
        values = middle + spread * (normal @ root)
        return np.where(cut, np.maximum(values, 0.0), values)  # type: ignore[no-any-return]

    wanted = _correlations(vectors)
    sample = draw.standard_normal((max(2000, 2 * width), width))
    root = _root(wanted)
    if cut.any():
        behind = wanted
        for _ in range(rounds):
            behind = behind + wanted - _correlations(made(sample, root))
            root = _root(behind)
    return lambda generator: made(generator.standard_normal((n, width)), root)


def _correlations(values: Vectors) -> Vectors:
    """Correlations `[d, d]`; 0 with what is constant, 1 with itself."""
    deviation = values.std(0)
    scaled = (values - values.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    found = scaled.T @ scaled / len(values)
    np.fill_diagonal(found, 1.0)
    return found  # type: ignore[no-any-return]


def _root(correlations: Vectors) -> Vectors:
    """The symmetric root of the nearest matrix that can be one of correlations."""
    values, axes = np.linalg.eigh(correlations)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    return root / np.linalg.norm(root, axis=0)  # type: ignore[no-any-return]
