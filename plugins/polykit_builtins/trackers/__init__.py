"""Trackers: what happens in a run, told to TensorBoard or MLflow while it happens. Torch-free.

They follow the runs of processes whose variable `POLYKIT_TRACKERS` names them, as `--tracker` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from polykit.api import TRACKERS_VARIABLE, hookimpl
from polykit.errors import PluginError, UsageError, did_you_mean
from polykit_builtins.trackers.numbers import headlines, plain

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger("polykit")

NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""The modules that each tracker needs; it is in the module of its own name here."""


class Tracker(Protocol):
    """Where a run's numbers go."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name, which are to be seen at once."""
        ...

    def close(self, status: str) -> None:
        """The run ended: complete, failed or interrupted."""
        ...


class Trackers:
    """Follows one run at a time and hands its numbers on, in each process that works on it.

    Names are `CELL/…`, so that the networks of a sweep lie beside each other: losses by epoch, a
    pruner's figures by its step, headline statistics, and how many cells are done and failed.
    """

    def __init__(self) -> None:
        self._open: list[Tracker] = []
        self._cells: defaultdict[str, int] = defaultdict(int)

    @hookimpl
    def polykit_run_started(self, path: Path, config: Mapping[str, Any]) -> None:
        """Start the trackers that are asked for. Raises PolykitError for one that cannot be had."""
        self._cells.clear()
        self._begin(lambda module: module.start(path, config))

    @hookimpl
    def polykit_work_started(self, path: Path) -> None:
        """Go on with what the process that drives the run has started."""
        self._begin(lambda module: module.join(path))

    @hookimpl
    def polykit_epoch(
        self, cell: str, phase: str, epoch: int, losses: Mapping[str, float], model: nn.Module
    ) -> None:
        """Hand on the losses of an epoch."""
        self._tell(f"{cell}/{phase}", losses, epoch)

    @hookimpl
    def polykit_pruning(
        self, cell: str, pruner: str, step: int, numbers: Mapping[str, float]
    ) -> None:
        """Hand on the figures of a pruner's step."""
        self._tell(f"{cell}/{pruner}", numbers, step)

    @hookimpl
    def polykit_pruned(self, cell: str, achieved: float) -> None:
        """Hand on the density that was reached."""
        self._tell(cell, {"achieved_density": achieved}, 0)

    @hookimpl
    def polykit_measured(self, cell: str, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand on what was measured of whole networks."""
        if self._open:
            self._tell(f"{cell}/{stage}", headlines(rows), 0)

    @hookimpl
    def polykit_cell_finished(self, failure: str | None) -> None:
        """Count the cells."""
        self._cells["done" if failure is None else "failed"] += 1
        self._tell("cells", self._cells, sum(self._cells.values()))

    @hookimpl
    def polykit_run_finished(self, status: str) -> None:
        """Let the trackers end."""
        self._each(lambda tracker: tracker.close(status))
        self._open = []

    def _begin(self, open_one: Callable[[Any], Tracker]) -> None:
        self._open = []
        for module in asked(os.environ.get(TRACKERS_VARIABLE, "")):
            self._open.append(open_one(module))

    def _tell(self, place: str, values: Mapping[str, float], step: int) -> None:
        named = {f"{place}/{name}": float(value) for name, value in values.items() if plain(value)}
        if named:
            self._each(lambda tracker: tracker.numbers(named, step))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        """Let each tracker act; one that fails is left out from then on, or it might slow the run.

        A server that does not answer costs its timeout once.
        """
        for tracker in list(self._open):
            try:
                act(tracker)
            except Exception as error:
                self._open.remove(tracker)
                _log.warning(
                    "tracker %s failed and follows the run no more: %s: %s",
                    type(tracker).__module__.rpartition(".")[2],
                    type(error).__name__,
                    error,
                )


def asked(text: str) -> list[Any]:
    """Import the modules of the trackers named in a list with commas.

    Raises UsageError for a name that is not known, PluginError for a library that is not there.

    >>> asked("")
    []
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in NEEDS:
            raise UsageError(
                f"unknown tracker {name!r}.{did_you_mean(name, NEEDS)} "
                f"Trackers: {', '.join(NEEDS)}; the run goes on without any"
            )
        if missing := [module for module in NEEDS[name] if not importlib.util.find_spec(module)]:
            raise PluginError(
                f"tracker {name!r} needs {', '.join(missing)}; install it with: "
                f"pip install 'polykit[{name}]'; the run goes on without any"
            )
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


TRACKERS = Trackers()
"""The plugin of this process."""
