"""How far a long computation inside a plugin has come, told to whoever watches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Watcher(Protocol):
    """What is called with each step; `numbers` are named figures of that step."""

    def __call__(self, *, step: int, steps: int, numbers: Mapping[str, float]) -> None:
        """Hear that `step` of `steps` is done."""
        ...


_watcher: ContextVar[Watcher | None] = ContextVar("polykit.progress", default=None)


def tell(step: int, steps: int, **numbers: float) -> None:
    """Say that `step` of `steps` is done, with figures worth seeing; nobody needs to listen.

    The watcher may look at what it is told and cannot change the computation.
    """
    if (watcher := _watcher.get()) is not None:
        watcher(step=step, steps=steps, numbers=numbers)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` with all that is told inside the block, in this thread and its tasks.

    The innermost watcher hears it; behind the block the one before is back.

    >>> with watching(lambda **told: print(told)):
    ...     tell(1, 2, loss=0.5)
    {'step': 1, 'steps': 2, 'numbers': {'loss': 0.5}}
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
