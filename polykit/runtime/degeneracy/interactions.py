"""How strongly the nodes of one layer act on those of the next: the edges of an interaction graph.

The part of node i behind that node j before gives, in one sample, is the integrated gradient along
the straight path from the layer's origin, A_ij = f̂_j ∫ ∂f̂'_i/∂f̂_j dα; an edge is its mean square
over samples, E_ij = ⟨A_ij²⟩. Where no direction was dropped, the parts add up: Σ_j A_ij is what
f̂'_i gains on the path. From the origin zero, the constant 1 and the biases it feeds grow with α.
Source: Bushnaq et al. 2024, arXiv:2405.10927, §4 and App. B; Sundararajan et al. 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from polykit.runtime.degeneracy.interaction_paths import Paths, check_follows
from polykit.runtime.degeneracy.nodes import Nodes
from polykit.runtime.degeneracy.relu_chain import Link, relu_chain
from polykit.runtime.degeneracy.slope_rows import INPUT, double, with_one
from polykit.runtime.degeneracy.slopes import NUMBERS
from polykit.runtime.passes.trace import evaluating
from polykit.types import Trace

STEPS = 16
"""Points of the path at which slopes are taken, where the integral has no closed form."""


def interactions(
    model: nn.Module,
    batches: Iterable[Tensor],
    trace: Trace,
    nodes: Mapping[str, Nodes],
    *,
    steps: int = STEPS,
) -> list[Tensor]:
    """Return the edges `[nodes behind, nodes before]` between each two layers next in `nodes`.

    Values are read behind the nonlinearity; INPUT stands for the flattened input. Between linear
    layers with nothing but a ReLU the integral is exact; elsewhere `steps` Gauss–Legendre points
    stand for it, which from the origin zero is exact for ReLUs and poolings, too. A map's node acts
    from all its positions together, and on each position behind for itself: these count as samples.
    In float64. Memory: a batch with its activations, about NUMBERS slopes, and the edges. Raises
    ModelError where the values of a layer do not follow from those of the layer before alone.

    >>> from polykit.runtime.degeneracy.nodes import nodes_of
    >>> from polykit.runtime.degeneracy.slopes import gather
    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(9, 3)
    >>> factors = gather(model, [x], trace(model, x), ["0", "2"])
    >>> nodes = {layer: nodes_of(factors[layer], "pca", "mean") for layer in ["0", "2"]}
    >>> interactions(model, [x], trace(model, x), nodes)[0].shape == (2, len(nodes["0"]))
    True
    """
    links = relu_chain(model, trace)
    places = {name: place for place, name in enumerate((INPUT, *(link.layer for link in links)))}
    ways: list[_Adjacent | Paths] = []
    for before, after in pairwise(nodes):
        if places.get(after) == places.get(before, -1) + 1:
            link = links[places[before]]
            ways.append(_Adjacent(links[: places[before]], link, nodes[before], nodes[after]))
        else:
            pair = (nodes[before], nodes[after])
            ways.append(Paths(model, trace, (before, after), pair, steps, NUMBERS))
    totals = [torch.zeros(len(b), len(a)).double() for a, b in pairwise(nodes.values())]
    samples = 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            if not samples:
                for before, after in pairwise(nodes):
                    check_follows(model, batch, trace, before, after)
            x = double(batch) if batch.is_floating_point() else batch
            samples += len(x)
            totals = [total + way.sums(x).cpu() for total, way in zip(totals, ways, strict=True)]
    return [total / samples for total in totals]


@dataclass(frozen=True)
class _Adjacent:
    """One linear layer, with or without a ReLU, in closed form.

    Along the path each p goes straight from p₀ to p, so that the mean slope of its ReLU is
    (relu(p) − relu(p₀)) / (p − p₀).
    """

    upstream: tuple[Link, ...]
    link: Link
    before: Nodes
    after: Nodes

    def sums(self, x: Tensor) -> Tensor:
        """Return the sum over samples of A²."""
        f = self._values(x)
        values = f @ self.before.forward.T
        into = torch.cat([self.link.bias[:, None], self.link.weight], dim=1)
        gains = with_one(_gains(f @ into.T, into @ self.before.origin, relu=self.link.relu))
        # the 1 is carried on, so that p begins with it, too
        paths = torch.cat([torch.eye(1, into.shape[1]).to(into), into]) @ self.before.backward
        if self.after.neurons is not None:
            own = self.after.neurons
            scale = self.after.forward[torch.arange(len(own)), own]
            weights = gains[:, own].square().T @ values.square()
            return weights * (scale[:, None] * paths[own]).square()
        total = torch.zeros(len(self.after), len(self.before)).to(f)
        rows = max(1, NUMBERS // max(1, len(self.after) * max(paths.shape)))
        for gain, value in zip(gains.split(rows), values.split(rows), strict=True):
            slopes = (self.after.forward * gain[:, None]) @ paths
            total += (slopes * value[:, None]).square().sum(dim=0)
        return total

    def _values(self, x: Tensor) -> Tensor:
        """The layer before, with the constant: `[n, d + 1]`."""
        f = x.flatten(1)
        for link in self.upstream:
            f = torch.addmm(link.bias, f, link.weight.T)
            f = f.relu() if link.relu else f
        return with_one(f)


def _gains(p: Tensor, start: Tensor, *, relu: bool) -> Tensor:
    """The mean slope of what follows p on its way from `start`; 1 where nothing does."""
    if not relu:
        return torch.ones_like(p)
    crosses = (p > 0) != (start > 0)
    share = (p.relu() - start.relu()) / torch.where(crosses, p - start, 1)
    return torch.where(crosses, share, (p > 0).to(p))
