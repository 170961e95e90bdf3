"""How good clusters are: apart from each other, and of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.special import logsumexp
from sklearn.metrics import silhouette_score

from polykit.runtime.clusters.clustering import NOISE, Labels, Vectors


def silhouette(labels: Labels, apart: Vectors) -> float | None:
    """Return the mean silhouette of the clustered points, in [−1, 1]; noise takes no part.

    (b − a) / max(a, b), a the mean distance to the own cluster, b to the nearest other one
    (Rousseeuw 1987). None where there are fewer than two clusters.
    """
    here = np.flatnonzero(labels != NOISE)
    if len(set(labels[here].tolist())) < 2:
        return None
    return float(silhouette_score(apart[np.ix_(here, here)], labels[here], metric="precomputed"))


def dbcv(labels: Labels, apart: Vectors, dimensions: int) -> float | None:
    """Return the density-based validity of clusters (Moulavi et al. 2014), in [−1, 1].

    Σ_c |c| / n · (separation − sparseness) / max of both, from all-points core distances (Def. 1)
    and the spanning tree of mutual reachability within each cluster, its inner edges (Defs. 5–7).
    Noise counts in n. Powers of distances are summed as logarithms, since r^−256 is no number.
    None where there are fewer than two clusters, or one has fewer than two different points.
    """
    places = [np.flatnonzero(labels == c) for c in range(int(labels.max(initial=NOISE)) + 1)]
    if len(places) < 2:
        return None
    cores = [_core(apart[np.ix_(here, here)], dimensions) for here in places]
    if any(core is None for core in cores):
        return None
    trees = [
        _inner(apart[np.ix_(here, here)], core)
        for here, core in zip(places, cores, strict=True)
        if core is not None
    ]
    total = 0.0
    for one, (mine, (sparseness, inner)) in enumerate(zip(places, trees, strict=True)):
        separation = np.inf
        for other, (theirs, (_, outside)) in enumerate(zip(places, trees, strict=True)):
            if other != one:
                rows, columns = mine[inner], theirs[outside]
                reach = np.maximum(cores[one][inner][:, None], cores[other][outside])  # type: ignore[index]
                between = np.maximum(apart[np.ix_(rows, columns)], reach)
                separation = min(separation, float(between.min()))
        most = max(separation, sparseness)
        total += len(mine) * ((separation - sparseness) / most if most > 0 else 0.0)
    return total / len(labels)


def _core(apart: Vectors, dimensions: int) -> NDArray[np.float64] | None:
    """All-points core distances `[n]`: (Σ (1/distance)^d / (n − 1))^(−1/d), the point left out."""
    n = len(apart)
    others = apart[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    if n < 2 or not others.any():
        return None
    with np.errstate(divide="ignore"):
        powers = -dimensions * np.log(others)
    found = np.exp((np.log(n - 1) - logsumexp(powers, axis=1)) / dimensions)
    return np.where((others == 0).any(1), 0.0, found)  # a twin makes a place infinitely dense


def _inner(apart: Vectors, core: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]]:
    """The sparseness of a cluster, the largest inner edge of its tree, and its inner points.

    Where no edge, or no point, is inner, all of them stand for it.
    """
    reach = np.maximum(np.maximum(core[:, None], core), apart)
    tree = minimum_spanning_tree(np.maximum(reach, np.finfo(float).tiny)).tocoo()
    degree = np.bincount(np.concatenate([tree.row, tree.col]), minlength=len(apart))
    inner = np.flatnonzero(degree > 1)
    inside = (degree[tree.row] > 1) & (degree[tree.col] > 1)
    edges = tree.data[inside] if inside.any() else tree.data
    return float(edges.max()), inner if len(inner) else np.arange(len(apart))


def purest(kinds: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent kind, the first in the alphabet of equals, and its share.

    >>> purest(["frog", "deer", "frog", "car"])
    ('frog', 0.5)
    """
    counts = Counter(kinds)
    name = min(counts, key=lambda kind: (-counts[kind], kind))
    return name, counts[name] / len(kinds)


def heads(name: str) -> frozenset[str]:
    """Return the nouns that a WordNet name ends on, one per synonym.

    Classes that share one are of a kind: terriers, or pandas.

    >>> sorted(heads("lesser panda, red panda, Ailurus fulgens"))
    ['fulgens', 'panda']
    """
    return frozenset(words[-1].lower() for part in name.split(",") if (words := part.split()))


def purest_name(names: Sequence[str]) -> tuple[str, float]:
    """Return the noun that most of the names end on, and the share of names that do; "" if none.

    >>> purest_name(["Norfolk terrier", "Lakeland terrier", "tabby, tabby cat"])
    ('terrier', 0.6666666666666666)
    """
    counts = Counter(word for name in names for word in heads(name))
    if not counts:
        return "", 0.0
    word = min(counts, key=lambda word: (-counts[word], word))
    return word, counts[word] / len(names)


def effective_number(sizes: Sequence[int]) -> float:
    """Return how many equal parts are as diverse as parts of these sizes: exp of their entropy.

    >>> effective_number([5, 5]), effective_number([7])
    (2.0, 1.0)
    """
    shares = np.array([size for size in sizes if size], dtype=float) / sum(sizes)
    return float(np.exp(-(shares * np.log(shares)).sum()))
