"""Runs to be made: planned, begun, resumed, or made once more, of any workflow."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

from polykit.entries import Chosen
from polykit.errors import RunError
from polykit.registry import Registry
from polykit.runtime.store import RunStore
from polykit.session.runs import Run
from polykit.workflows.catalogue import WORKFLOWS, saved_config, workflow_of
from polykit.workflows.config import SERIAL, SweepConfig
from polykit.workflows.driver import carry_out, choose_engine

_log = logging.getLogger("polykit")


class Plan(Protocol):
    """What a run would do: as plain values, or in words, one fact a line."""

    def to_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def lines(self) -> list[str]: ...  # noqa: D102


def plan(config: SweepConfig, registry: Registry) -> Plan:
    """Say what a run would do, and what it would cost, without doing it."""
    _, workflow = workflow_of(config)
    return workflow.plan(workflow.resolve(config, registry))  # type: ignore[no-any-return]


def run(
    config: SweepConfig,
    registry: Registry,
    *,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    command: str | None = None,
) -> Run:
    """Run a configuration that names all it needs; return the run, whose failures may not be empty.

    The directory is `out`, which must be new or empty, or a new one in `runs_dir` named after the
    configuration. `command` is what the run's record says repeats it, if not the configuration's
    own. Raises PolykitError where nothing can be run.
    """
    _, workflow = workflow_of(config)
    prepared = workflow.resolve(config, registry)
    engine = choose_engine(prepared)
    said = config.command() if command is None else command
    return _carry_out(prepared, _create(prepared, out, runs_dir, said), engine)


def resume(path: Path, registry: Registry, *, engine: str | None = None) -> Run:
    """Go on with an unfinished run, maybe on another engine; cells that are done stay as they are.

    Raises RunError if the run cannot be resumed: it is damaged, or what it needs has changed.
    """
    store = RunStore.open(path)
    config = saved_config(store)
    config = config if engine is None else config.on(engine)
    prepared = WORKFLOWS[store.workflow].resolve(config, registry)
    if prepared.plugins != store.meta["plugins"]:
        raise RunError(
            f"{path} cannot go on: the plugins or their options are not those it began with; "
            f"start anew with: polykit runs rerun {path}"
        )
    return _carry_out(prepared, store, choose_engine(prepared))


def rerun(
    path: Path,
    registry: Registry,
    *,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
) -> Run:
    """Run a saved run's configuration again, into a new directory."""
    store = RunStore.open(path)
    command = str(store.meta.get("command") or "")
    return run(saved_config(store), registry, out=out, runs_dir=runs_dir, command=command)


def begin(prepared: Any, out: str | Path | None, runs_dir: str | Path, resume: bool) -> Run:
    """Run what is prepared in a new directory, or go on with the run of its kind in `out`."""
    engine = choose_engine(prepared)
    if resume and out is not None and (Path(out) / "run.json").is_file():
        store = RunStore.open(Path(out))
        began = saved_config(store).on(SERIAL), store.meta["plugins"]
        if began != (prepared.config.on(SERIAL), prepared.plugins):
            raise RunError(f"{out} holds a run of another configuration; choose another `out`")
    else:
        store = _create(prepared, out, runs_dir, prepared.config.command())
    return _carry_out(prepared, store, engine)


def _create(prepared: Any, out: str | Path | None, runs_dir: str | Path, command: str) -> RunStore:
    name, workflow = workflow_of(prepared.config)
    meta = workflow.describe(prepared, command)
    if out is not None:
        return RunStore.create(Path(out), meta)
    parts = ["".join(c if c.isalnum() else "_" for c in p)[:24].strip("_") for p in prepared.about]
    stem = "-".join([name, *parts, prepared.config.fingerprint(prepared.plugins)])
    return RunStore.create_in(Path(runs_dir), stem, meta)


def _carry_out(prepared: Any, store: RunStore, engine: Chosen) -> Run:
    failures = carry_out(prepared, store, engine.instance)
    if failures:
        _log.warning("%d of the cells failed: %s", len(failures), ", ".join(failures))
    return Run(store.path)
