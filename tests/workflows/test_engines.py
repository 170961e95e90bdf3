"""Engines: the same bytes from every one, in this process and in others."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from torch import nn

import polykit
from polykit import session
from polykit.errors import RunError, UsageError
from polykit.registry import Registry
from polykit.runtime.store import RunStore
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.catalogue import WORKFLOWS
from polykit.workflows.laboratory.config import LaboratoryConfig
from polykit.workflows.tasks import Origin, Task, perform

QUICK = {
    "model": "mlp:widths=32",
    "pruners": ("magnitude",),
    "metrics": ("hoyer",),
    "densities": (0.3,),
    "seeds": (0, 1),
    "epochs": 1,
    "retrain_epochs": 1,
    "ensemble": 1,
    "control": False,
}
WORLDS = {
    "scenarios": [
        {"name": "A", "dataset": "feature-model:N1,samples=200", "model": "mlp:widths=64x16x16"}
    ],
    "seeds": (0, 1),
    "dropouts": (0.0,),
    "ratios": (0.3,),
    "arms": ("unpruned", "pruned"),
    "metrics": ("hoyer",),
    "epochs": 1,
    "retrain_epochs": 1,
}
LOUD = """
    import logging
    from polykit.api import Entry, Metric, hookimpl
    from polykit.errors import ModelError
    from polykit.types import Column, Measurement

    @hookimpl
    def polykit_entries():
        return [Entry("metric", "loud", "loud:Loud", "says and fails")]

    class Loud(Metric):
        columns = {"value": Column("a value")}
        headline = "value"

        def measure(self, subject):
            logging.getLogger("polykit").warning("a word from afar")
            if subject.mask.density < 1:
                raise ModelError("nothing left to hear")
            return Measurement(layers={"fc1": {"value": 1.0}})
