"""Which kept parameters still matter: those on a path from the input to the target.

The network itself is run in boolean algebra: kept weights are 1, the input is "reached
everywhere", a layer's output is reached where any kept weight brings something, and the backward
pass asks the same from the target. So every wiring that the forward pass can express is followed
(skip connections, concatenation, padding), position by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from polykit.errors import ModelError, UsageError
from polykit.runtime.passes.trace import ACTIVATIONS, NORMALISATIONS, evaluating
from polykit.runtime.pruning.masking import on_model
from polykit.types import Mask, UnitRef


def effective_mask(model: nn.Module, mask: Mask, x: Tensor, target: UnitRef | None = None) -> Mask:
    """Return the part of `mask` that lies on a path from the input to the target.

    `x` gives the input shape. Without a `target` unit, paths end at any output. Nonlinearities
    and normalisations pass each unit on, attention passes every token to every other, biases are
    no source, and a gate that is wholly removed closes what it gates. A unit's bias (present in
    the mask only at unit granularity) is effective with its unit. Runs on the CPU in float64,
    where sums of zeros and ones are exact.

    Raises UsageError for a target that is no unit of a conv or linear layer of the pass, and
    ModelError where paths cannot be followed (a dilated max pool, token indices for input,
    negative constants in the wiring).

    Example: the second layer keeps nothing of unit 1, so unit 1's own weights do not matter.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> mask = Mask({
    ...     "0.weight": torch.ones(2, 2, dtype=torch.bool),
    ...     "2.weight": torch.tensor([[True, False]]),
    ... })
    >>> effective_mask(model, mask, torch.zeros(1, 2))["0.weight"].tolist()
    [[True, True], [False, False]]
    """
    on_model(model, mask)  # raises where it does not fit
    own = dict(model.named_parameters())
    params = {
        name: mask[name].double().requires_grad_()
        if name in mask and parameter.dim() > 1
        else torch.full(parameter.shape, float(not name.endswith("bias")), dtype=torch.double)
        for name, parameter in own.items()
    }
    buffers = {
        name: buffer.cpu().double().abs() if buffer.is_floating_point() else buffer.cpu()
        for name, buffer in model.named_buffers()
    }
    weights = [name for name in mask if params[name].requires_grad]
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    reached = _Goal(target)
    hooks = [layer.register_forward_hook(reached.hook(name)) for name, layer in layers.items()]
    try:
        with evaluating(model), torch.enable_grad(), _Paths():
            ones = torch.ones(1, *x.shape[1:], dtype=torch.double)
            output = functional_call(model, {**params, **buffers}, (ones,))
        goal = reached.goal if target else output
        if goal is None:
            raise UsageError(f"the pass reaches no conv or linear layer of the target {target}")
        grads = torch.autograd.grad(
            goal.sum(), [params[name] for name in weights], materialize_grads=True
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"paths through {type(model).__name__} cannot be followed: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    alive = dict(mask)
    for name, grad in zip(weights, grads, strict=True):
        alive[name] &= grad > 0
    names = {id(parameter): name for name, parameter in own.items()}
    for layer in layers.values():
        weight, bias = names.get(id(layer.weight), ""), names.get(id(layer.bias), "")
        if weight in mask and bias in mask:
            alive[bias] &= alive[weight].flatten(1).any(1)
    return Mask(alive, {name: mask.eligible(name) for name in mask})


class _Goal:
    """Hooks that saturate every layer's output and remember the target's."""

    def __init__(self, target: UnitRef | None) -> None:
        self._target = target
        self.goal: Tensor | None = None

    def hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def saturate(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            reached = _reached(output)
            if self._target is not None and name == self._target.layer and self.goal is None:
                units = reached.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
                if self._target.index >= len(units):
                    raise UsageError(f"layer {name!r} has units 0 to {len(units) - 1}")
                self.goal = units[self._target.index]
            return reached

        return saturate


class _Reached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _saturated(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _saturated(grad)


def _saturated(values: Tensor) -> Tensor:
    if not bool((values >= 0).all()):
        raise RuntimeError("its wiring turns counts of paths negative")
    return (values > 0).to(values.dtype)


def _reached(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """Saturate x > 0 to 0 or 1, forward and backward, so that counts of paths cannot overflow."""
    return cast(Tensor, _Reached.apply(input))


class _Paths(TorchFunctionMode):
    """Replaces what would hide a path: nonlinearities, normalisations, the choice of a max."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        rule = _RULES.get(getattr(func, "__name__", ""), func)
        return rule(*args, **(kwargs or {}))


def _add(input: Tensor, other: Tensor | float, **_: Any) -> Tensor:
    return input + other


def _gated(input: Tensor, dim: int = -1) -> Tensor:
    """GLU: a closed gate is one half, so it does not close."""
    values, gate = input.chunk(2, dim)
    return values * (1 + gate)


def _normalised(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    """Softmax: never zero, and everything along `dim` counts."""
    flow = input.sum(dim, keepdim=True).expand_as(input)
    return 1 + flow - flow.detach()


def _largest(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """`max` in its three forms: of all, of two tensors, along an axis (with indices)."""
    if isinstance(dim, Tensor):
        return input + dim
    if dim is None:
        return input.sum()
    return torch.return_types.max((input.sum(dim, keepdim), input.argmax(dim, keepdim)))


def _largest_along(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return input.sum(dim, keepdim)


def _pooled(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Max pool in which every place of the window counts."""
    if return_indices or dilation not in (1, (1,), (1, 1), (1, 1, 1)):
        raise RuntimeError("a max pool that is dilated or returns indices hides paths")
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[input.dim()]
    return pool(input, kernel_size, stride or kernel_size, padding, ceil_mode)


def _adaptively_pooled(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    if return_indices:
        raise RuntimeError("a max pool that returns indices hides paths")
    pool = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
    return pool[input.dim()](input, output_size)


def _attended(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    flow = (_reached(query) * _reached(key).sum(-2, keepdim=True)).sum(-1, keepdim=True)
    return (1 + flow) * _reached(value).sum(-2, keepdim=True)


def _attended_by_heads(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """`nn.MultiheadAttention`: its projections are dense and not prunable."""
    flow = _reached(query).mean(-1, keepdim=True) * _reached(key).mean()
    return ((1 + flow) * _reached(value).mean()).expand(query.shape), None


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(ACTIVATIONS | NORMALISATIONS | {"local_response_norm", "neg"}, _reached),
    **dict.fromkeys(("sub", "__rsub__", "maximum", "minimum"), _add),
    **dict.fromkeys(("softmax", "log_softmax"), _normalised),
    **dict.fromkeys(("max", "min"), _largest),
    **dict.fromkeys(("amax", "amin"), _largest_along),
    **{f"max_pool{n}d{more}": _pooled for n in (1, 2, 3) for more in ("", "_with_indices")},
    **{
        f"adaptive_max_pool{n}d{more}": _adaptively_pooled
        for n in (1, 2, 3)
        for more in ("", "_with_indices")
    },
    "glu": _gated,
    "scaled_dot_product_attention": _attended,
    "multi_head_attention_forward": _attended_by_heads,
}
"""Torch functions by name, and what runs in their place."""
