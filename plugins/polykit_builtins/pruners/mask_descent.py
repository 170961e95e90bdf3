"""Gradient descent on a soft mask that hardens: one logit per element, the weights frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import DataError
from polykit.runtime.progress import tell
from polykit.types import Objective
from polykit_builtins.pruners.soft_mask import SoftMask, mean_loss

_SMALLEST = 1e-12
"""A multiplier below this is 0: products of such underflow, and denormals cost 50 times as much."""
_STILL = 1e-30
"""A momentum below this is 0, for the same reason."""


@dataclass(frozen=True)
class Learned:
    """What one descent found: the logits, and the two terms of the loss at the last soft mask."""

    logits: dict[str, Tensor]
    loss: float
    penalty: float


@dataclass(frozen=True)
class MaskDescent:
    """Minimises the mean objective + Σ price · σ(t·s) over parameters, for a rising t.

    s is one logit per element; `x [n, *shape]` and `y` are all samples. The temperature t goes
    exponentially from 1 to `hottest` over `epochs`. An epoch is a pass over the samples in a new
    order, in batches of `batch`, or smaller ones where those would make fewer than `steps`.
    """

    model: nn.Module
    objective: Objective
    x: Tensor
    y: Tensor
    soft: SoftMask
    epochs: int
    steps: int
    batch: int
    lr: float
    momentum: float
    hottest: float
    start: float

    def first_slopes(self) -> dict[str, Tensor]:
        """Return ∂objective/∂multiplier of each element at the start, over all samples."""
        multipliers = soft_values(self._first_logits(), 1.0)
        total = {name: torch.zeros_like(value) for name, value in multipliers.items()}
        for rows in torch.arange(len(self.x)).split(self.batch):
            for name, slope in self._slopes(multipliers, rows)[1].items():
                total[name] += slope * (len(rows) / len(self.x))
        return total

    def run(self, prices: Mapping[str, float], scales: Mapping[str, float], seed: int) -> Learned:
        """Descend at a price per parameter of each weight; `seed` fixes the order of samples.

        A pull as large as `scales` moves a logit as fast as the learning rate says. Raises
        DataError where the objective is NaN or infinite.
        """
        random = torch.Generator().manual_seed(seed)
        logits, temperature = self._first_logits(), 1.0
        speeds = {name: torch.zeros_like(logit) for name, logit in logits.items()}
        for epoch in range(self.epochs):
            temperature = self.hottest ** (epoch / (self.epochs - 1))
            total, seen = 0.0, 0
            for rows in self._draw(random):
                multipliers = soft_values(logits, temperature)
                loss, slopes = self._slopes(multipliers, rows)
                for name, slope in slopes.items():
                    soft = multipliers[name]
                    pull = (slope + prices[name]) / scales[name] * temperature * soft * (1 - soft)
                    speeds[name] = F.hardshrink(self.momentum * speeds[name] + pull, _STILL)
                    logits[name] -= self.lr * speeds[name]
                total, seen = total + loss * len(rows), seen + len(rows)
            tell(
                epoch + 1,
                self.epochs,
                density=self.soft.density(logits),
                loss=total / seen,
                penalty=self._penalty(soft_values(logits, temperature), prices),
                price=sum(prices.values()) / len(prices),
                temperature=temperature,
            )
        multipliers = soft_values(logits, temperature)
        return Learned(logits, self.loss(multipliers), self._penalty(multipliers, prices))

    def loss(self, multipliers: Mapping[str, Tensor]) -> float:
        """Return the mean objective over all samples."""
        params, total = self.soft.parameters(multipliers), 0.0
        with torch.no_grad():
            for rows in torch.arange(len(self.x)).split(self.batch):
                total += float(self._loss(params, rows)) * len(rows)
        return total / len(self.x)

    def _first_logits(self) -> dict[str, Tensor]:
        return {name: torch.full_like(fixed, self.start) for name, fixed in self.soft.fixed.items()}

    def _draw(self, random: torch.Generator) -> Sequence[Tensor]:
        """Draw the batches of one epoch, all of like size."""
        batches = max(math.ceil(len(self.x) / self.batch), self.steps)
        order = torch.randperm(len(self.x), generator=random)
        return order.tensor_split(min(batches, len(self.x)))

    def _loss(self, params: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        return mean_loss(self.objective, self.model, self.x[rows], self.y[rows], params)

    def _slopes(
        self, multipliers: Mapping[str, Tensor], rows: Tensor
    ) -> tuple[float, dict[str, Tensor]]:
        """Return the mean objective over some samples, and its slope in each multiplier."""
        params = {
            name: value.requires_grad_()
            for name, value in self.soft.parameters(multipliers).items()
        }
        with torch.enable_grad():
            loss = self._loss(params, rows)
        if not bool(torch.isfinite(loss)):
            raise DataError(
                f"the objective is {float(loss.detach())}: look for NaN in the data and weights, "
                f"or take a smaller lr"
            )
        found = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return float(loss.detach()), self.soft.slopes(dict(zip(params, found, strict=True)))

    def _penalty(self, multipliers: Mapping[str, Tensor], prices: Mapping[str, float]) -> float:
        sizes = {name: self.soft.candidates.element_size(name) for name in multipliers}
        return sum(
            prices[name] * sizes[name] * float(soft[self.soft.free[name]].sum())
            for name, soft in multipliers.items()
        )


def soft_values(logits: Mapping[str, Tensor], temperature: float) -> dict[str, Tensor]:
    """Return σ(t·s), with what is as good as nothing set to 0.

    >>> soft_values({"w": torch.tensor([0.0, -1.0])}, 200.0)["w"].tolist()
    [0.5, 0.0]
    """
    return {
        name: F.threshold(torch.sigmoid(temperature * logit), _SMALLEST, 0.0)
        for name, logit in logits.items()
    }
