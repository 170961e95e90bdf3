"""How wide layers are and how their weights are drawn at first."""

from __future__ import annotations

from math import floor
from typing import Literal

from torch import nn

Init = Literal["glorot", "he"]


def cut_width(width: int, scale: float) -> int:
    """Return `scale · width`, cut to a whole number, at least 1.

    >>> cut_width(64, 0.1), cut_width(100, 0.29)
    (6, 29)
    """
    return max(1, floor(width * scale + 1e-9))  # 100 · 0.29 is 28.999999999999996


def draw(layer: nn.Linear | nn.Conv2d, init: Init) -> None:
    """Draw weights uniformly from ±√(6 / (in + out)) (glorot) or ±√(6 / in) (he); zero the bias.

    `in` and `out` count what one weight of a kernel counts: units times kernel positions. Source:
    Glorot & Bengio 2010, eq. 16; He et al. 2015, eq. 10.
    """
    if init == "glorot":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def draw_all(network: nn.Module, init: Init) -> None:
    """Draw every linear and convolutional layer of a network; set norms to their start."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            draw(module, init)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
