"""How a network's outputs respond to a layer's values: factors of G and M, gathered by batch.

Of each layer two triangular factors are kept up to date: of the activations (1, f), and of the
Jacobians ∂y/∂(1, f). Nothing grows with the number of samples. All in float64.

A unit that has a value at many positions (a channel's map, tokens) gives a sample at each: the
values of all units at a position, and the slopes of the outputs along them.

The constant 1 feeds the biases behind the layer: those of all later layers (`ones="carry"`), or of
the next layer only (`"exo"`). Its slope is shared equally by the positions of a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.degeneracy.bases import (
    TOLERANCE,
    Basis,
    Kind,
    interaction_basis,
    principal_axes,
)
from polykit.runtime.degeneracy.jacobian_rows import jacobian_rows
from polykit.runtime.degeneracy.relu_chain import chain_rows, relu_chain
from polykit.runtime.degeneracy.slope_rows import INPUT, Ones, Rows, double
from polykit.runtime.degeneracy.triangular import append
from polykit.runtime.passes.trace import evaluating
from polykit.types import Trace

__all__ = ["INPUT", "Factors", "Ones", "Place", "add", "find_bases", "gather"]

Place = Literal["pre", "post"]
"""Where a layer is read: before or behind its nonlinearity."""

NUMBERS = 2**21
"""How many entries of Jacobians are held at a time: 16 MB."""


@dataclass(frozen=True)
class Factors:
    """What has been gathered of one layer of d units.

    `activations [m, d + 1]` and `slopes [k, e]` stand for sums over `samples`; they have no more
    rows than columns, and no more than there were. The slopes are those of the layer itself, or of
    what `into [e, d + 1]` maps it to.
    """

    activations: Tensor
    slopes: Tensor
    samples: int
    into: Tensor | None

    def basis(
        self, kind: Kind = "interaction", *, centred: bool = False, tolerance: float = TOLERANCE
    ) -> Basis:
        """Return the layer's interaction basis, or its principal axes (`kind="pca"`)."""
        make = interaction_basis if kind == "interaction" else principal_axes
        return make(self.F, self.J, self.samples, centred=centred, tolerance=tolerance)

    @property
    def F(self) -> Tensor:  # noqa: N802
        """The factor of G = FᵀF, the mean over samples."""
        return self.activations / math.sqrt(self.samples)

    @property
    def J(self) -> Tensor:  # noqa: N802
        """The factor of M = JᵀJ, the mean over samples."""
        slopes = self.slopes / math.sqrt(self.samples)
        return slopes if self.into is None else slopes @ self.into


def gather(
    model: nn.Module,
    batches: Iterable[Tensor],
    trace: Trace,
    layers: Sequence[str],
    *,
    at: Place = "post",
    ones: Ones = "carry",
) -> dict[str, Factors]:
    """Return the factors of `layers` over all `batches` of inputs `[n, *shape]`.

    Layers are read at their first call; INPUT stands for the flattened input. Where a path runs
    beside a layer (a skip connection), the slopes are those along the layer alone. Memory: a batch
    with the activations asked for, NUMBERS entries of Jacobians, and the factors. Raises
    ModelError where the network gives NaN or infinite values, or no single tensor.

    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(9, 3)
    >>> factors = gather(model, [x], trace(model, x), ["0"])["0"]
    >>> factors.samples, factors.F.shape, factors.J.shape
    (9, torch.Size([5, 5]), torch.Size([2, 5]))
    """
    state: dict[str, Factors] = {}
    with evaluating(model):
        for x in batches:
            state = add(state, model, x, trace, layers, at=at, ones=ones)
    return state


def find_bases(
    model: nn.Module,
    batches: Iterable[Tensor],
    trace: Trace,
    layers: Sequence[str],
    kind: Kind = "interaction",
    *,
    at: Place = "post",
    ones: Ones = "carry",
    centred: bool = False,
) -> dict[str, Basis]:
    """Return a basis of each layer from all `batches` of inputs; see `gather` for the arguments.

    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(9, 3)
    >>> find_bases(model, [x], trace(model, x), ["0"])["0"].forward.shape
    torch.Size([2, 5])
    """
    found = gather(model, batches, trace, layers, at=at, ones=ones)
    return {layer: factors.basis(kind, centred=centred) for layer, factors in found.items()}


def add(
    state: dict[str, Factors],
    model: nn.Module,
    x: Tensor,
    trace: Trace,
    layers: Sequence[str],
    *,
    at: Place = "post",
    ones: Ones = "carry",
) -> dict[str, Factors]:
    """Return `state`, {} at first, with one more batch; the model is in evaluation mode."""
    x = double(x) if x.is_floating_point() else x
    chain = relu_chain(model, trace) if at == "post" else ()
    if {INPUT, *(link.layer for link in chain)}.issuperset(layers) and chain:
        rows = chain_rows(chain, x, layers, ones, NUMBERS)
    else:
        rows = jacobian_rows(model, x, trace, layers, ones, NUMBERS, at)
    found = dict(state)
    with torch.no_grad():
        for layer, more in rows:
            found[layer] = _joined(found.get(layer), more)
    for layer, factors in found.items():
        parts = (factors.activations, factors.slopes, factors.into)
        if not all(bool(part.isfinite().all()) for part in parts if part is not None):
            raise ModelError(
                f"layer {layer!r} has NaN or infinite values or slopes; look for NaN in the "
                f"weights, or train with a lower lr"
            )
    return found


def _joined(factors: Factors | None, rows: Rows) -> Factors:
    if factors is None:
        d, e = rows.activations.shape[1], rows.slopes.shape[1]
        zeros = rows.slopes.new_zeros
        factors = Factors(zeros(0, d), zeros(0, e), 0, rows.into)
    return replace(
        factors,
        activations=append(factors.activations, rows.activations),
        slopes=append(factors.slopes, rows.slopes),
        samples=factors.samples + len(rows.activations),
    )
