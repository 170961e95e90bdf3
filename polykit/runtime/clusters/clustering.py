"""Clusters of vectors by density: HDBSCAN on what a recipe makes of them.

HDBSCAN (Campello, Moulavi & Sander 2013) runs on the full matrix of distances with its exact
spanning tree. For the few hundred top pictures of a unit that is as fast as any way in 10
dimensions and the fastest in 256, and subsamples need no distance again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import euclidean_distances

Vectors = NDArray[np.float64]
"""One row per picture `[n, d]`."""

Labels = NDArray[np.int64]
"""The cluster of each picture `[n]`, counted from 0; −1 is noise."""

NOISE = -1

Scale = Literal["none", "standardise", "length"]


@dataclass(frozen=True)
class Recipe:
    """How vectors become clusters.

    `scale`: vectors as they are, standardised by means and deviations over all pictures, or of
    length 1. `pca`: principal components of the vectors at hand to keep, 0 for no projection.
    `min_samples` neighbours make a place dense, the point itself not counted.
    """

    scale: Scale = "none"
    pca: int = 0
    min_cluster_size: int = 5
    min_samples: int = 5

    def smaller(self, share: float) -> Recipe:
        """Return the recipe for a subsample: a cluster shrinks with its sample."""
        return replace(self, min_cluster_size=max(2, round(self.min_cluster_size * share)))


@dataclass(frozen=True)
class Partition:
    """What HDBSCAN says: `labels [n]`, and how firmly each point belongs, in [0, 1]."""

    labels: Labels
    probabilities: NDArray[np.float64]

    @property
    def clusters(self) -> int:
        """How many clusters there are, noise not counted."""
        return int(self.labels.max(initial=NOISE)) + 1

    @property
    def noise_share(self) -> float:
        """Share of the points that belong to no cluster."""
        return float(np.mean(self.labels == NOISE)) if len(self.labels) else 0.0


def embed(vectors: Vectors, recipe: Recipe, mean: Vectors, std: Vectors) -> Vectors:
    """Scale and project vectors `[n, d]` as the recipe says; `mean` and `std` `[d]` are of all.

    What does not vary over all pictures is 0 when standardised, and so is a zero vector at length
    1. Components beyond what the vectors span are left out.

    >>> embed(np.array([[3.0, 4.0]]), Recipe("length"), np.zeros(2), np.ones(2)).tolist()
    [[0.6, 0.8]]
    """
    if recipe.scale == "standardise":
        vectors = (vectors - mean) / np.where(std > 0, std, np.inf)
    elif recipe.scale == "length":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    if recipe.pca and min(vectors.shape) > recipe.pca:
        return PCA(recipe.pca, svd_solver="covariance_eigh").fit_transform(vectors)  # type: ignore[no-any-return]
    return vectors


def distances(vectors: Vectors) -> Vectors:
    """Return all Euclidean distances `[n, n]`."""
    if not len(vectors):
        return np.zeros((0, 0))
    return euclidean_distances(vectors)  # type: ignore[no-any-return]


def partition(apart: Vectors, recipe: Recipe) -> Partition:
    """Cluster points by their distances `apart [n, n]`, which stays as it is.

    Clusters come from the excess of mass, and never all points in one: where HDBSCAN finds no
    split, or there are too few points for two clusters, all points are noise.

    >>> x = np.concatenate([np.arange(8.0), 100 + np.arange(8.0)])[:, None]
    >>> partition(distances(x), Recipe()).clusters
    2
    """
    n = len(apart)
    if n < 2 * recipe.min_cluster_size or n <= recipe.min_samples:
        return Partition(np.full(n, NOISE), np.zeros(n))
    method = HDBSCAN(
        min_cluster_size=recipe.min_cluster_size,
        min_samples=recipe.min_samples + 1,  # scikit-learn counts the point itself
        metric="precomputed",
        copy=True,
    )
    with config_context(assume_finite=True, skip_parameter_validation=True):  # as long as the work
        found = method.fit(apart)
    return Partition(found.labels_.astype(np.int64), found.probabilities_)


def medoids(labels: Labels, apart: Vectors) -> list[int]:
    """Return each cluster's point with the smallest sum of distances to the others of it."""
    places = [np.flatnonzero(labels == cluster) for cluster in range(labels.max(initial=-1) + 1)]
    return [int(here[apart[np.ix_(here, here)].sum(1).argmin()]) for here in places]


def agreement(ours: Labels, theirs: Labels) -> float:
    """Return the adjusted Rand index of two labellings, noise being a class of its own.

    1 for the same, 0 in the mean for labellings that have nothing to do with each other (Hubert &
    Arabie 1985).
    """
    return float(adjusted_rand_score(ours, theirs))


def variants(recipe: Recipe, units: int) -> dict[str, Recipe]:
    """Name other settings that someone might have chosen, to see what hangs on the choice."""
    half, double = max(2, recipe.min_cluster_size // 2), 2 * recipe.min_cluster_size
    made = {
        "as it is": replace(recipe, scale="none", pca=0),
        "standardised": replace(recipe, scale="standardise", pca=0),
        "length 1": replace(recipe, scale="length", pca=0),
        "PCA 10": replace(recipe, scale="none", pca=10),
        "standardised, PCA 10": replace(recipe, scale="standardise", pca=10),
        "length 1, PCA 10": replace(recipe, scale="length", pca=10),
        f"clusters of {half}": replace(recipe, min_cluster_size=half),
        f"clusters of {double}": replace(recipe, min_cluster_size=double),
        f"{2 * recipe.min_samples} neighbours": replace(recipe, min_samples=2 * recipe.min_samples),
    }
    return {n: r for n, r in made.items() if r != recipe and (r.pca == recipe.pca or units > r.pca)}
