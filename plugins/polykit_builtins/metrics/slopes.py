"""Directional derivatives of a network, its weights held constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_AFFINE = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})
"""Functions of an input, a weight, a bias and more, affine in the input."""


def slopes(
    function: Callable[[Tensor], tuple[Tensor, ...]], points: Tensor, direction: Tensor
) -> list[Tensor]:
    """Return the derivatives of `function` at `points [n, …]` along `direction [n, …]`.

    By forward mode, at the cost of about two forward passes.

    >>> [slope.tolist() for slope in slopes(lambda x: (x**2, 3 * x), torch.ones(1), torch.ones(1))]
    [[2.0], [3.0]]
    """
    with forward_ad.dual_level(), _ConstantWeights():
        values = function(forward_ad.make_dual(points, direction))
        tangents = [forward_ad.unpack_dual(value).tangent for value in values]
    return [
        torch.zeros_like(value) if tangent is None else tangent
        for value, tangent in zip(values, tangents, strict=True)
    ]


class _ConstantWeights(TorchFunctionMode):
    """Keeps torch from multiplying with the derivatives of weights, which are zero."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _AFFINE and len(args) > 2 and not kwargs:
            return _Affine.apply(func, *args)
        return func(*args, **(kwargs or {}))


class _Affine(torch.autograd.Function):
    """`func(x, weight, bias, …)`, whose derivative is the same function of x's without bias."""

    @staticmethod
    def forward(ctx: Any, func: Callable[..., Tensor], *args: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.func, (_, ctx.weight, _, *ctx.more) = func, args
        return func(*args)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        moved = tangents[1]
        return None if moved is None else ctx.func(moved, ctx.weight, None, *ctx.more)
