"""Networks made by a user's own function."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import nn

from polykit.api import Field, Model
from polykit.errors import ModelError
from polykit_builtins.models.fitting import check_fit


class Factory(Model):
    """The network that a function returns, named as `package.module:function`.

    With options it is written `factory:package.module:function,trained=true`. The function is
    called as `function(input_shape, outputs)` where it has parameters of these names or two
    required ones, else as `function()`, and returns a new `nn.Module` each time. The module is
    looked for in the current directory first. Raises ModelError where the function cannot be
    found or called, or its network does not fit the data.
    """

    argument: ClassVar[str] = "target"

    target: str = Field("", description="where the function is: package.module:factory")
    trained: bool = Field(False, description="the network comes trained, so do not train it first")

    @property
    def pretrained(self) -> bool:
        """What the option `trained` says."""
        return self.trained

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Import and call the factory, and check what it returns."""
        with _current_directory_importable():
            factory = self._find()
            try:
                model = _prepared(factory, input_shape, outputs, self.target)()
            except ModelError:
                raise
            except Exception as error:
                raise ModelError(
                    f"{self.target} raised {type(error).__name__}: {error}; mend the factory"
                ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.target} returned a {type(model).__name__}; return a torch.nn.Module"
            )
        remedy = "let the factory use the arguments input_shape and outputs, or choose other data"
        check_fit(model, self.target, input_shape, outputs, remedy)
        return model

    def _find(self) -> Callable[..., Any]:
        module, _, attribute = self.target.partition(":")
        if not (module and attribute):
            raise ModelError(f"{self.target!r} names no factory; write package.module:factory")
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:
            raise ModelError(
                f"cannot import {module!r} for the model {self.target} ({type(error).__name__}: "
                f"{error}); run polykit in the folder that holds it, or install it"
            ) from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ModelError(f"{module!r} has no {attribute!r}; write package.module:factory")
            found = getattr(found, part)
        if isinstance(found, nn.Module) or not callable(found):
            raise ModelError(
                f"{self.target} is a {type(found).__name__}, not a factory; write a function that "
                f"returns a new network"
            )
        return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _prepared(
    factory: Callable[..., Any], input_shape: tuple[int, ...], outputs: int, name: str
) -> Callable[[], Any]:
    """Bind the arguments that the factory's signature asks for."""
    parameters = inspect.signature(factory).parameters
    required = [
        parameter
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if {"input_shape", "outputs"} <= set(parameters):
        return lambda: factory(input_shape=input_shape, outputs=outputs)
    if len(required) == 2:
        return lambda: factory(input_shape, outputs)
    if not required:
        return factory
    raise ModelError(
        f"{name}{inspect.signature(factory)} must be callable as factory(input_shape, outputs) or "
        f"factory()"
    )
