"""Seed vectors: inputs of a feature model whose hidden layers come close to given features."""

from __future__ import annotations

import torch
from torch import Tensor

from polykit_builtins.datasets.ground_truth.adam import Adam
from polykit_builtins.datasets.ground_truth.maps import FeatureMaps

CHUNK = 2**15
"""Numbers in a chunk of seed vectors: so few that the search stays in a core's cache."""


@torch.no_grad()
def search_seeds(
    maps: FeatureMaps, features: Tensor, start: Tensor, *, steps: int = 1000, lr: float = 0.01
) -> Tensor:
    """Find seed vectors `[n, q]` for features `[n, q]` by Adam from `start [n, q]`.

    Minimises each sample's mean squared difference between the features and the values of the
    hidden layers. Adam is element-wise, so that all samples as one batch, the sum of their losses,
    go the way that each would go alone. Runs in chunks, which bound the memory (a few megabytes
    beside the result) and do not change it. Source: Plettscher, §3.2.1; Kingma & Ba 2015.
    """
    size = max(1, CHUNK // features.shape[1])
    parts = zip(features.split(size), start.split(size), strict=True)
    found = [_Chunk(maps, part, begin, lr).run(steps) for part, begin in parts]
    return torch.cat(found)


def solve_seeds(maps: FeatureMaps, features: Tensor) -> Tensor:
    """Return the least-squares seed vectors `[n, q]`, those of least norm where many are.

    Only for features that are affine functions of the seed vector (`maps.is_affine`).
    """
    q = features.shape[1]
    exact = FeatureMaps(
        tuple(weight.double() for weight in maps.weights),
        tuple(bias.double() for bias in maps.biases),
        maps.straight,
    )
    origin = exact.activations(torch.zeros(1, q, dtype=torch.float64))
    matrix = exact.activations(torch.eye(q, dtype=torch.float64)) - origin  # [seed, feature]
    solution: Tensor = (features.double() - origin) @ torch.linalg.pinv(matrix)
    return solution.to(features)


class _Chunk:
    """The search for some samples, in memory that is used again at every step.

    Works with residuals r_l = h_l − f_l instead of values h_l. Where no ReLU lies between,
    r_l = W_l r_{l−1} + e_l, with e_l = W_l f_{l−1} + b_l − f_l fixed. The loss's factor 2/q is left
    to Adam, whose ε takes it.
    """

    def __init__(self, maps: FeatureMaps, features: Tensor, start: Tensor, lr: float) -> None:
        self.layers: list[_Layer] = []
        below = None
        for depth, target in enumerate(features.split(list(maps.hidden), dim=1)):
            weight, offset = maps.weights[depth], maps.biases[depth] - target
            bent = depth > 1 and not maps.straight
            if below is not None and not bent:
                offset = offset + below @ weight.T
            self.layers.append(_Layer(weight, offset, below if bent else None))
            below = target
        self.gradient = torch.empty_like(start)
        self.x = start.clone()
        self.adam = Adam(self.x, lr, epsilon=1e-8 * features.shape[1] / 2)

    def run(self, steps: int) -> Tensor:
        for _ in range(steps):
            self._differentiate()
            self.adam.step(self.gradient)
        return self.x

    def _differentiate(self) -> None:
        """Leave the gradient of ½ Σ r² in `gradient`."""
        value = self.x
        for layer in self.layers:
            value = layer.forward(value)
        for above, below in zip(self.layers[:0:-1], self.layers[-2::-1], strict=True):
            above.backward(below.residual)
        torch.mm(self.layers[0].residual, self.layers[0].weight, out=self.gradient)


class _Layer:
    """One map into a layer of features; `before` are the features below if a ReLU lies there."""

    def __init__(self, weight: Tensor, offset: Tensor, before: Tensor | None) -> None:
        self.weight, self.transposed = weight, weight.T.contiguous()
        self.offset, self.residual = offset, torch.empty_like(offset)
        self.before = before
        if before is not None:
            self.bent = torch.empty_like(before, memory_format=torch.contiguous_format)
            self.work = torch.empty_like(self.bent)

    def forward(self, below: Tensor) -> Tensor:
        """Compute the layer's residual from that below (for the first layer: the seeds)."""
        if self.before is not None:
            below = torch.add(below, self.before, out=self.bent).clamp_min_(0)
        return torch.addmm(self.offset, below, self.transposed, out=self.residual)

    def backward(self, below: Tensor) -> None:
        """Add to the gradient of the layer below what it does to this one."""
        if self.before is None:
            below.addmm_(self.residual, self.weight)
        else:
            torch.mm(self.residual, self.weight, out=self.work)
            below.addcmul_(self.work, self.bent.sign_())
