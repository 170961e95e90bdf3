"""The networks behind the data: the feature model and the encoder, as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import linear as apply

Importance = Literal["uniform", "normal", "laplace"]

SPREAD = 3**-0.5
"""Standard deviation of the weights: that of U(−1, 1), whatever their distribution."""


@dataclass(frozen=True)
class Maps:
    """Affine maps one after another: weights `[out, in]` and biases `[out]`.

    With `straight` there is no nonlinearity anywhere.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    straight: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Size of the input and of each map's output."""
        return (self.weights[0].shape[1], *(weight.shape[0] for weight in self.weights))


class Encoder(Maps):
    """Maps features `[n, q]` to inputs `[n, inputs]`, or inputs back: ReLU between the maps.

    Works on the device and in the float type of what it is given.
    """

    def __call__(self, features: Tensor) -> Tensor:
        """Encode feature vectors, row by row."""
        x = features
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.relu(x) if layer and not self.straight else x
            x = apply(x, weight.to(x), bias.to(x))
        return x


class FeatureMaps(Maps):
    """A feature model: a map into each layer of features in turn, the last one to the labels.

    The features are the values of the hidden layers, before the nonlinearity: ReLU, between all
    maps but the first two. The first map is only used by the seed search.
    """

    @property
    def hidden(self) -> tuple[int, ...]:
        """Number of features in each layer, q in all."""
        return self.sizes[1:-1]

    @property
    def is_affine(self) -> bool:
        """Whether the features are affine functions of the seed vector."""
        return self.straight or len(self.hidden) <= 2

    def activations(self, seeds: Tensor) -> Tensor:
        """Compute the features `[n, q]` that seed vectors `[n, q]` give."""
        return torch.cat(self._values(seeds)[:-1], dim=1)

    def labels(self, seeds: Tensor) -> Tensor:
        """Compute the labels `[n, outputs]` of seed vectors `[n, q]`."""
        return self._values(seeds)[-1]

    def readout(self, features: Tensor) -> Tensor:
        """Compute labels `[n, outputs]` from features `[n, q]` themselves, exactly.

        With f_l the features of layer l, h_1 = f_1, h_l = f_l + ReLU(W_l h_{l−1} + b_l), and
        y = W_out h_L + b_out (no ReLU if `straight`).
        """
        first, *later = torch.split(features, list(self.hidden), dim=1)
        h = first
        for part, weight, bias in zip(later, self.weights[1:], self.biases[1:], strict=False):
            h = part + self._bend(apply(h, weight, bias))
        return apply(h, self.weights[-1], self.biases[-1])

    def _values(self, seeds: Tensor) -> list[Tensor]:
        values = [seeds]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = self._bend(values[-1]) if layer > 1 else values[-1]
            values.append(apply(h, weight, bias))
        return values[1:]

    def _bend(self, h: Tensor) -> Tensor:
        return h if self.straight else torch.relu(h)


def draw_feature_maps(
    hidden: Sequence[int],
    outputs: int,
    *,
    importance: Importance,
    threshold: float,
    linear: bool,
    generator: Generator | None = None,
) -> FeatureMaps:
    """Draw a feature model: sizes q → `hidden` (q in all) → `outputs`, biases 0.5 − W·(0.5, …)."""
    sizes = [sum(hidden), *hidden, outputs]
    weights = tuple(draw_weight(b, a, importance, threshold, generator) for a, b in pairwise(sizes))
    return FeatureMaps(weights, tuple(0.5 - weight.sum(1) / 2 for weight in weights), linear)


def draw_weight(
    rows: int,
    columns: int,
    importance: Importance = "uniform",
    threshold: float = 0.05,
    generator: Generator | None = None,
) -> Tensor:
    """Draw `[rows, columns]` weights; those below the threshold become zero.

    A row with fewer than two others gets new ones, drawn without the threshold, in random places
    that were zero (Plettscher, §3.2.1). U(−1, 1), or a normal or Laplace distribution as wide.
    """
    weight = _draw((rows, columns), importance, generator)
    weight[weight.abs() < threshold] = 0
    for row in weight:
        zero = (row == 0).nonzero().squeeze(1)
        lacking = min(2, columns) - (columns - len(zero))
        if lacking > 0:
            places = zero[torch.randperm(len(zero), generator=generator)[:lacking]]
            row[places] = _draw((lacking,), importance, generator)
    return weight


def _draw(shape: tuple[int, ...], importance: Importance, generator: Generator | None) -> Tensor:
    """Draw from the importance function; never an exact zero, which would be no weight."""
    if importance == "normal":
        values = SPREAD * torch.randn(shape, generator=generator)
    else:
        uniform = 2 * torch.rand(shape, generator=generator) - 1
        values = uniform
        if importance == "laplace":
            size = -torch.log1p(-uniform.abs().clamp(max=1 - 2**-24)) * SPREAD / 2**0.5
            values = size.copysign(uniform)
    return torch.where(values == 0, torch.full_like(values, 2**-24), values)
