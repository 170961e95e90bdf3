"""The straight line between two networks, and what stands in the way on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polykit.runtime.pairs.symmetry import State
from polykit.types import Split

STATISTICS_BATCH, STATISTICS_SAMPLES = 256, 4096
"""Training samples per batch, and at most in all, that renew running statistics."""


def between(a: State, b: State, t: float) -> dict[str, Tensor]:
    """Return the state at (1 − t)·a + t·b; what counts in whole numbers is a's.

    >>> between({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, 0.25)["w"]
    tensor([0.5000])
    """
    return {
        name: torch.lerp(value, b[name].to(value), t) if value.is_floating_point() else value
        for name, value in a.items()
    }


def barrier(t: Sequence[float], values: Sequence[float], *, falls: bool = False) -> float:
    """Return how far a quantity rises above the line between its ends, at most; 0 if nowhere.

    `t` runs from 0 to 1. With `falls` it is how far the quantity falls below that line, for what
    should be high. Source: Frankle et al. 2020, arXiv:1912.05671, §2; Ainsworth et al. 2023, §2.

    >>> barrier([0.0, 0.5, 1.0], [1.0, 4.0, 3.0])
    2.0
    >>> barrier([0.0, 0.5, 1.0], [0.9, 0.5, 0.7], falls=True)
    0.3
    """
    at, found = np.asarray(t, dtype=float), np.asarray(values, dtype=float)
    line = (1 - at) * found[0] + at * found[-1]
    return round(float(np.max(line - found if falls else found - line)), 12)


@contextmanager
def holding(model: nn.Module, state: State) -> Iterator[nn.Module]:
    """Give `model` other parameters and statistics inside the block.

    >>> model = nn.Linear(1, 1)
    >>> with holding(model, {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([0.0])}):
    ...     model(torch.tensor([[3.0]])).item()
    6.0
    """
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(dict(state))
    try:
        yield model
    finally:
        model.load_state_dict(own)


@torch.no_grad()
def renew_statistics(model: nn.Module, split: Split, device: torch.device) -> None:
    """Estimate the running statistics of batch normalisations anew, in place.

    Those of two networks do not interpolate: the averaged weights give other means and variances,
    and activations collapse behind the old ones (Jordan et al. 2023, REPAIR, arXiv:2211.08403,
    §3). Statistics are means over batches of 256 training samples, of the first 4,096 at most.
    Networks without batch normalisation are left alone.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    model.eval()
    kept = [(norm, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    try:
        order = torch.arange(min(len(split), STATISTICS_SAMPLES))
        for x, _ in split.batches(STATISTICS_BATCH, order=order):
            if len(x) > 1:
                model(x.to(device))
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
        model.eval()
