"""Chooses where to compute."""

from __future__ import annotations

import torch

from polykit.errors import UsageError


def pick_device(name: str) -> torch.device:
    """Return the device called auto, cpu, cuda, cuda:N or mps; raise UsageError if it is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, _, index = name.partition(":")
    if kind not in available or (index and not (kind == "cuda" and index.isdigit())):
        raise UsageError(f"{name!r} is no device; choose auto, cpu, cuda, cuda:N or mps")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(kind for kind, there in available.items() if there)
        raise UsageError(f"device {name!r} is not available here; available: {there}")
    return torch.device(name)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
