"""Multilayer perceptrons of any widths."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import Literal

from pydantic import field_validator
from torch import nn

from polykit.api import Field, IntList, Model
from polykit_builtins.models.initial import draw

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "identity": None}


class Mlp(Model):
    """Linear layers `hidden1`, `hidden2`, …, `output`, each hidden one with an activation.

    Inputs of any shape are flattened. Weights are drawn uniformly from ±√(6 / (in + out))
    (glorot) or ±√(6 / in) (he); biases start at zero, as in both papers. `torch` leaves both as
    PyTorch's linear layers draw them, uniformly from ±√(1 / in). Source: Glorot & Bengio 2010,
    eq. 16; He et al. 2015, eq. 10.

    >>> print(Mlp(widths=(8,), dropout=0.5).build((1, 4, 4), 3))
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (hidden1): Linear(in_features=16, out_features=8, bias=True)
      (relu1): ReLU()
      (dropout1): Dropout(p=0.5, inplace=False)
      (output): Linear(in_features=8, out_features=3, bias=True)
    )
    """

    widths: IntList = Field((64, 64), description="neurons of each hidden layer, e.g. 300,100")
    scale: float = Field(1.0, gt=0, description="factor on all widths (rounded, at least 1)")
    activation: Literal["relu", "tanh", "gelu", "identity"] = Field(
        "relu", description="nonlinearity of the hidden layers"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share dropped after each hidden layer")
    init: Literal["glorot", "he", "torch"] = Field(
        "glorot", description="how weights are drawn at first"
    )

    @field_validator("widths")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if widths and min(widths) < 1:
            raise ValueError("every width must be at least 1, e.g. 300,100")
        return widths

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for inputs `[n, *input_shape]`."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        size = prod(input_shape)
        for number, width in enumerate(self.widths, start=1):
            scaled = max(1, round(width * self.scale))
            layers[f"hidden{number}"] = self._linear(size, scaled)
            if (activation := _ACTIVATIONS[self.activation]) is not None:
                layers[f"{self.activation}{number}"] = activation()
            if self.dropout:
                layers[f"dropout{number}"] = nn.Dropout(self.dropout)
            size = scaled
        layers["output"] = self._linear(size, outputs)
        return nn.Sequential(layers)

    def redraw(self, network: nn.Module) -> None:
        """Draw all weights anew, as `init` says."""
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
                self._draw(module)

    def _linear(self, inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        self._draw(layer)
        return layer

    def _draw(self, layer: nn.Linear) -> None:
        """Draw the weights of a layer that PyTorch has drawn already."""
        if self.init != "torch":
            draw(layer, self.init)
