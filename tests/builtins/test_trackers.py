"""Trackers: what they wrote, read back by the libraries that people read it with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from polykit import session
from polykit.api import TRACKERS_VARIABLE
from polykit.registry import Registry
from polykit.runtime.store import RunStore
from polykit.session import Run
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit_builtins import trackers
from polykit_builtins.trackers import Trackers
from polykit_builtins.trackers.numbers import headlines

TINY: dict[str, Any] = {
    "model": "mlp:widths=4",
    "dataset": "digits",
    "pruners": ("magnitude",),
    "metrics": ("loss",),
    "seeds": (0,),
    "densities": (0.5,),
    "epochs": 3,
    "retrain_epochs": 2,
    "threads": 1,
}


def go(out: Path, **changes: Any) -> Run:
    return session.run(AnalyzeConfig(**(TINY | changes)), Registry.discover(), out=out)


def board(run: Run) -> dict[str, dict[int, float]]:
    """Every number that TensorBoard shows of a run, by name and step."""
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in names}


def logged(run: Run, uri: str = "") -> tuple[dict[str, dict[int, float]], Any]:
    """Every number that MLflow has of a run, by name and step; and the run itself."""
    client = MlflowClient(tracking_uri=uri or f"sqlite:///{run.path / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("polykit")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    numbers = {
        name: {m.step: m.value for m in client.get_metric_history(found.info.run_id, name)}
        for name in found.data.metrics
    }
    return numbers, found


def expected(run: Run) -> dict[str, dict[int, float]]:
    """What the run's own tables say should be there."""
    found: dict[str, dict[int, float]] = {}
    for cell in run.meta["cells"]:
        history = RunStore.open(run.path).read_table(cell, "history")
        for row in history.to_dict("records"):
            for name in ("loss", "validation_loss", "validation_accuracy"):
                found.setdefault(f"{cell}/{row['phase']}/{name}", {})[row["epoch"]] = row[name]
        rows = RunStore.open(run.path).read_table(cell, "rows")
        for row in rows[rows["layer"] == "all"].to_dict("records"):
            name = f"{cell}/{row['stage']}/{row['metric']}/{row['statistic']}"
            found.setdefault(name, {})[0] = row["value"]
    found["cells/done"] = {n + 1: n + 1.0 for n in range(len(run.meta["cells"]))}
    return found


def agree(found: dict[str, dict[int, float]], run: Run) -> None:
    wanted = expected(run)
    assert len(wanted) > 10
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
    rest = {name for name in found if name not in wanted}
    assert rest == {f"{cell}/achieved_density" for cell in run.meta["cells"] if "0.5" in cell}


def test_both_trackers_hold_what_the_tables_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(TRACKERS_VARIABLE, "tensorboard, mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = go(tmp_path / "run")
    agree(board(run), run)
    numbers, entry = logged(run)
    agree(numbers, run)
    assert entry.info.status == "FINISHED"
    assert entry.info.run_name == "run"
    assert entry.data.params["epochs"] == "3"
    assert list((tmp_path / "here").iterdir()) == []  # nothing but below the run


def test_processes_of_an_engine_follow_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, "tensorboard,mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = go(tmp_path / "run", engine="local:workers=1")
    agree(board(run), run)
    assert len(list((run.path / "tensorboard").iterdir())) == 2
    agree(logged(run)[0], run)


def test_a_run_that_goes_on_is_followed_as_the_same_and_a_users_server_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv(TRACKERS_VARIABLE, "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = go(tmp_path / "run")
    session.resume(run.path, Registry.discover())
    agree(logged(run, uri)[0], run)
    assert not (run.path / "mlflow").exists()


@pytest.mark.parametrize(
    ("text", "missing", "message"),
    [
        ("tensorbord", "", r"unknown tracker 'tensorbord'\. Did you mean 'tensorboard'\?"),
        ("mlflow", "mlflow", r"needs mlflow; install it with: pip install 'polykit\[mlflow\]'"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_said_once_and_loses_nothing(
    text: str,
    missing: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, text)
    if missing:
        monkeypatch.setitem(trackers.NEEDS, "mlflow", ("no_such_module",))
        message = message.replace("needs mlflow", "needs no_such_module")
    run = go(tmp_path / "run")
    assert run.status == "complete"
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert re.search(message, warning)
    assert not (run.path / "mlflow").exists()


class Failing:
    """A tracker whose server is gone."""

    asked = 0

    def numbers(self, values: Any, step: int) -> None:
        Failing.asked += 1
        raise ConnectionError("the server is gone")

    def close(self, status: str) -> None:
        raise AssertionError("it should have been left out")


def test_a_tracker_that_fails_is_asked_once_only(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Trackers()
    plugin._open = [Failing()]
    for epoch in range(3):
        plugin.polykit_epoch(cell="a", phase="train", epoch=epoch, losses={"loss": 1.0}, model=None)  # type: ignore[arg-type]
    plugin.polykit_run_finished(status="complete")
    assert Failing.asked == 1
    (record,) = caplog.records
    assert (
        "failed and follows the run no more: ConnectionError: the server is gone"
        in record.getMessage()
    )


def test_nothing_is_written_or_imported_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACKERS_VARIABLE, raising=False)
    run = go(tmp_path / "run")
    assert not {"tensorboard", "mlflow"} & {p.name for p in run.path.iterdir()}
    code = (
        "import sys; from polykit.registry import Registry; Registry.discover(); "
        "sys.exit(bool({'torch', 'mlflow', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numbers_that_are_none_and_rows_of_units_are_not_told() -> None:
    rows = [
        {"seed": 0, "metric": "a", "layer": "all", "statistic": "x", "value": 1.0},
        {"seed": 1, "metric": "a", "layer": "all", "statistic": "x", "value": 2},
        {"seed": 1, "metric": "a", "layer": "all", "statistic": "y", "value": float("nan")},
        {"seed": 1, "metric": "a", "layer": "fc", "statistic": "x", "value": 3.0},
        {"layer": "all", "unit": 3, "statistic": "x", "value": 4.0},
        {"seed": 1, "metric": "a", "layer": "all", "statistic": "x", "value": 5.0},
    ]
    assert headlines(rows) == {"seed0/a/x": 1.0, "seed1/a/x": 2}
    assert headlines([]) == {}
