"""Slopes in forward mode: torch's dual numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad


@contextmanager
def dual_numbers() -> Iterator[None]:
    """Let tensors of `forward_ad.make_dual` carry tangents inside; no gradients are kept."""
    with forward_ad.dual_level(), torch.no_grad(), warnings.catch_warnings():
        # torch deprecates what its own dual numbers load at first
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        yield


def tangent_of(tensor: Tensor) -> Tensor:
    """Return a tensor's tangent, 0 where nothing that has one leads to it.

    >>> with dual_numbers():
    ...     tangent_of(forward_ad.make_dual(torch.tensor(3.0), torch.tensor(1.0)) ** 2)
    tensor(6.)
    """
    tangent = forward_ad.unpack_dual(tensor).tangent
    return torch.zeros_like(tensor) if tangent is None else tangent
