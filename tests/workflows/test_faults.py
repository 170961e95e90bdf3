"""What goes wrong with machines: after it, a run is whole and equal, or says what is missing."""

import errno
import os
import signal
from concurrent.futures import BrokenExecutor
from typing import ClassVar

import pytest

from polykit import session
from polykit.api import Engine, Entry, hookimpl
from polykit.errors import DiskFullError, RunError
from polykit.registry import Registry
from polykit.runtime import files
from polykit.runtime.locks import only_here
from polykit.runtime.store import RunStore
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit_builtins.engines.serial import SerialExecutor
from tests.workflows.test_engines import QUICK, command, gone, until, workers_of
from tests.workflows.test_engines import files as contents

CONFIG = AnalyzeConfig(**QUICK)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of an undisturbed run."""
    run = session.run(CONFIG, Registry.discover(), out=tmp_path_factory.mktemp("runs") / "a")
    return contents(run.path)


@pytest.fixture
def run(tmp_path):
    return session.run(CONFIG, Registry.discover(), out=tmp_path / "a")


@pytest.mark.parametrize(
    "file", ["seed-0-dense/model.safetensors", "seed-1-magnitude-0.3/rows.parquet"]
)
def test_a_damaged_cell_is_named_and_done_again(run, whole, file, caplog):
    path = run.path / "cells" / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match="not what was written"):
        RunStore.open(run.path).file(*file.split("/"))
    assert session.resume(run.path, Registry.discover()).status == "complete"
    assert f"{file} is damaged" in caplog.text
    assert contents(run.path) == whole


def test_a_cell_damaged_before_it_is_needed_fails_what_needs_it_and_resume_mends_it(
    tmp_path, whole
):
    class Moth:
        @hookimpl
        def polykit_cell_finished(self, cell):
            if cell == "seed-0-dense":
                path = tmp_path / "a" / "cells" / cell / "model.safetensors"
                path.write_bytes(path.read_bytes()[:-1] + b"?")

    registry = Registry.discover()
    registry.register(Moth(), "moth")
    run = session.run(CONFIG, registry, out=tmp_path / "a")
    assert list(run.failures) == ["seed-0-magnitude-0.3"]
    assert "model.safetensors is damaged" in run.failures["seed-0-magnitude-0.3"]
    assert session.resume(run.path, Registry.discover()).failures == {}
    assert contents(run.path) == whole


@pytest.mark.parametrize("writes", [3, 8, 20])
def test_a_full_disk_ends_the_run_at_once_and_loses_nothing(tmp_path, whole, monkeypatch, writes):
    left, real = [writes], os.fsync

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(DiskFullError, match="no space left on the disk"):
        session.run(CONFIG, Registry.discover(), out=tmp_path / "a")
    assert left[0] >= -3, "nothing more was begun"
    assert not list((tmp_path / "a").rglob(".*"))
    monkeypatch.undo()
    assert session.resume(tmp_path / "a", Registry.discover()).status == "complete"
    assert contents(tmp_path / "a") == whole


def test_a_run_has_one_driver_at_a_time(run):
    before = contents(run.path)
    with only_here(run.path), pytest.raises(RunError, match="another process is at work"):
        session.resume(run.path, Registry.discover())
    assert contents(run.path) == before


def test_killed_workers_and_a_killed_driver_lose_nothing(tmp_path, whole):
    words = ["--model", "mlp:widths=32", "--pruner", "magnitude", "--metric", "hoyer"]
    words += ["--density", 0.3, "--no-control", "--epochs", 1, "--retrain-epochs", 1]
    words += ["--seed", 0, "--seed", 1, "--ensemble", 1, "--engine", "local:workers=1"]
    driver = command("analyze", *words, "--no-report", "--out", tmp_path / "a")
    until(lambda: workers_of(driver.pid))
    kill(workers_of(driver.pid)[0])
    until((tmp_path / "a" / "cells" / "seed-0-dense").exists)
    left = workers_of(driver.pid)
    kill(driver.pid)
    assert driver.wait() == -signal.SIGKILL
    until(lambda: gone(left))
    assert session.open_run(tmp_path / "a").status == "running"
    driver = command("run", "--resume", tmp_path / "a", "--no-report")
    until(lambda: workers_of(driver.pid) or driver.poll() is not None)
    kill(*workers_of(driver.pid))
    _, words = driver.communicate(timeout=120)
    assert (driver.returncode, words) == (
        0,
        "warning: a worker process was killed; what it was at begins again\n",
    )
    assert session.open_run(tmp_path / "a").status == "complete"
    assert contents(tmp_path / "a") == whole


def kill(pid):
    os.kill(pid, signal.SIGKILL)


class Breaking(Engine):
    """Loses one piece of work at `loses`, or all that is submitted from there on."""

    shares_objects: ClassVar[bool] = True
    loses: int = 1
    for_good: bool = False

    def executor(self, *, threads, device):
        return BreakingExecutor(self)


class BreakingExecutor(SerialExecutor):
    def __init__(self, engine):
        self.engine, self.count = engine, 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.count - 1 == self.engine.loses:
            return super().submit(lose)
        if self.count - 1 > self.engine.loses and self.engine.for_good:
            raise BrokenExecutor("nobody is left")
        return super().submit(fn, *args, **kwargs)


def lose():
    raise BrokenExecutor("it was killed")


class Breakers:
    @hookimpl
    def polykit_entries(self):
        return [Entry("engine", "breaking", f"{__name__}:Breaking", "loses work")]


@pytest.mark.parametrize(
    ("engine", "lost"),
    [
        (
            "breaking",
            {
                "seed-1-dense": "its worker was lost: it was killed",
                "seed-1-magnitude-0.3": "not run: it needs seed-1-dense, which failed",
            },
        ),
        (
            "breaking:loses=2,for_good=true",
            {
                "seed-0-magnitude-0.3": "its worker was lost: it was killed",
                "seed-1-magnitude-0.3": "its worker was lost: nobody is left",
            },
        ),
    ],
)
def test_lost_work_is_named_and_the_rest_is_done(engine, lost, tmp_path, whole):
    registry = Registry.discover()
    registry.register(Breakers(), "breakers")
    config = CONFIG.model_copy(update={"engine": engine})
    run = session.run(config, registry, out=tmp_path / "a")
    assert (run.status, run.failures) == ("failed", lost)
    run = session.resume(run.path, registry, engine="serial")
    assert (run.status, run.failures) == ("complete", {})
    assert contents(run.path) == whole
