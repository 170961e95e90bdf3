"""The engine that runs one cell after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ClassVar, ParamSpec, TypeVar

from polykit.api import Engine

P = ParamSpec("P")
T = TypeVar("T")


class SerialExecutor(Executor):
    """An executor whose `submit` does the work at once.

    An interruption (Ctrl-C) is not caught: it ends the sweep where it stands.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call and return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Serial(Engine):
    """Runs cells one by one in this process."""

    shares_objects: ClassVar[bool] = True

    def executor(self, *, threads: int, device: str) -> Executor:
        """Return a new serial executor."""
        return SerialExecutor()
