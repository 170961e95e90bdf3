"""Runs many networks of one kind at once: their parameters stacked along a first axis.

Layers that `torch.func.vmap` would serve badly have a form of their own; all others go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from polykit.runtime.training.dropout import Noise

Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""From stacked parameters by name and inputs `[members, n, *shape]` to what each member gives."""

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.GELU, nn.Identity, Noise)


def stacked(model: nn.Module) -> Forward:
    """Return the function that runs networks like `model` together.

    >>> weights = {"0.weight": torch.tensor([[[1.0]], [[2.0]]]), "0.bias": torch.zeros(2, 1)}
    >>> stacked(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))(weights, torch.ones(2, 3, 1)).squeeze(2)
    tensor([[1., 1., 1.],
            [2., 2., 2.]])
    """
    if type(model) is not nn.Sequential:
        return _layer(model)
    layers = [
        (_layer(module), {f"{name}.{own}": own for own, _ in module.named_parameters()})
        for name, module in model.named_children()
    ]

    def chain(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        for layer, names in layers:
            x = layer({own: parameters[name] for name, own in names.items()}, x)
        return x

    return chain


def _layer(module: nn.Module) -> Forward:
    if type(module) is nn.Linear:
        return _linear
    if isinstance(module, _ELEMENTWISE):
        return lambda _, x: module(x)

    def one(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, dict(parameters), (x,))  # type: ignore[no-any-return]

    return vmap(one)


def _linear(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Apply `weight [members, out, in]` and, if there is one, `bias [members, out]`."""
    rows = x.flatten(1, -2)
    outputs: Tensor = _Affine.apply(rows, parameters["weight"], parameters.get("bias"))
    return outputs.view(*x.shape[:-1], -1)


class _Affine(torch.autograd.Function):
    """x Wᵀ + b of each member.

    Autograd's own would give the weights' gradient transposed and then copy it into place: a third
    of a step where layers are large.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        return (
            gradient @ weight if ctx.needs_input_grad[0] else None,
            gradient.mT @ x,
            gradient.sum(1) if ctx.needs_input_grad[2] else None,
        )
