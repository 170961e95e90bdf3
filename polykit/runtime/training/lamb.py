"""LAMB: Adam's direction, as long as the parameters it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS, EPSILON, LONGEST = (0.9, 0.999), 1e-6, 10.0


class Lamb(torch.optim.Optimizer):
    """Moves each tensor θ by lr · min(‖θ‖, 10) · r / ‖r‖, with r Adam's step m / (√v + 1e-6).

    Where θ or r is zero the step is lr · r. With weight decay r + decay · θ takes the place of r.
    Moments start at zero and are not corrected for it: the division by ‖r‖ makes up for that. With
    `stacked` tensors the first axis counts networks, each of which has norms of its own. Source:
    You et al. 2020, arXiv:1904.00962, Algorithm 2, with φ(z) = min(z, 10).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        *,
        stacked: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._stacked = stacked

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    self._move(value, value.grad, group["lr"], group["weight_decay"])
        return loss

    def _move(self, value: Tensor, slope: Tensor, lr: float, decay: float) -> None:
        state = self.state[value]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(value), torch.zeros_like(value)
        state["mean"].lerp_(slope, 1 - BETAS[0])
        state["square"].mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
        way = state["mean"] / (state["square"].sqrt() + EPSILON)
        if decay:
            way.add_(value, alpha=decay)
        length, size = self._norm(value).clamp(max=LONGEST), self._norm(way)
        trust = torch.where((length > 0) & (size > 0), length / size, 1.0)
        value.sub_(way.mul_(lr * trust))

    def _norm(self, tensor: Tensor) -> Tensor:
        axes = tuple(range(1, tensor.dim())) if self._stacked else None
        norm: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
        return norm
