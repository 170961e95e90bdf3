"""Modules found in graphs whose modules are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from polykit.runtime.degeneracy.interactions import interactions
from polykit.runtime.degeneracy.modules import ALONE, Links, find_modules, links_of, rewired
from polykit.runtime.degeneracy.nodes import nodes_of
from polykit.runtime.degeneracy.slopes import INPUT, gather
from polykit.runtime.passes.trace import trace
from polykit.testing.modular import modular

LAYERS = [INPUT, "0", "2", "4"]
SEEDS = range(3)


def planted(seed: int, coupling: float, basis, origin) -> tuple[list[Tensor], Tensor, float]:
    """The graph of a network of known parts, each node's part, and the variance of its outputs."""
    made = modular(seed, coupling=coupling)
    path = trace(made.model, made.x)
    factors = gather(made.model, [made.x], path, LAYERS)
    nodes = {layer: nodes_of(factors[layer], basis, origin) for layer in LAYERS}
    y = made.model(made.x)
    parts = torch.cat([made.parts_of(layer) for layer in nodes.values()])
    edges = interactions(made.model, [made.x], path, nodes)
    return edges, parts, float((y - y.mean(dim=0)).square().sum(dim=1).mean())


def recovered(coupling: float, basis, origin, cutoff: float, resolution: float = 1.0) -> float:
    """The adjusted Rand index of modules and parts, mean over seeds."""
    found = []
    for seed in SEEDS:
        edges, parts, variance = planted(seed, coupling, basis, origin)
        modules = find_modules(links_of(edges, cutoff * variance), resolution=resolution)
        labels = torch.cat(modules.members)
        linked = labels != ALONE
        found.append(adjusted_rand_score(parts[linked], labels[linked]))
    return float(np.mean(found))


@pytest.mark.parametrize("basis", ["interaction", "neuron", "pca"])
def test_planted_modules_are_recovered(basis) -> None:
    for resolution in (0.25, 1.0):
        assert recovered(0.0, basis, "mean", 1e-6, resolution) > 0.95


def test_they_are_lost_in_the_means_where_the_origin_is_zero() -> None:
    """What METHODS found: values that all parts share a mean of mix in uncentred directions."""
    centred = recovered(0.0, "interaction", "mean", 1e-4)
    assert centred > 0.8
    assert recovered(0.0, "interaction", "zero", 1e-4) < 0.6 * centred


@pytest.mark.parametrize("basis", ["interaction", "neuron"])
def test_they_are_lost_as_the_parts_are_coupled(basis) -> None:
    found = [recovered(c, basis, "mean", 1e-3, 0.5) for c in (0.0, 0.2, 1.0)]
    assert found[0] > 0.8
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.1


def brute(edges: list[Tensor], cutoff: float, labels: np.ndarray) -> tuple[float, float]:
    """Modularity and the share between modules, pair by pair."""
    sizes = [edges[0].shape[1], *map(len, edges)]
    starts = np.cumsum([0, *sizes])
    W = np.zeros((sum(sizes), sum(sizes)))
    for place, E in enumerate(edges):
        w = np.log10(np.maximum(E.numpy() / cutoff, 1))
        rows, columns = slice(*starts[place + 1 : place + 3]), slice(*starts[place : place + 2])
        W[rows, columns], W[columns, rows] = w, w.T
    k, total = W.sum(axis=1), W.sum()
    same = labels[:, None] == labels[None]
    return float((same * (W / total - np.outer(k, k) / total**2)).sum()), float(
        (~same * W).sum() / total
    )


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(0, 10_000),
    st.floats(0.01, 10),
    st.floats(0.2, 3),
)
def test_scores_are_those_of_the_definition(sizes, seed, cutoff, resolution) -> None:
    random = torch.Generator().manual_seed(seed)
    edges = [
        torch.randn(b, a, generator=random, dtype=torch.float64).mul(3).exp()
        for a, b in pairwise(sizes)
    ]
    links = links_of(edges, cutoff)
    found = find_modules(links, resolution=resolution, seed=seed)
    labels = torch.cat(found.members).numpy()
    strong = [(E / cutoff).log10() > 0 for E in edges]
    assert found.edges == sum(int(s.sum()) for s in strong)
    degree = torch.zeros(len(labels))
    for place, s in enumerate(strong):
        start = sum(sizes[:place])
        degree[start : start + sizes[place]] += s.sum(dim=0)
        start += sizes[place]
        degree[start : start + sizes[place + 1]] += s.sum(dim=1)
    assert ((labels == ALONE) == (degree == 0).numpy()).all()
    if not found.edges:
        assert (found.modularity, found.between, found.count) == (None, None, 0)
        return
    counts = np.bincount(labels[labels != ALONE])
    assert len(counts) == found.count
    assert (np.diff(counts) <= 0).all()  # largest first
    modularity, between = brute(
        edges, cutoff, np.where(labels == ALONE, -np.arange(1, len(labels) + 1), labels)
    )
    assert found.modularity == pytest.approx(modularity, abs=1e-12)
    assert found.between == pytest.approx(between, abs=1e-12)
    again = find_modules(links, resolution=resolution, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(found.members, again.members, strict=True))


def degrees(links: Links) -> tuple[list[list[int]], list[list[float]]]:
    """How many links each node has on either side, and the strength that leads to it."""
    counts, strengths = [], []
    for i, j, w in links.pairs:
        size = sum(links.sizes)
        counts += [i.bincount(minlength=size).tolist(), j.bincount(minlength=size).tolist()]
        strengths.append(i.bincount(w, minlength=size).tolist())
    return counts, strengths


def test_rewired_links_have_the_same_degrees_and_modules_by_chance_only() -> None:
    edges, _, variance = planted(0, 0.0, "neuron", "mean")
    links = links_of(edges, 1e-4 * variance)
    other = rewired(links, torch.Generator().manual_seed(0))
    assert degrees(links)[0] == degrees(other)[0]
    assert degrees(links)[1] == degrees(other)[1]
    own, chance = (find_modules(one).modularity for one in (links, other))
    assert own > chance + 0.2
