"""Adam, in place: five passes over the numbers and no new memory."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Adam with β = (0.9, 0.999) on one tensor, to be called without gradient tracking.

    Moves `values` as torch.optim.Adam does, to rounding. Keeps the moments without their constant
    factors, and the second one without its decay since the last full thousand of steps; all of it
    goes into the size of the step. Source: Kingma & Ba 2015, Algorithm 1.
    """

    def __init__(self, values: Tensor, lr: float, *, epsilon: float = 1e-8) -> None:
        self.values, self.lr, self.epsilon, self.steps = values, lr, epsilon, 0
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.work = torch.empty_like(values)

    def step(self, gradient: Tensor) -> None:
        """Move the values against the gradient."""
        self.steps += 1
        age = self.steps % 1000
        torch.add(gradient, self.mean, alpha=0.9, out=self.mean)
        if age == 0:
            self.square *= 0.999**1000
        self.square.addcmul_(gradient, gradient, value=0.999**-age)
        root = ((1 - 0.999**self.steps) / (0.001 * 0.999**age)) ** 0.5
        torch.sqrt(self.square, out=self.work).add_(self.epsilon * root)
        size = self.lr * 0.1 / (1 - 0.9**self.steps) * root
        self.values.addcdiv_(self.mean, self.work, value=-size)
