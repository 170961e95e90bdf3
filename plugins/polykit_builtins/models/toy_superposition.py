"""The toy model of superposition: one hidden layer that reads features out of few inputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from polykit.api import Field, Model
from polykit.errors import ModelError


class ToySuperposition(Model):
    """y = W₂ ReLU(W₁ x + b): linear layers `hidden` and `output`, the second without a bias.

    Weights and biases are drawn as PyTorch's linear layers draw them, uniformly from ±√(1 / in),
    and `initial_bias` is added to the hidden biases. With `l1` training descends the loss plus
    l1 · Σ h over the hidden values of a sample, in units of the squared error summed over outputs;
    losses that are reported leave the penalty out. Source: Jermyn et al. 2022, Engineering
    monosemanticity in toy models, arXiv:2211.09169, §3.

    >>> print(ToySuperposition(hidden=8).build((4,), 6))
    Sequential(
      (hidden): Linear(in_features=4, out_features=8, bias=True)
      (relu): ReLU()
      (output): Linear(in_features=8, out_features=6, bias=False)
    )
    """

    hidden: int = Field(128, ge=1, description="hidden units k")
    initial_bias: float = Field(0.0, description="what is added to the hidden biases at first")
    l1: float = Field(0.0, ge=0, description="penalty on hidden values, in training")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for inputs `[n, m]`; raise ModelError for other shapes."""
        if len(input_shape) != 1:
            shape = "×".join(map(str, input_shape))
            raise ModelError(
                f"toy-superposition-net takes vectors, not inputs of shape {shape}; take the "
                f"dataset toy-superposition, or the model mlp"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["hidden"] = nn.Linear(input_shape[0], self.hidden)
        layers["relu"] = nn.ReLU()
        if self.l1:
            layers["penalty"] = Penalty(self.l1 / outputs)
        layers["output"] = nn.Linear(self.hidden, outputs, bias=False)
        network = nn.Sequential(layers)
        self._shift(network)
        return network

    def redraw(self, network: nn.Module) -> None:
        """Draw the weights anew."""
        super().redraw(network)
        self._shift(network)

    @torch.no_grad()
    def _shift(self, network: nn.Module) -> None:
        network.get_submodule("hidden").get_parameter("bias").add_(self.initial_bias)


class Penalty(nn.Identity):
    """Hands values h `[…, n, k]` on; in training adds weight · Σ|h| / n to what is descended.

    It does so in the backward pass, so the loss that is seen stays the task's.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, input: Tensor) -> Tensor:
        """Return the values."""
        if not self.training:
            return input
        found: Tensor = _Push.apply(input, self.weight / input.shape[-2])
        return found

    def extra_repr(self) -> str:
        """Tell penalties apart."""
        return f"weight={self.weight:g}"


class _Push(torch.autograd.Function):
    """The identity, whose gradient is that of the identity plus size · Σ|h|."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, size: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.size = size
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        return gradients[0] + ctx.size * values.sign(), None
