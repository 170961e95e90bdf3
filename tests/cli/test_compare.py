"""`polykit compare` on the command line."""

import json
from pathlib import Path

import pytest

from polykit.cli.compare import locate_network

ANALYSIS = [
    "--model",
    "mlp:widths=8",
    "--seed",
    "0",
    "--seed",
    "1",
    "--epochs",
    "2",
    "--lr",
    "0.01",
]
ANALYSIS += ["--density", "0.5", "--pruner", "magnitude", "--no-control", "--metric", "hoyer"]
ANALYSIS += ["--retrain-epochs", "0", "--no-report", "--threads", "1", "--out", "runs/digits"]
QUICK = ["--points", "3", "--starts", "1", "--randoms", "1", "--metric", "hoyer", "--threads", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_two_networks_of_a_run(polykit):
    assert polykit("analyze", *ANALYSIS).code == 0
    plan = polykit("compare", "digits:0", "digits:1", *QUICK, "--dry-run", "--json")
    planned = json.loads(plan.out)
    assert planned["matched"] == ["hidden1"]
    assert planned["routes"] == 3
    assert not list(Path("runs").glob("compare*"))
    done = polykit("compare", "digits:0", "digits:1", *QUICK, "--pull", "0.1", "--epochs", "1")
    assert done.code == 0, done.err
    assert "linearly connected up to the order of their units" in done.out
    assert "train_loss_barrier" in done.out
    (run,) = Path("runs").glob("compare-*")
    meta = json.loads((run / "run.json").read_text())
    assert meta["command"].startswith("polykit compare runs/digits:0 runs/digits:1 ")
    assert (run / "report.html").is_file()
    listed = polykit("runs", "list").out
    assert "compare" in listed


def test_a_run_here_goes_before_one_in_the_folder_of_runs():
    Path("runs/a").mkdir(parents=True)
    assert locate_network("a:1", Path("runs")) == "runs/a:1"
    assert locate_network("a", Path("runs")) == "runs/a"
    Path("a").mkdir()
    assert locate_network("a:1", Path("runs")) == "a:1"
    assert locate_network("b.pt", Path("runs")) == "b.pt"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x:0"], "name two networks at least"),
        ([], "is missing"),
        (["x:0", "y:0"], "is no network"),
        (["x:0", "y:0", "--points", "2"], "--points"),
    ],
)
def test_mistakes_are_named(polykit, words, message):
    done = polykit("compare", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())
