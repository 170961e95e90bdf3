"""Modules of an interaction graph: parts that interact within more than with each other.

Strengths count by their logarithm over a cutoff ε, w = log10(E / ε)₊: how many freedoms of the
parameters an interaction takes from two modules goes with it, and what is below ε takes none
(Bushnaq et al. 2024, App. B.2.3). The Leiden algorithm looks for a partition of high modularity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import graspologic_native
import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from polykit.runtime.seeds import derive

TRIALS = 10
"""Runs of the Leiden algorithm, of which the best is taken."""

ALONE = -1
"""The module of a node that no edge above the cutoff leads to."""


@dataclass(frozen=True)
class Modules:
    """A partition of a graph's nodes, and how well it parts them.

    `members` holds the module of each node, by layer; ALONE for nodes without an edge; the module
    with the most nodes is 0. `modularity` Q = Σ_c [w_c/W − (k_c/2W)²] ∈ [−½, 1) compares the share
    of all log strength within modules with what the nodes' strengths alone would make of it;
    `between` is the share of log strength that crosses modules, ∈ [0, 1]. Both are None where no
    edge is above the cutoff.
    """

    members: tuple[Tensor, ...]
    count: int
    edges: int
    modularity: float | None
    between: float | None


@dataclass(frozen=True)
class Links:
    """The edges of a layered graph above a cutoff, nodes numbered layer by layer.

    `sizes` holds the number of nodes of each layer. Of the edges between two layers that follow,
    `pairs` holds the nodes behind, the nodes before, and w = log10(E / ε) > 0.
    """

    sizes: tuple[int, ...]
    pairs: tuple[tuple[Tensor, Tensor, Tensor], ...]


def links_of(edges: Sequence[Tensor], cutoff: float) -> Links:
    """Return what is above the cutoff ε > 0 of the edges `[nodes behind, nodes before]`.

    `cutoff` is in the unit of the edges.

    >>> links_of([torch.tensor([[1.0, 1e-9]])], 1e-3).pairs
    ((tensor([2]), tensor([0]), tensor([3.])),)
    """
    sizes = (edges[0].shape[1], *(len(E) for E in edges))
    pairs = []
    for (before, behind), E in zip(pairwise(accumulate(sizes[:-1], initial=0)), edges, strict=True):
        w = (E / cutoff).log10().clamp_min(0)
        i, j = w.nonzero(as_tuple=True)
        pairs.append((i + behind, j + before, w[i, j]))
    return Links(sizes, tuple(pairs))


def rewired(links: Links, generator: torch.Generator) -> Links:
    """Return links that keep where they lead and their strengths, but begin at other links' nodes.

    Every node has as many links as before, on either side; links that come to join the same nodes
    add up. What is left has no modules but by chance.

    >>> links = links_of([torch.eye(9)], 0.1)
    >>> i, j, w = rewired(links, torch.Generator().manual_seed(0)).pairs[0]
    >>> sorted(j.tolist()) == links.pairs[0][1].tolist() != j.tolist()
    True
    """
    return Links(
        links.sizes,
        tuple((i, j[torch.randperm(len(j), generator=generator)], w) for i, j, w in links.pairs),
    )


def find_modules(links: Links, *, resolution: float = 1.0, seed: int = 0) -> Modules:
    """Part the nodes of a graph; a higher `resolution` > 0 gives smaller modules.

    Memory: about 100 bytes for each link. Source: Traag et al. 2019, From Louvain to Leiden;
    App. B.2.3 as above.

    >>> found = find_modules(links_of([torch.eye(2), torch.eye(2)], 1e-3))
    >>> found.count, found.between, round(found.modularity, 3)
    (2, 0.0, 0.5)
    """
    graph = _symmetric(links)
    linked = np.diff(graph.indptr) > 0
    labels = np.full(sum(links.sizes), ALONE)
    if not graph.nnz:
        return Modules(_by_layer(labels, links), 0, 0, None, None)
    whole = graph[linked][:, linked]
    _, found = graspologic_native.leiden_csr(
        whole.indptr.astype(np.int64),
        whole.indices.astype(np.int32),
        whole.data,
        whole.shape[0],
        resolution=resolution,
        seed=derive(seed, "leiden"),
        trials=TRIALS,
    )
    own = _by_size(np.array([found[node] for node in range(len(found))]))
    labels[linked] = own
    modularity, between = _scores(whole, own)
    return Modules(
        _by_layer(labels, links), int(own.max()) + 1, graph.nnz // 2, modularity, between
    )


def _symmetric(links: Links) -> sparse.csr_array:
    i, j, w = (torch.cat(parts).numpy() for parts in zip(*links.pairs, strict=True))
    size = sum(links.sizes)
    half = sparse.coo_array((w.astype(float), (i, j)), shape=(size, size))
    return (half + half.T).tocsr()


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Number modules by their size, those of one size by their first node."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(names), dtype=int)
    rank[order] = np.arange(len(names))
    return rank[np.searchsorted(names, labels)]


def _scores(graph: sparse.csr_array, labels: np.ndarray) -> tuple[float, float]:
    """Modularity, and the share of weight between modules."""
    pairs, twice = graph.tocoo(), graph.sum()
    within = pairs.data[labels[pairs.row] == labels[pairs.col]].sum() / twice
    degrees = np.bincount(labels, weights=graph.sum(axis=1)) / twice
    # rounding would make the 0 of a single module something like 1e-15
    return round(float(within - (degrees**2).sum()), 12), round(float(1 - within), 12)


def _by_layer(labels: np.ndarray, links: Links) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.from_numpy(labels).split(list(links.sizes))
    return parts
