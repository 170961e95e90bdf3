"""Carries out a sweep: cells over an engine, failures gathered, the run's record kept true."""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import torch

from polykit.errors import PolykitError
from polykit.registry import Registry
from polykit.runtime.devices import cpu_threads
from polykit.runtime.store import RunStore
from polykit.workflows.config import SweepConfig

_log = logging.getLogger("polykit")

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
    `fatal` errors end the run: no other cell could do better.
    """

    work: Callable[[Any], Failures]
    groups: Sequence[Sequence[Cell]]
    fatal: tuple[type[PolykitError], ...] = ()


def carry_out(
    phases: Sequence[Phase],
    store: RunStore,
    registry: Registry,
    *,
    engine: str,
    threads: int,
    closing: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, str]:
    """Run every cell that is not done yet, write the tables, and return the failures by cell.

    A cell that fails does not stop the others, but for those that need it; a fatal error is
    raised. Ctrl-C is raised too; what is done stays, and a later call goes on from there. `closing`
    adds to the run's record before it is written for the last time.
    """
    meta = store.meta
    meta["status"] = "running"
    store.write_meta(meta)
    registry.notify(
        "polykit_run_started", path=store.path, config=meta["config"], cells=meta["cells"]
    )
    failures: dict[str, str] = {}
    status = "interrupted"
    try:
        runner = registry.create("engine", engine).instance
        with runner.executor() as executor, cpu_threads(threads):
            for phase in phases:
                groups = [
                    [cell for cell in group if not _blocked(cell, failures)]
                    for group in phase.groups
                ]
                futures = [
                    executor.submit(phase.work, group)
                    for group in groups
                    if not all(store.has(cell.name) for cell in group)
                ]
                for future in futures:
                    for name, error in future.result().items():
                        if isinstance(error, phase.fatal):
                            raise error
                        _log.error("%s failed: %s", name, error)
                        failures[name] = str(error)
        store.collect(meta["cells"])
        status = "failed" if failures else "complete"
    except Exception:
        status = "failed"
        raise
    finally:
        meta |= {"status": status, "failures": failures, "notices": store.notices(meta["cells"])}
        if closing is not None:
            closing(meta)
        store.write_meta(meta)
        registry.notify("polykit_run_finished", path=store.path, status=status, failures=failures)
    return failures


def _blocked(cell: Cell, failures: dict[str, str]) -> bool:
    """Note a cell whose forerunner failed, and say so."""
    lost = [name for name in cell.needs if name in failures]
    if lost:
        failures[cell.name] = f"not run: it needs {', '.join(lost)}, which failed"
    return bool(lost)


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
