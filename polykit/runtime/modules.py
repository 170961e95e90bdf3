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


def find_modules(
    edges: Sequence[Tensor], cutoff: float, *, resolution: float = 1.0, seed: int = 0
) -> Modules:
    """Part the nodes of consecutive layers whose edges `[nodes behind, nodes before]` are given.

    `cutoff` is ε > 0, in the unit of the edges; a higher `resolution` > 0 gives smaller modules.
    Memory: about 100 bytes for each edge above the cutoff. Source: Traag et al. 2019, From Louvain
    to Leiden; App. B.2.3 as above.

    >>> found = find_modules([torch.eye(2), torch.eye(2)], 1e-3)
    >>> found.count, found.between, round(found.modularity, 3)
    (2, 0.0, 0.5)
    """
    sizes = [edges[0].shape[1], *(len(E) for E in edges)]
    graph = _graph(edges, cutoff, sizes)
    linked = np.diff(graph.indptr) > 0
    labels = np.full(sum(sizes), ALONE)
    if not graph.nnz:
        return Modules(_by_layer(labels, sizes), 0, 0, None, None)
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
        _by_layer(labels, sizes), int(own.max()) + 1, graph.nnz // 2, modularity, between
    )


def shuffled(edges: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return edges with the strengths between two layers dealt out anew among its pairs of nodes.

    What is left has the same strengths between the same layers, and no modules but by chance.

    >>> E = torch.arange(6.0).reshape(2, 3)
    >>> bool((shuffled([E], torch.Generator())[0].sort().values.sum() == E.sum()))
    True
    """
    return [E.flatten()[torch.randperm(E.numel(), generator=generator)].view_as(E) for E in edges]


def _graph(edges: Sequence[Tensor], cutoff: float, sizes: Sequence[int]) -> sparse.csr_array:
    """The symmetric matrix of log strengths above the cutoff, nodes numbered layer by layer."""
    starts = list(accumulate(sizes, initial=0))
    rows, columns, weights = [], [], []
    for (before, behind), E in zip(pairwise(starts[:-1]), edges, strict=True):
        weight = (E / cutoff).log10().clamp_min(0)
        i, j = weight.nonzero(as_tuple=True)
        rows.append(i.numpy() + behind)
        columns.append(j.numpy() + before)
        weights.append(weight[i, j].numpy())
    row, column, data = map(np.concatenate, (rows, columns, weights))
    half = sparse.coo_array((data.astype(float), (row, column)), shape=(starts[-1], starts[-1]))
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
    return float(within - (degrees**2).sum()), float(1 - within)


def _by_layer(labels: np.ndarray, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.from_numpy(labels).split(list(sizes))
    return parts
