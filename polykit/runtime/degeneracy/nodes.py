"""The nodes of an interaction graph: coordinates of a layer in which its interactions are told.

In every basis a node is scaled so that the outputs respond to it with mean square slope 1, as they
do in the interaction basis. So what is said of one basis can be compared with another, and does
not change where a unit is scaled up and what reads it is scaled down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polykit.errors import UsageError
from polykit.runtime.degeneracy.bases import TOLERANCE, Basis, neuron_weights
from polykit.runtime.degeneracy.slopes import Factors

Coordinates = Literal["interaction", "neuron", "pca"]
"""Directions of the interaction basis, the units themselves, or principal axes."""

Origin = Literal["zero", "mean"]
"""What values are told from: zero, with a constant 1 among them, or their mean, without."""


@dataclass(frozen=True)
class Nodes:
    """Coordinates f̂ = `forward` f of one layer's f = (1, f_1, …, f_d), and back.

    `forward [r, d + 1]`, `backward [d + 1, r]`. `origin [d + 1]` is the f at which all of f̂ is 0.
    `size [r]` is the mean square of each node: what it counts for, in squared outputs. `neurons
    [r]` says which coordinate of f each node is, 0 for the constant; None where they are mixed.
    """

    forward: Tensor
    backward: Tensor
    origin: Tensor
    size: Tensor
    neurons: Tensor | None

    def __len__(self) -> int:
        return len(self.size)


def nodes_of(factors: Factors, coordinates: Coordinates, origin: Origin) -> Nodes:
    """Return the nodes of a layer from its factors, largest first but for neurons.

    What does not vary from the origin, or that no output responds to, is no node, so that there may
    be none at all. Raises UsageError for coordinates or an origin that are none.

    >>> from polykit.runtime.degeneracy.slopes import gather
    >>> from polykit.runtime.passes.trace import trace
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> x = torch.rand(9, 3)
    >>> factors = gather(model, [x], trace(model, x), ["2"])["2"]
    >>> nodes_of(factors, "neuron", "mean").neurons
    tensor([1, 2])
    """
    if origin not in ("zero", "mean"):
        raise UsageError(f"{origin!r} is no origin; take zero or mean")
    centred = origin == "mean"
    if coordinates == "neuron":
        return _neurons(factors, centred)
    if coordinates not in ("interaction", "pca"):
        raise UsageError(f"{coordinates!r} is no basis; take interaction, neuron or pca")
    basis = factors.basis(coordinates, centred=centred)
    place = basis.constant if centred else torch.zeros_like(basis.constant)
    if coordinates == "pca":
        return _principal(basis, place, factors.J)
    return Nodes(basis.forward, basis.backward, place, basis.spectrum, None)


def _neurons(factors: Factors, centred: bool) -> Nodes:
    F, J = factors.F, factors.J
    forward = backward = torch.eye(F.shape[1], dtype=F.dtype, device=F.device)
    numbers = torch.arange(F.shape[1], device=F.device)
    origin = torch.zeros_like(F[0])
    if centred:
        origin = F.T @ F[:, 0]  # the mean of f, since f begins with 1
        forward, backward = forward[1:] - origin[1:, None] * forward[:1], backward[:, 1:]
        numbers = numbers[1:]
    counts = neuron_weights(F, J, centred=centred)
    used = _above(counts, TOLERANCE**2)
    numbers = numbers[used]
    scale = J.norm(dim=0)[numbers]
    return Nodes(
        forward[used] * scale[:, None], backward[:, used] / scale, origin, counts[used], numbers
    )


def _principal(basis: Basis, origin: Tensor, J: Tensor) -> Nodes:
    """Scale each axis by the slope of the outputs along it; drop those without."""
    slopes = (J @ basis.backward).norm(dim=0)
    used = _above(slopes, TOLERANCE)
    scale = slopes[used]
    return Nodes(
        basis.forward[used] * scale[:, None],
        basis.backward[:, used] / scale,
        origin,
        basis.spectrum[used] * scale.square(),
        None,
    )


def _above(values: Tensor, share: float) -> Tensor:
    """Which values are above a share of the largest; none of none."""
    return values > share * float(values.max()) if len(values) else values.bool()
