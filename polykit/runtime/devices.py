"""Chooses where to compute."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from polykit.errors import UsageError


def pick_device(name: str) -> torch.device:
    """Return the device called auto, cpu, cuda, cuda:N or mps; raise UsageError if it is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UsageError(f"{name!r} is no device; choose auto, cpu, cuda, cuda:N or mps")
    kind, _, index = name.partition(":")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(kind for kind, there in available.items() if there)
        raise UsageError(f"device {name!r} is not available here; available: {there}")
    return torch.device(name)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch, numpy and scikit-learn use `count` threads; behind the block it is as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