"""


def files(path):
    """Every file of a run but its record, with its bytes."""
    found = (p for p in path.rglob("*") if p.is_file() and p.name != "run.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def run(config, out, **changes):
    return session.run(config.model_copy(update=changes), Registry.discover(), out=out)


def test_processes_leave_the_bytes_the_words_and_the_failures_of_one(site, tmp_path, caplog):
    site.install("loud", LOUD)
    config = AnalyzeConfig(**{**QUICK, "metrics": ("hoyer", "loud")})
    alone = run(config, tmp_path / "a")
    words = sorted(record.getMessage() for record in caplog.records)
    caplog.clear()
    heard = Listener()
    registry = Registry.discover()
    registry.register(heard, "listener")
    many = config.model_copy(update={"engine": "local", "options": {"local": {"workers": 2}}})
    shared = session.run(many, registry, out=tmp_path / "b")
    lost = {f"seed-{seed}-magnitude-0.3": "nothing left to hear" for seed in (0, 1)}
    assert shared.failures == lost
    assert files(shared.path) == files(alone.path)
    assert len([path for path in files(shared.path) if "dense" in path]) > 2
    assert sorted(record.getMessage() for record in caplog.records) == words
    assert words.count("a word from afar") == 4
    assert heard.finished == {**dict.fromkeys(shared.meta["cells"]), **lost}
    assert heard.measured == []  # that is told where the work is done
    records = [{**r.meta, "config": 0, "command": 0} for r in (alone, shared)]
    assert records[0] == records[1]


class Listener:
    def __init__(self):
        self.finished, self.measured = {}, []

    @polykit.api.hookimpl
    def polykit_cell_finished(self, cell, failure):
        assert cell not in self.finished
        self.finished[cell] = failure

    @polykit.api.hookimpl
    def polykit_measured(self, cell):
        self.measured.append(cell)


def test_a_run_may_go_on_with_another_engine(tmp_path):
    config = AnalyzeConfig(**QUICK, engine="local", options={"local": {"workers": 1}})
    assert config.on("serial") == AnalyzeConfig(**QUICK)
    assert config.fingerprint([]) == AnalyzeConfig(**QUICK).fingerprint([])
    registry = Registry.discover()
    workflow = WORKFLOWS["analyze"]
    begun = workflow.resolve(config, registry)
    for name, go_on in {
        "a": lambda out: session.resume(out, registry, engine="serial"),
        "b": lambda out: polykit.analyze("mlp:widths=32", out=out, resume=True, **OWN),
    }.items():
        RunStore.create(tmp_path / name, workflow.describe(begun, ""))
        assert go_on(tmp_path / name).status == "complete"
    assert files(tmp_path / "a") == files(tmp_path / "b")


OWN = {name: value for name, value in QUICK.items() if name != "model"}


@pytest.mark.parametrize("config", [AnalyzeConfig(**QUICK), LaboratoryConfig(**WORLDS)])
def test_a_task_makes_its_objects_again_from_the_run(config, tmp_path):
    whole = run(config, tmp_path / "a")
    registry = Registry.discover()
    workflow = WORKFLOWS[whole.meta["workflow"]]
    setup = workflow.resolve(config, registry)
    store = RunStore.create(tmp_path / "b", workflow.describe(setup, ""))
    origin = Origin(store.path, config.fingerprint(setup.plugins), ())
    for number, phase in enumerate(workflow.phases(setup, store)):
        for group in phase.groups:
            names = tuple(cell.name for cell in group)
            assert perform(Task(origin, number, names, 1)).failures == {}
    store.collect(store.meta["cells"])
    assert files(store.path) == files(whole.path)


def test_a_worker_with_other_plugins_says_so(tmp_path):
    config = AnalyzeConfig(**QUICK)
    workflow = WORKFLOWS["analyze"]
    setup = workflow.resolve(config, Registry.discover())
    setup.plugins["pruners"][0]["options"]["added"] = 1
    store = RunStore.create(tmp_path / "a", workflow.describe(setup, ""))
    origin = Origin(store.path, "", ())
    with pytest.raises(RunError, match="install the same packages where the workers run"):
        perform(Task(origin, 0, ("seed-0-dense",), 1))


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    whole = run(AnalyzeConfig(**QUICK), tmp_path / "a")
    before = files(whole.path)
    monkeypatch.setattr("polykit.workflows.tasks._made_again", None)  # would not be callable
    origin = Origin(whole.path, "", ())
    assert perform(Task(origin, 0, ("seed-0-dense",), 1)).failures == {}
    with pytest.raises(TypeError):
        perform(Task(origin, 0, ("seed-0-dense", "seed-2-dense"), 1))
    assert files(whole.path) == before


def test_what_is_not_in_the_configuration_needs_this_process(tmp_path):
    with pytest.raises(UsageError, match=r"Flat\. Use engine='serial', or make a plugin of it"):
        polykit.analyze(Flat(), "digits", out=tmp_path / "a", engine="local")
    assert not (tmp_path / "a").exists()


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


def test_unknown_engines_and_options_are_refused_before_a_run_begins(tmp_path):
    config = AnalyzeConfig(**QUICK)
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        run(config, tmp_path / "a", engine="locl")
    with pytest.raises(UsageError, match="engine 'local' option workers='0'"):
        run(config, tmp_path / "a", engine="local:workers=0")
    assert not (tmp_path / "a").exists()


def command(*words, **more):
    line = [sys.executable, "-m", "polykit", *map(str, words)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # behind a shell's & it is ignored
    return subprocess.Popen(line, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **more)


def test_an_interrupt_ends_the_workers_and_leaves_nothing_half_written(tmp_path):
    words = ["--model", "mlp:widths=32", "--epochs", 100_000, "--seed", 0, "--no-report"]
    words += ["--pruner", "magnitude", "--density", 0.3, "--engine", "local:workers=1"]
    driver = command("analyze", *words, "--out", tmp_path / "a", start_new_session=True)
    checkpoint = tmp_path / "a" / "cells" / "seed-0-dense.checkpoint"
    try:
        until(checkpoint.exists)
        workers = workers_of(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert (driver.returncode, err) == (
        130,
        f"interrupted; continue with: polykit run --resume {tmp_path / 'a'}\n",
    )
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "interrupted"
    assert len(workers) == 1
    until(lambda: gone(workers))


def workers_of(pid):
    """The worker processes of a driver, as far as they have begun to be such."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it may be gone by now
            for child in map(int, children.read_text().split()):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def until(happens):
    for _ in range(4800):  # long on a busy machine, short as a rule
        if happens():
            return
        time.sleep(0.025)
    raise AssertionError("it never happened")
