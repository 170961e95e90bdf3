"""Chains: modules that follow each other without a branch, each looking through a window.

A chain is found by watching one forward pass, not by reading names, so that what only looks like
one is told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import ModelError, UsageError, did_you_mean
from polykit.runtime.passes.trace import evaluating
from polykit.types import At, LayerCall, Trace

Sizes = tuple[int, ...]
"""One number per axis of a map: rows and columns, or only places in time."""

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_MAX_POOLS: dict[type[nn.Module], Any] = {
    nn.MaxPool1d: F.max_pool1d,
    nn.MaxPool2d: F.max_pool2d,
    nn.MaxPool3d: F.max_pool3d,
    nn.AdaptiveMaxPool1d: F.max_pool1d,
    nn.AdaptiveMaxPool2d: F.max_pool2d,
    nn.AdaptiveMaxPool3d: F.max_pool3d,
}
_MEAN_POOLS: dict[type[nn.Module], Any] = {
    nn.AvgPool1d: F.avg_pool1d,
    nn.AvgPool2d: F.avg_pool2d,
    nn.AvgPool3d: F.avg_pool3d,
    nn.AdaptiveAvgPool1d: F.avg_pool1d,
    nn.AdaptiveAvgPool2d: F.avg_pool2d,
    nn.AdaptiveAvgPool3d: F.avg_pool3d,
}
_NONLINEAR = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Sigmoid, nn.SiLU),
    *(nn.Softplus, nn.Softsign, nn.Tanh, nn.Threshold),
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LINEAR = (
    *_BATCH_NORMS,
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.FeatureAlphaDropout, nn.Identity, nn.LocalResponseNorm),
)
_POINTWISE = (*_NONLINEAR, *_LINEAR)
_STEPS: tuple[Any, ...] = (*_CONVOLUTIONS, *_MAX_POOLS, *_MEAN_POOLS, *_POINTWISE)


@dataclass(frozen=True)
class Window:
    """What one position of a layer's output sees of its input, along each axis.

    Output position i sees input positions i · stride − padding + t · dilation, t < size.
    """

    size: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Sizes


@dataclass(frozen=True)
class Step:
    """One module of a chain by its name, and its window; None where it treats positions alike."""

    name: str
    window: Window | None

    def unpadded(self, module: nn.Module, x: Tensor) -> Tensor:
        """Apply `module`, this step's, to `x [n, channels, *positions]` without padding."""
        if (window := self.window) is None:
            given = module(x)
        elif (function := _of(_CONVOLUTIONS, module)) is not None:
            of: Any = module
            given = function(x, of.weight, of.bias, window.stride, 0, window.dilation, of.groups)
        elif (function := _of(_MAX_POOLS, module)) is not None:
            given = function(x, window.size, window.stride, 0, window.dilation)
        else:
            divisor = getattr(module, "divisor_override", None)
            extra = {} if divisor is None else {"divisor_override": divisor}
            given = _of(_MEAN_POOLS, module)(x, window.size, window.stride, **extra)
        return given  # type: ignore[no-any-return]


def chain(model: nn.Module, trace: Trace, layer: str, *, at: At = "pre") -> tuple[Step, ...]:
    """Return the modules from the input to `layer`, if they form a chain.

    Each takes what the one before gave, unchanged, and is a convolution, a pooling or a pointwise
    module such as a ReLU, a batch normalisation in evaluation mode or a dropout. `at="post"` goes
    on to the layer's nonlinearity. Watches one forward pass of a black picture.

    Raises UsageError for a layer the trace does not know, ModelError where there is no chain; it
    names the module that breaks it.

    >>> from polykit.runtime.passes.trace import trace
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3))
    >>> [step.name for step in chain(model, trace(model, torch.zeros(1, 1, 8, 8)), "2")]
    ['0', '1', '2']
    """
    call = first_call(trace, layer)
    x, events = _watch(model, trace)
    steps: list[Step] = []
    before: Tensor = x
    version, giver, reached = 0, "the input", False  # a new tensor's version is 0
    for event in events:
        if event.taken is not before or event.taken_version != version:
            raise ModelError(
                f"{event.name} does not take what {giver} gives: a branch, a sum or a function "
                f"lies between, so the way to {layer} is no chain of modules"
            )
        if reached and not isinstance(event.module, _POINTWISE):
            break
        steps.append(_step(event, layer))
        if reached and isinstance(event.module, _NONLINEAR):
            return tuple(steps)
        if event.name == layer:
            if at == "pre" or not call.activated:
                return tuple(steps)
            reached = True
        before, version, giver = event.given, event.given_version, event.name
    raise ModelError(
        f"the nonlinearity of {layer} is no module"
        if reached
        else f"{layer} holds other modules; name the one whose values to read"
    )


