"""Asserts that nothing was left behind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Assert that the block leaves models and random number generators as they were.

    Of each model: the same parameter and buffer objects with the same values, `requires_grad` and
    `grad`; the same training flags and hooks of all modules. Of the process: the states of the
    generators of torch, NumPy and `random`, and whether gradients are recorded.

    >>> model = nn.Linear(2, 1)
    >>> with unchanged(model):
    ...     _ = model(torch.zeros(1, 2))
    >>> with unchanged(model):
    ...     model.bias.data += 1
    Traceback (most recent call last):
    AssertionError: the value of bias has changed
    """
    before = [_Snapshot(model) for model in models]
    process = _process_state()
    try:
        yield
    finally:
        for snapshot in before:
            snapshot.compare()
        for (name, was), now in zip(process.items(), _process_state().values(), strict=True):
            _expect(was == now, f"{name} has changed")


class _Snapshot:
    """What a model was like."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tensors = dict(_tensors(model))
        self._values = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._wanted = {name: tensor.requires_grad for name, tensor in self._tensors.items()}
        self._grads = {
            name: None if tensor.grad is None else (tensor.grad, tensor.grad.clone())
            for name, tensor in self._tensors.items()
        }
        self._flags = {name: module.training for name, module in model.named_modules()}
        self._hooks = _hooks(model)

    def compare(self) -> None:
        """Raise AssertionError where the model is different now."""
        now = dict(_tensors(self._model))
        _expect(list(now) == list(self._tensors), "parameters or buffers were added or removed")
        for name, tensor in self._tensors.items():
            _expect(now[name] is tensor, f"{name} is another object")
            value, grad = self._values[name], self._grads[name]
            same = torch.allclose(tensor, value, rtol=0, atol=0, equal_nan=True)
            _expect(same, f"the value of {name} has changed")
            _expect(tensor.requires_grad == self._wanted[name], f"requires_grad of {name} changed")
            if grad is None or tensor.grad is None:
                _expect(tensor.grad is None and grad is None, f"grad of {name} appeared or went")
            else:
                kept = tensor.grad is grad[0] and torch.equal(tensor.grad, grad[1])
                _expect(kept, f"grad of {name} has changed")
        flags = {name: module.training for name, module in self._model.named_modules()}
        _expect(flags == self._flags, "modules or their training flags have changed")
        _expect(_hooks(self._model) == self._hooks, "hooks were left on the model, or removed")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _hooks(model: nn.Module) -> dict[str, list[int]]:
    """Identities of all hooks, by module and kind of hook."""
    return {
        f"{name}.{kind}": list(hooks)
        for name, module in model.named_modules()
        for kind, hooks in vars(module).items()
        if kind.endswith("_hooks")
    }


def _process_state() -> dict[str, Any]:
    # repr of arrays is cut short, so compare the bytes
    numpy: Any = np.random.get_state()
    return {
        "torch's random number generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random number generator": (numpy[1].tobytes(), *numpy[2:]),
        "Python's random number generator": random.getstate(),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "torch's default float type": torch.get_default_dtype(),
    }


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
