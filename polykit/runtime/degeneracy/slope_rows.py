"""What one batch says about a layer: rows of activations and of slopes, with the constant's column.

The constant 1 of f = (1, f_1, …, f_d) feeds the biases behind the layer, so the outputs y have a
slope along it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Ones = Literal["carry", "exo"]
"""Which biases the 1 of a layer feeds: those of all later layers, or of the next one only."""

INPUT = "input"
"""The name under which the network's own input, flattened, can be asked for as a layer."""


@dataclass(frozen=True)
class Rows:
    """Rows of one layer of d units: `activations [n, d + 1]` and `slopes [m, e]`.

    Without `into` the slopes are ∂y/∂(1, f), e = d + 1. With it they are those of `into f`, of
    width e, to be multiplied by `into [e, d + 1]` in the end.
    """

    activations: Tensor
    slopes: Tensor
    into: Tensor | None = None


def double(tensor: Tensor) -> Tensor:
    """Return a tensor detached and in float64, on the CPU where the device has none (mps)."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers in float64, to stand in for its own."""
    return {
        name: double(tensor)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point()
    }


def with_one(values: Tensor) -> Tensor:
    """Put the constant's column before `values [n, d]`."""
    return torch.cat([values.new_ones(len(values), 1), values], dim=1)
