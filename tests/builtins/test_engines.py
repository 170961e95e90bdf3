"""The engine `local`: what becomes of work, words and errors in other processes."""

import logging
import os
import time
from concurrent.futures import BrokenExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest

from polykit_builtins.engines.local import ATTEMPTS, Local, Workers, available_cores
from tests.builtins import worker_jobs as jobs


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "polykit")
    return caplog


def test_work_is_done_elsewhere_by_as_many_as_asked_and_errors_come_back(tmp_path, log):
    with Workers(2) as workers:
        gate = tmp_path / "gate"
        waiting = [workers.submit(jobs.wait_for, gate) for _ in range(2)]
        queued = workers.submit(jobs.pid)
        assert not wait([queued], timeout=0.2).done, "both workers are busy"
        gate.touch()
        wait(waiting)
        pids = {workers.submit(jobs.pid).result() for _ in range(6)} | {queued.result()}
        assert len(pids) <= 2
        assert os.getpid() not in pids
        with pytest.raises(LookupError, match="not there"):
            workers.submit(jobs.fail).result()
        workers.submit(jobs.say, "hello").result()
        assert not any(workers.submit(jobs.hears_ctrl_c).result() for _ in range(6))
    assert [r.getMessage() for r in log.records] == ["hello 7"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_what_a_killed_worker_was_at_is_done_again(tmp_path, log):
    with Workers(1) as workers:
        before = workers.submit(jobs.pid)
        work = workers.submit(jobs.die_until, tmp_path / "lives", ATTEMPTS - 1)
        after = workers.submit(jobs.pid)
        assert work.result() == ATTEMPTS - 1
        assert after.result() != before.result()
    assert log.text.count("a worker process was killed") == ATTEMPTS - 1


def test_work_that_kills_is_given_up_and_the_rest_goes_on(tmp_path):
    with Workers(1) as workers:
        work = workers.submit(jobs.die_until, tmp_path / "lives", ATTEMPTS)
        after = workers.submit(jobs.pid)
        with pytest.raises(BrokenExecutor, match=f"{ATTEMPTS} worker processes were killed"):
            work.result()
        assert after.result() > 0


def test_an_error_in_the_block_ends_what_runs_and_what_waits(tmp_path):
    workers = Workers(1)
    with suppress(KeyboardInterrupt), workers:
        pid = workers.submit(jobs.pid).result()
        busy = workers.submit(jobs.wait_for, tmp_path / "never")
        while not busy.running():
            time.sleep(0.01)
        waiting = workers.submit(jobs.pid)
        raise KeyboardInterrupt
    assert isinstance(busy.exception(), BrokenExecutor)
    assert waiting.cancelled()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("threads", "wanted"), [(1, available_cores()), (10_000, 1)])
def test_there_are_as_many_workers_as_cores_for_their_threads(threads, wanted, log):
    assert Local().executor(threads=threads, device="cpu")._max_workers == wanted
    assert Local(workers=3).executor(threads=1, device="cpu")._max_workers == 3
    assert ("are more than the" in log.text) == (threads > 1 or available_cores() < 3)


def test_each_worker_has_a_gpu_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("polykit_builtins.engines.local.visible_gpus", lambda: 2)
    assert Local().executor(threads=1, device="cuda:1")._max_workers == 1
    gate = tmp_path / "gate"
    with Local().executor(threads=1, device="cuda") as workers:
        seen = [workers.submit(jobs.wait_for, gate) for _ in range(2)]
        gate.touch()
        assert {future.result() for future in seen} == {"0", "1"}
