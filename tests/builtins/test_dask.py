"""The engine `dask`: a cluster made here or elsewhere, its words, its errors and its end."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor

import pytest
from dask import config
from distributed import LocalCluster

from polykit import session
from polykit.errors import RunError, UsageError
from polykit.registry import Registry
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit_builtins.engines.dask import MADE_HERE
from tests.builtins import worker_jobs as jobs
from tests.workflows.test_engines import QUICK, files


@pytest.fixture(scope="module")
def address():
    with (
        config.set(MADE_HERE),
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
    ):
        yield cluster.scheduler_address


def executor(argument):
    return (
        Registry.discover()
        .create("engine", f"dask:{argument}")
        .instance.executor(threads=1, device="cpu")
    )


def test_work_words_and_errors_of_a_cluster_that_is_there(address, caplog):
    with executor(address) as workers:
        first = workers.submit(jobs.pid).result()
        assert first != os.getpid()
        with pytest.raises(LookupError, match="not there"):
            workers.submit(jobs.fail).result()
        workers.submit(jobs.say, "hello").result()
        until(lambda: "hello 7" in caplog.text)
    with executor(address) as workers:  # it is still there
        assert workers.submit(jobs.pid).result() == first


def test_work_of_a_killed_worker_is_done_again_and_given_up_if_it_kills(address, tmp_path):
    with executor(address) as workers:
        assert workers.submit(jobs.die_until, tmp_path / "once", 1).result() == 1
        with pytest.raises(BrokenExecutor, match="several workers died"):
            workers.submit(jobs.die_until, tmp_path / "always", 99).result()
        assert len((tmp_path / "always").read_text()) == 4
        assert workers.submit(jobs.pid).result() > 0


def test_a_killed_worker_of_a_cluster_made_here_is_never_let_go(tmp_path):
    name = "distributed.deploy.lost-worker-timeout"
    with config.set({name: "0s"}):
        with executor("workers=1") as workers:
            done = workers.submit(jobs.die_until, tmp_path / "once", 1)
            assert done.result(timeout=200) == 1
        assert config.get(name) == "0s"


def test_a_lost_scheduler_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("polykit_builtins.engines.dask.PATIENCE", "1s")
    place = tmp_path / "scheduler.json"
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    line += ["--no-dashboard", "--scheduler-file", str(place), "--host", "127.0.0.1"]
    scheduler = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    try:
        until(place.exists)
        address = json.loads(place.read_text())["address"]
        with executor(address) as workers:
            waiting = workers.submit(jobs.pid)
            time.sleep(0.2)
            assert not waiting.done()
            scheduler.send_signal(signal.SIGKILL)
            with pytest.raises(RunError, match=r"scheduler at tcp://.* was lost.*--resume"):
                waiting.result()
    finally:
        scheduler.kill()
        scheduler.wait()


def test_no_scheduler_is_said(monkeypatch):
    monkeypatch.setattr("polykit_builtins.engines.dask.PATIENCE", "200ms")
    with pytest.raises(RunError, match=r"no dask scheduler answers at tcp:.*start one"):
        executor("tcp://127.0.0.1:1")


def test_workers_are_those_of_the_address():
    with pytest.raises(UsageError, match="drop one of the two"):
        Registry.discover().create("engine", "dask:tcp://host:8786,workers=2")


def test_without_dask_the_command_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr("polykit.entries._is_installed", lambda name: name != "distributed")
    with pytest.raises(Exception, match="requires distributed; install it with: pip install"):
        Registry.discover().create("engine", "dask")


def test_a_cluster_made_for_a_run_leaves_the_bytes_of_one_process(tmp_path):
    runs = [
        session.run(AnalyzeConfig(**QUICK, engine=engine), Registry.discover(), out=tmp_path / name)
        for name, engine in (("a", "serial"), ("b", "dask:workers=1"))
    ]
    assert [run.status for run in runs] == ["complete", "complete"]
    assert files(runs[0].path) == files(runs[1].path)


def until(happens):
    for _ in range(6000):
        if happens():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")
