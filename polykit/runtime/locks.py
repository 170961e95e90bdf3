"""Keeps two processes from doing the same work in one directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polykit.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_here(path: Path) -> Iterator[None]:
    """Hold a directory inside the block; the lock ends with the process, however that ends.

    Raises RunError if another process holds it. Where the system or the disk has no locks nobody
    is told: two processes on one run are slow, and do no harm.
    """
    if fcntl is None:
        yield
        return
    place = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is at work on {path}; wait until it is done, or end it"
            ) from None
        except OSError:  # a disk without locks
            pass
        yield
    finally:
        os.close(place)
