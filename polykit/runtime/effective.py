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

from polykit.errors import ModelError
from polykit.runtime.masking import on_model
from polykit.runtime.trace import ACTIVATIONS, NORMALISATIONS, evaluating
from polykit.types import Mask, UnitRef


def effective_mask(model: nn.Module, mask: Mask, x: Tensor, target: UnitRef | None = None) -> Mask:
    """Return the part of `mask` that lies on a path from the input to the target.

    `x` gives the input shape (one sample is used). Without a `target` unit, paths end at any
    output. Nonlinearities and normalisations pass each unit on, attention passes every token to
    every other, biases are no source, and a gate that is wholly removed closes what it gates. A
    unit's bias (present in the mask only at unit granularity) is effective with its unit.

    Raises ModelError where paths cannot be followed (a dilated max pool, or operations that torch
    cannot differentiate).

    Example: the second layer keeps nothing of unit 1, so unit 1's own weights do not matter.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> mask = Mask({
    ...     "0.weight": torch.ones(2, 2, dtype=torch.bool),
    ...     "2.weight": torch.tensor([[True, False]]),
    ... })
    >>> effective_mask(model, mask, torch.zeros(1, 2))["0.weight"].tolist()
    [[True, True], [False, False]]
    """
    kept = {name: keep.double() for name, keep in on_model(model, mask).items()}
    params = {
        name: kept[name].requires_grad_()
        if name in kept and parameter.dim() > 1
        else torch.full_like(parameter, float(not name.endswith("bias")), dtype=torch.double)
        for name, parameter in model.named_parameters()
    }
    buffers = {
        name: buffer.double() if buffer.is_floating_point() else buffer
        for name, buffer in model.named_buffers()
    }
    reached = _Goal(target)
    modules = dict(model.named_modules())
    hooks = [
        module.register_forward_hook(reached.hook(name))
        for name, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    ones = torch.ones_like(x[:1], dtype=torch.double)
    weights = [name for name in kept if params[name].requires_grad]
    try:
        with evaluating(model), torch.enable_grad(), _Paths():
            output = functional_call(model, {**params, **buffers}, (ones,))
        goal = output if reached.goal is None else reached.goal
        grads = torch.autograd.grad(
            goal.sum(), [params[name] for name in weights], allow_unused=True
        )
    except RuntimeError as error:
        raise ModelError(
            f"paths through {type(model).__name__} cannot be followed: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    alive: dict[str, Tensor] = {}
    for name, grad in zip(weights, grads, strict=True):
        on_path = torch.zeros_like(mask[name]) if grad is None else grad.cpu() > 0
        alive[name] = mask[name] & on_path
    for name in mask:
        if name not in alive:  # the bias of a unit
            rows = alive[name.removesuffix("bias") + "weight"].flatten(1).any(1)
            alive[name] = mask[name] & rows
    return Mask(alive, {name: mask.eligible(name) for name in mask})


class _Goal:
    """Saturates every layer's output to 0 or 1, and remembers the target's."""

    def __init__(self, target: UnitRef | None) -> None:
        self._target = target
        self.goal: Tensor | None = None

    def hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def saturate(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            reached = cast(Tensor, _Reached.apply(output))
            if self._target is not None and name == self._target.layer and self.goal is None:
                axis = -1 if isinstance(module, nn.Linear) else 1
                self.goal = reached.select(axis, self._target.index)
            return reached

        return saturate


class _Reached(torch.autograd.Function):
    """x > 0 as 0 or 1, forward and backward, so that counts of paths cannot overflow."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return (values > 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad > 0).to(grad.dtype)


class _Paths(TorchFunctionMode):
    """Replaces what would hide a path: nonlinearities, normalisations, and the choice of a max."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        options = dict(kwargs or {})
        if name in ACTIVATIONS or name in NORMALISATIONS:
            return args[0]
        if name == "softmax":
            return torch.ones_like(args[0])  # every token may attend to every other
        if name == "scaled_dot_product_attention":
            query, _, value = args[:3]
            return value.mean(-2, keepdim=True).expand(*query.shape[:-1], value.shape[-1])
        if name == "multi_head_attention_forward":  # its projections are dense and not prunable
            return args[2].mean().expand(args[0].shape), None
        if name.startswith("adaptive_max_pool"):
            average = getattr(F, name.replace("max", "avg").removesuffix("_with_indices"))
            return average(args[0], args[1])
        if name.startswith(("max_pool", "boolean_dispatch")) and isinstance(args[0], Tensor):
            return _sum_pool(args, options)
        return func(*args, **options)


def _sum_pool(args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """A max pool in which every place of the window counts."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = dict(zip(names, args[1:], strict=False)) | options
    values = args[0]
    if given.get("dilation", 1) not in (1, (1, 1), [1, 1]):
        raise ModelError("a dilated max pool hides paths; the effective mask cannot be computed")
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[values.dim()]
    return pool(
        values,
        given["kernel_size"],
        given.get("stride") or given["kernel_size"],
        given.get("padding", 0),
        bool(given.get("ceil_mode", False)),
    )
