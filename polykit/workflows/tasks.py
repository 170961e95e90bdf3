"""A piece of a sweep's work as plain data, and how any process carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from polykit.errors import RunError
from polykit.registry import Registry
from polykit.runtime.devices import cpu_threads
from polykit.runtime.store import RunStore
from polykit.workflows.catalogue import WORKFLOWS, saved_config
from polykit.workflows.sweep import Failures, Phase


@dataclass(frozen=True)
class Origin:
    """What a process needs to make a run's objects again: its directory, and who asks.

    `fingerprint` tells runs apart that take the same directory one after the other. `blocked` are
    the plugins that the user left out.
    """

    run: Path
    fingerprint: str
    blocked: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """Some cells of one phase of a run, and the CPU threads to compute them with."""

    origin: Origin
    phase: int
    cells: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Outcome:
    """The errors of the cells that failed, and the samples that could not be read so far."""

    failures: Failures
    skipped: tuple[str, ...]


_prepared: dict[Origin, Sequence[Phase]] = {}


@contextmanager
def prepared(origin: Origin, phases: Sequence[Phase]) -> Iterator[None]:
    """Let tasks of this run that are performed in this process use its live objects."""
    _prepared[origin] = phases
    try:
        yield
    finally:
        del _prepared[origin]


def perform(task: Task) -> Outcome:
    """Carry out a task: with the objects that this process prepared, or with ones made again.

    What is made again is kept for the next task of the same run. Raises PolykitError where that
    is not possible; the errors of cells are in the outcome.
    """
    store = RunStore(task.origin.run)
    if all(store.has(name) for name in task.cells):  # by a worker that died before it could tell
        return Outcome({}, ())
    phases = _prepared.get(task.origin) or _made_again(task.origin)
    phase, wanted = phases[task.phase], set(task.cells)
    cells = [cell for group in phase.groups for cell in group if cell.name in wanted]
    with cpu_threads(task.threads):
        failures = phase.work(cells)
    return Outcome(failures, tuple(phase.skipped()))


@lru_cache(maxsize=1)
def _made_again(origin: Origin) -> Sequence[Phase]:
    store = RunStore.open(origin.run)
    workflow = WORKFLOWS[store.workflow]
    setup = workflow.resolve(saved_config(store), Registry.discover(disabled=origin.blocked))
    if setup.plugins != store.meta["plugins"]:
        raise RunError(
            f"a worker finds other plugins or options than {origin.run} began with; install the "
            f"same packages where the workers run"
        )
    setup.registry.notify("polykit_work_started", path=store.path, config=store.meta["config"])
    return workflow.phases(setup, store)
