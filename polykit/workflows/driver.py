"""Carries out a sweep: cells over an engine, failures gathered, the run's record kept true."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib.metadata import entry_points
from typing import Any

from polykit.api import Engine
from polykit.entries import Chosen
from polykit.errors import DiskFullError, RunError, UsageError
from polykit.registry import GROUP
from polykit.runtime.locks import only_here
from polykit.runtime.store import RunStore
from polykit.workflows.catalogue import workflow_of
from polykit.workflows.plugins import create
from polykit.workflows.sweep import Cell, Phase
from polykit.workflows.tasks import Origin, Outcome, Task, perform, prepared

_log = logging.getLogger("polykit")


def choose_engine(setup: Any) -> Chosen:
    """Make the engine of a resolved run; raise UsageError if it cannot carry out that run.

    Other processes make the run's objects again from its configuration, which cannot hold a
    caller's own ones.
    """
    config = setup.config
    engine = create("engine", config.engine, setup.registry, getattr(config, "options", {}))
    own = [] if engine.instance.shares_objects else sorted(set(_own(setup.plugins)))
    if own:
        raise UsageError(
            f"engine {engine.name!r} works in other processes, which cannot get at what lives in "
            f"this one only: {', '.join(own)}. Use engine='serial', or make a plugin of it: "
            f"polykit plugins new"
        )
    return engine


def _own(records: Any) -> Iterator[str]:
    """Name what no installed distribution brings, among the records of a run's plugins."""
    if isinstance(records, Mapping) and "distribution" in records:
        installed = {point.dist.name for point in entry_points(group=GROUP) if point.dist}
        if records["distribution"] not in installed:
            yield str(records["name"])
    elif isinstance(records, Mapping):
        yield from (name for value in records.values() for name in _own(value))
    elif isinstance(records, Sequence) and not isinstance(records, str):
        yield from (name for value in records for name in _own(value))


def carry_out(setup: Any, store: RunStore, engine: Engine) -> dict[str, str]:
    """Run every cell that is not done yet, write the tables, and return the failures by cell.

    A cell starts when those that it needs are done. One that fails does not stop the others, but
    for those that need it; a fatal error is raised. Ctrl-C is raised too; what is done stays, and
    a later call goes on from there.
    """
    with only_here(store.path):
        return _drive(setup, store, engine)


def _drive(setup: Any, store: RunStore, engine: Engine) -> dict[str, str]:
    workflow = workflow_of(setup.config)[1]
    meta = store.meta
    store.tidy()
    for problem in store.discard_damaged(meta["cells"]):
        _log.warning("%s; its cell is done again", problem)
    meta["status"] = "running"
    store.write_meta(meta)
    setup.registry.notify(
        "polykit_run_started", path=store.path, config=meta["config"], cells=meta["cells"]
    )
    sweep = _Sweep(setup, store, workflow.phases(setup, store))
    status = "interrupted"
    try:
        sweep.run(engine)
        meta["tables"] = store.collect(meta["cells"])
        status = "failed" if sweep.failures else "complete"
    except Exception:
        status = "failed"
        raise
    finally:
        failures = {name: sweep.failures[name] for name in meta["cells"] if name in sweep.failures}
        store.tidy()
        meta |= {"status": status, "failures": failures, "notices": store.notices(meta["cells"])}
        if workflow.closing is not None:
            workflow.closing(meta, list(sweep.skipped))
        store.write_meta(meta)
        setup.registry.notify(
            "polykit_run_finished", path=store.path, status=status, failures=failures
        )
    return failures


@dataclass(frozen=True)
class _Group:
    """Cells that are worked on together, and the phase whose work it is."""

    phase: int
    cells: tuple[Cell, ...]


class _Sweep:
    """One run's cells on their way: what failed, and what could not be read."""

    def __init__(self, setup: Any, store: RunStore, phases: Sequence[Phase]) -> None:
        self.failures: dict[str, str] = {}
        self.skipped: dict[str, None] = {}
        self._setup, self._store, self._phases = setup, store, phases
        blocked = [p for p in setup.registry.plugins if p.status == "blocked"]
        self._origin = Origin(
            store.path.resolve(),
            setup.config.fingerprint(setup.plugins),
            tuple(f"{plugin.distribution}:{plugin.name}" for plugin in blocked),
        )

    def run(self, engine: Engine) -> None:
        """Submit each group when the cells that it needs are done, in order of the phases."""
        groups = [
            _Group(number, tuple(group))
            for number, phase in enumerate(self._phases)
            for group in phase.groups
        ]
        home = {cell.name: number for number, group in enumerate(groups) for cell in group.cells}
        order = TopologicalSorter(
            {
                number: {home[need] for cell in group.cells for need in cell.needs}
                for number, group in enumerate(groups)
            }
        )
        order.prepare()
        ready: deque[int] = deque()
        running: dict[Future[Outcome], int] = {}
        executor = engine.executor(threads=self._setup.threads, device=str(self._setup.device))
        with prepared(self._origin, self._phases), executor:
            while order.is_active():
                ready += order.get_ready()
                if ready:
                    number = ready.popleft()
                    future = self._submit(executor, groups[number])
                    if future is None:
                        order.done(number)
                        continue
                    running[future] = number
                    finished = {future} if future.done() else set()
                else:
                    finished = wait(running, return_when=FIRST_COMPLETED).done
                for future in finished:
                    number = running.pop(future)
                    self._conclude(groups[number], future)
                    order.done(number)

    def _submit(self, executor: Executor, group: _Group) -> Future[Outcome] | None:
        """Submit what of a group can be worked on; None if there is nothing to do."""
        open_cells = [cell for cell in group.cells if not self._is_blocked(cell)]
        names = tuple(cell.name for cell in open_cells)
        if all(self._store.has(name) for name in names):
            for name in names:
                self._tell(name)
            return None
        task = Task(self._origin, group.phase, names, self._setup.threads)
        try:
            return executor.submit(perform, task)
        except BrokenExecutor as error:
            lost: Future[Outcome] = Future()
            lost.set_exception(error)
            return lost

    def _is_blocked(self, cell: Cell) -> bool:
        """Note a cell whose forerunner failed, and say so."""
        lost = [name for name in cell.needs if name in self.failures]
        if lost:
            self.failures[cell.name] = f"not run: it needs {', '.join(lost)}, which failed"
            self._tell(cell.name)
        return bool(lost)

    def _conclude(self, group: _Group, future: Future[Outcome]) -> None:
        """Take in what came of a group; raise what ends the run."""
        try:
            outcome = future.result()
        except BrokenExecutor as error:
            lost = RunError(f"its worker was lost: {error}")
            names = [cell.name for cell in group.cells if cell.name not in self.failures]
            outcome = Outcome({n: lost for n in names if not self._store.has(n)}, ())
        except Exception as error:
            error.add_note(f"while working on {', '.join(cell.name for cell in group.cells)}")
            raise
        self.skipped |= dict.fromkeys(outcome.skipped)
        for name, failure in outcome.failures.items():
            if isinstance(failure, (DiskFullError, *self._phases[group.phase].fatal)):
                raise failure
            _log.error("%s failed: %s", name, failure)
            self.failures[name] = str(failure)
        for cell in group.cells:
            if cell.name not in self.failures or cell.name in outcome.failures:
                self._tell(cell.name)

    def _tell(self, name: str) -> None:
        self._setup.registry.notify(
            "polykit_cell_finished", cell=name, failure=self.failures.get(name)
        )
