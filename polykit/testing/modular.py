"""Networks whose modules are known, to test what claims to find modules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polykit.runtime.degeneracy.nodes import Nodes
from polykit.runtime.seeds import generator

EACH = 10
"""Inputs of each part."""


@dataclass(frozen=True)
class Modular:
    """An MLP of parallel parts, samples `x [n, inputs]`, and `part [width]` of each unit.

    All layers, the input and the outputs included, have the same width and the same parts.
    """

    model: nn.Sequential
    x: Tensor
    part: Tensor

    def parts_of(self, nodes: Nodes) -> Tensor:
        """Return the part that has most of each node, `[r]`; the constant belongs to none.

        >>> from polykit.runtime.degeneracy.slopes import gather
        >>> from polykit.runtime.degeneracy.nodes import nodes_of
        >>> from polykit.runtime.passes.trace import trace
        >>> made = modular(0, parts=2, width=3)
        >>> factors = gather(made.model, [made.x], trace(made.model, made.x), ["4"])["4"]
        >>> made.parts_of(nodes_of(factors, "neuron", "mean")).tolist()
        [0, 0, 0, 1, 1, 1]
        """
        share = nodes.forward[:, 1:].square()
        sums = torch.zeros(len(share), int(self.part.max()) + 1, dtype=share.dtype)
        return sums.index_add_(1, self.part, share).argmax(dim=1)


def modular(seed: int, *, parts: int = 3, width: int = 6, coupling: float = 0.0) -> Modular:
    """Make a network of three linear layers in `parts` parallel parts of `width` units each.

    Weights within a part are drawn as by He et al., those between parts are `coupling` times as
    large: at 0 there are none, at 1 there are no parts. Every combination of EACH inputs of each
    part is a sample, so that inputs of two parts are not correlated, not even by chance; they are
    drawn from [0, 1], so that they have means.
    """
    random = generator(seed, "modular")
    units = parts * width
    part = torch.arange(parts).repeat_interleave(width)
    factor = torch.where(part[:, None] == part, 1.0, coupling)
    layers: list[nn.Module] = []
    for _ in range(3):
        layer = nn.Linear(units, units)
        with torch.no_grad():
            drawn = torch.randn(units, units, generator=random) * math.sqrt(2 / width)
            layer.weight.copy_(factor * drawn)
            layer.bias.copy_(0.3 * torch.randn(units, generator=random))
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    inputs = torch.rand(parts, EACH, width, generator=random)
    which = torch.cartesian_prod(*[torch.arange(EACH)] * parts)
    x = torch.cat([own[which[:, i]] for i, own in enumerate(inputs)], dim=1)
    return Modular(model, x, part)
