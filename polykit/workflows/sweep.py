"""What a sweep is made of: cells, the work on groups of them, and what the run keeps on record."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import torch

from polykit.errors import PolykitError
from polykit.workflows.config import SweepConfig

Failures = Mapping[str, PolykitError]


class Cell(Protocol):
    """One piece of a sweep, with a stable name that serves as a directory."""

    @property
    def name(self) -> str:
        """The cell's name."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the cells that must be done before."""
        ...


@dataclass(frozen=True)
class Phase:
    """Groups of cells that do not depend on each other, and the work on one group.

    `work` writes the group's cells into the store and returns the errors of those that failed.
    `fatal` errors end the run: no other cell could do better. `skipped` names the samples that
    could not be read so far.
    """

    work: Callable[[Any], Failures]
    groups: Sequence[Sequence[Cell]]
    fatal: tuple[type[PolykitError], ...] = ()
    skipped: Callable[[], Sequence[str]] = tuple


def one_by_one(work: Callable[[Any], None], cells: Sequence[Cell]) -> Failures:
    """Do the work on each cell of a group by itself."""
    failures: dict[str, PolykitError] = {}
    for cell in cells:
        try:
            work(cell)
        except PolykitError as error:
            failures[cell.name] = error
    return failures


def groups_of(cells: Sequence[Cell], size: int) -> list[Sequence[Cell]]:
    """Cut cells into groups of at most `size`, in order."""
    return [cells[start : start + size] for start in range(0, len(cells), size)]


def record(
    workflow: str,
    config: SweepConfig,
    plugins: Mapping[str, Any],
    cells: Sequence[Cell],
    command: str,
    device: torch.device,
    threads: int,
) -> dict[str, Any]:
    """Return what `run.json` holds of every sweep at its start."""
    return {
        "polykit": version("polykit"),
        "workflow": workflow,
        "status": "running",
        "config": config.model_dump(mode="json"),
        "plugins": dict(plugins),
        "environment": _environment(device, threads),
        "cells": [cell.name for cell in cells],
        "failures": {},
        "notices": [],
        "command": command,
    }


def _environment(device: torch.device, threads: int) -> dict[str, Any]:
    """What else decides the numbers: versions, device, threads, and the state of the checkout."""
    libraries: Collection[str] = (
        "torch",
        "torchvision",
        "torch-pruning",
        "numpy",
        "pandas",
        "scikit-learn",
        "captum",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "threads": threads,
        "git": _git(),
        **{name: version(name) for name in libraries},
    }


def _git() -> str:
    """The commit of the working directory, `-dirty` if changed, or empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