def first_call(trace: Trace, layer: str) -> LayerCall:
    """Return the first call of `layer`; raise UsageError, naming the nearest, if there is none."""
    calls = trace.of(layer)
    if not calls:
        known = [call.layer for call in trace.calls]
        raise UsageError(
            f"the forward pass reaches no layer {layer!r}.{did_you_mean(layer, known)} "
            f"The layers with weights: {', '.join(trace.layers)}"
        )
    return calls[0]


@dataclass(frozen=True)
class _Event:
    """One module's call: what it took and gave, with the versions the tensors had then."""

    name: str
    module: nn.Module
    hooked: bool
    taken: Any
    taken_version: int
    given: Any
    given_version: int


def _watch(model: nn.Module, trace: Trace) -> tuple[Tensor, list[_Event]]:
    """Pass a black picture through and record the calls of all innermost modules, in order."""
    some = next(model.parameters(), torch.empty(0))
    x = torch.zeros(1, *trace.input_shape, dtype=some.dtype, device=some.device)
    events: list[_Event] = []
    opened: list[tuple[Any, int]] = []
    hooks: list[Any] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken = inputs[0] if inputs else None
        opened.append((taken, getattr(taken, "_version", 0)))

    def leave(name: str, hooked: bool) -> Any:
        def record(module: nn.Module, inputs: tuple[Any, ...], given: Any) -> None:
            taken, version = opened.pop()
            if not opened:  # what a step calls inside, such as a parametrisation, is its own
                after = getattr(given, "_version", 0)
                events.append(_Event(name, module, hooked, taken, version, given, after))

        return record

    for name, module in model.named_modules():
        if name and (isinstance(module, _STEPS) or not any(True for _ in module.children())):
            hooked = bool(module._forward_hooks or module._forward_pre_hooks)
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(leave(name, hooked)))
    try:
        with evaluating(model), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return x, events


def _step(event: _Event, layer: str) -> Step:
    """Return the event's module as a step; raise ModelError where it is none."""
    module, kind = event.module, type(event.module).__name__
    problem = ""
    known = next((step for step in _STEPS if isinstance(module, step)), None)
    if known is None or type(module).forward is not known.forward or "forward" in vars(module):
        problem = f"a {kind} is no convolution, pooling or pointwise module"
    elif event.hooked:
        problem = "it carries a hook, which may change what it gives"
    elif not isinstance(event.given, Tensor):
        problem = "it gives more than one tensor"
    elif isinstance(module, _BATCH_NORMS) and module.running_mean is None:
        problem = "it normalises by the batch at hand"
    elif isinstance(module, _POINTWISE):
        return Step(event.name, None)
    elif event.taken.dim() != event.given.dim() or event.given.dim() < 3:
        problem = "its input is no map"
    elif (window := _window(module, event.taken.shape[2:], event.given.shape[2:])) is None:
        problem = "its windows differ in size"
    else:
        return Step(event.name, window)
    raise ModelError(f"{event.name} breaks the chain to {layer}: {problem}")


def _window(module: Any, taken: Sequence[int], given: Sequence[int]) -> Window | None:
    """Return the window of a convolution or pooling, None where positions have different ones."""
    axes = len(taken)

    def each(value: Any) -> Sizes:
        return (value,) * axes if isinstance(value, int) else tuple(value)

    if not hasattr(module, "kernel_size"):  # an adaptive pooling
        if any(a % b for a, b in zip(taken, given, strict=True)):
            return None
        size = tuple(a // b for a, b in zip(taken, given, strict=True))
        return Window(size, size, (1,) * axes, (0,) * axes)
    size, dilation = each(module.kernel_size), each(getattr(module, "dilation", 1))
    if module.padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True))
    else:
        padding = each(0 if module.padding == "valid" else module.padding)
    return Window(size, each(module.stride), dilation, padding)


def _of(functions: Any, module: nn.Module) -> Any:
    """Return the function of the kind that `module` is of, None if it is of none of them."""
    return next((f for kind, f in functions.items() if isinstance(module, kind)), None)
