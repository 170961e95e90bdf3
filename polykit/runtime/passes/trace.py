"""One forward pass with a single sample: which modules were called, in what order, and how.

Everything that must know a network's shape asks here: capture (when to stop, what to clone),
masking (what can be pruned), the metrics (which layers have units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from polykit.errors import ModelError
from polykit.types import At, LayerCall, Trace

Key = tuple[str, int]
"""Module name and call index."""

ACTIVATIONS = frozenset(
    """celu celu_ elu elu_ gelu glu hardsigmoid hardswish hardtanh hardtanh_ leaky_relu leaky_relu_
    logsigmoid mish prelu relu relu6 relu_ rrelu selu selu_ sigmoid sigmoid_ silu softplus softsign
    tanh tanh_ threshold threshold_""".split()
)
"""Names of the torch functions that count as a nonlinearity, called by modules or by hand."""

NORMALISATIONS = frozenset(
    """batch_norm group_norm instance_norm layer_norm rms_norm dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_alpha_dropout""".split()
)
"""Names of the torch functions through which a layer's output stays the same units."""


class Follow(TorchFunctionMode):
    """Follows watched tensors to the nonlinearity that takes them, and tells what comes out.

    A function mode sees `F.relu(x)` as well as `nn.ReLU()`, which module hooks would miss.
    `on_activation(key, result)` may return a tensor to put in the result's place.
    """

    def __init__(self, on_activation: Callable[[Key, Tensor], Tensor]) -> None:
        super().__init__()
        self._on_activation = on_activation
        self._keys: dict[int, list[Key]] = {}
        self._alive: list[Tensor] = []  # an id is only unique while its tensor lives

    def watch(self, tensor: Tensor, key: Key) -> None:
        """Begin to follow a layer's output."""
        self._keys.setdefault(id(tensor), []).append(key)
        self._alive.append(tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keys = self._keys.get(id(args[0]), []) if args else []
        result = func(*args, **(kwargs or {}))
        if not keys or not isinstance(result, Tensor):
            return result
        name = getattr(func, "__name__", "")
        if name in ACTIVATIONS:
            del self._keys[id(args[0])]
            for key in keys:
                result = self._on_activation(key, result)
        elif name in NORMALISATIONS and result is not args[0]:
            for key in keys:
                self.watch(result, key)
        return result


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; on leaving, every module has its own flag back."""
    trained = [module for module in model.modules() if module.training]
    if trained:
        model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def trace(model: nn.Module, x: Tensor) -> Trace:
    """Run `model` on `x[:1]` and record every module call that returns one tensor.

    Raises ModelError where the model refuses the input or has no modules inside.

    >>> trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2)).layers
    ('0',)
    """
    if not any(True for _ in model.children()):
        raise ModelError(
            f"{type(model).__name__} has no layers inside to address; wrap it: nn.Sequential(layer)"
        )
    recorder = _Recorder()
    hooks: list[Any] = []
    for name, module in model.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(recorder.before(name)))
            hooks.append(module.register_forward_hook(recorder.after(name)))
    try:
        with evaluating(model), torch.no_grad(), recorder.follow:
            model(x[:1])
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        shape = "×".join(str(size) for size in x.shape[1:])
        raise ModelError(
            f"{type(model).__name__} cannot take inputs of shape {shape}: {error}. "
            f"Choose a dataset, or options of it, that fit the model"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.trace(tuple(x.shape[1:]))


class _Recorder:
    """Collects calls, and each tensor's version at the time, to see what is overwritten later."""

    def __init__(self) -> None:
        self.follow = Follow(self._activated)
        self._counts: dict[str, int] = {}
        self._calls: list[tuple[Key, nn.Module, Tensor, Tensor]] = []
        self._seen: list[tuple[Key, At, Tensor, int]] = []

    def before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            call = self._counts[name] = self._counts.get(name, -1) + 1
            if inputs and isinstance(inputs[0], Tensor):
                self._note((name, call), "input", inputs[0])  # the module may overwrite it itself

        return enter

    def after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
                return
            if output.dim() < 2:
                return
            key = (name, self._counts[name])
            self._calls.append((key, module, inputs[0], output))
            self._note(key, "pre", output)
            self.follow.watch(output, key)

        return record

    def _activated(self, key: Key, result: Tensor) -> Tensor:
        self._note(key, "post", result)
        return result

    def _note(self, key: Key, at: At, tensor: Tensor) -> None:
        self._seen.append((key, at, tensor, tensor._version))

    def trace(self, input_shape: tuple[int, ...]) -> Trace:
        overwritten: dict[Key, set[At]] = {}
        activated = set()
        for key, at, tensor, version in self._seen:
            if at == "post":
                activated.add(key)
            if tensor._version != version:
                overwritten.setdefault(key, set()).add(at)
        return Trace(
            tuple(
                LayerCall(
                    layer=key[0],
                    call=key[1],
                    kind=_kind(module),
                    input_shape=tuple(inputs.shape[1:]),
                    shape=tuple(output.shape[1:]),
                    unit_axis=_unit_axis(module, output),
                    activated=key in activated,
                    overwritten=frozenset(overwritten.get(key, ())),
                    fan_in=_fan_in(module),
                )
                for key, module, inputs, output in self._calls
            ),
            input_shape,
        )


def _kind(module: nn.Module) -> Any:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv"
    return "other"


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    """Channels come second, except behind a linear layer and in `[n, tokens, width]`."""
    kind = _kind(module)
    if kind == "linear" or (kind == "other" and output.dim() == 3):
        return output.dim() - 1
    return 1


def _fan_in(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.weight[0].numel()
    return 0
