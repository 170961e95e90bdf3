"""What changes from step to step of a training: its learning rate, and biases that decay."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polykit.runtime.training.config import TrainingConfig

_BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    With `cosine_steps` T it is lr · (1 + cos(π · step / T)) / 2: 0 at T, and up again behind it, as
    PyTorch's CosineAnnealingLR goes on.

    >>> config = TrainingConfig(lr=0.2, cosine_steps=10)
    >>> [round(rate(config, step), 6) for step in (0, 5, 10, 20)]
    [0.2, 0.1, 0.0, 0.2]
    """
    if config.cosine_steps is None:
        return config.lr
    return config.lr * (1 + math.cos(math.pi * step / config.cosine_steps)) / 2


class Pace:
    """Makes an optimiser's steps: each at its rate, biases decaying in the first half of all steps.

    A bias b becomes (1 − bias_decay · lr) · b, with lr the rate of the configuration. `parameters`
    are those of `model` by name, or several networks' stacked; `samples` make up an epoch. Source:
    Jermyn et al. 2022, arXiv:2211.09169 (bias decay).
    """

    def __init__(
        self,
        config: TrainingConfig,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        parameters: Mapping[str, Tensor],
        samples: int,
        epochs: int,
    ) -> None:
        self._config, self._optimizer = config, optimizer
        self._per_epoch = math.ceil(samples / config.batch_size)
        self._half, self._step = epochs * self._per_epoch / 2, 0
        names = [
            f"{name}.bias".lstrip(".")
            for name, module in model.named_modules()
            if isinstance(module, _BIASED) and module.bias is not None
        ]
        self._biases = [parameters[name] for name in names if name in parameters]

    def begin(self, epoch: int) -> None:
        """Go to the first step of an epoch, counted from 1."""
        self._step = (epoch - 1) * self._per_epoch

    @torch.no_grad()
    def step(self) -> None:
        """Make a step."""
        config = self._config
        if config.cosine_steps is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = rate(config, self._step)
        self._optimizer.step()
        if config.bias_decay and self._step < self._half:
            for bias in self._biases:
                bias.mul_(1 - config.bias_decay * config.lr)
        self._step += 1
