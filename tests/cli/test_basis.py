"""`polykit basis` on the command line."""

import json
from pathlib import Path

import pytest

QUICK = ["--model", "mlp:widths=6", "--seed", "0", "--epochs", "1", "--samples", "30"]
QUICK += ["--basis", "interaction", "--basis", "neuron", "--origin", "mean", "--threads", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_prints_the_answer_and_the_numbers(polykit):
    done = polykit("basis", *QUICK, "--out", "a")
    assert done.code == 0
    assert "interactions count in the interaction basis" in done.out
    assert "effective_edges" in done.out
    meta = json.loads(Path("a/run.json").read_text())
    assert meta["command"].startswith("polykit basis ")
    assert "--basis interaction --basis neuron --origin mean" in meta["command"]
    page = Path("a/report.html").read_text()
    assert "What acts on what in mlp:widths=6 on digits" in page
    assert page.count("<figure") == 4
    for name in ("graph-trained", "graph-untrained", "effective-edges", "modularity"):
        assert f'id="figure-{name}"' in page
        assert Path("a/figures", f"{name}.png").is_file()


def test_the_plan_writes_nothing(polykit):
    done = polykit("basis", *QUICK, "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["layers"] == ["input", "hidden1", "output"]
    assert plan["units"] == [64, 6, 10]
    assert plan["possible_edges"] == 64 * 6 + 6 * 10
    assert (
        "graphs     interaction, neuron, each from mean"
        in polykit("basis", *QUICK, "--dry-run").out
    )
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--basis", "fourier"], "--basis"),
        (["--origin", "median"], "--origin"),
        (["--cutoff", "0"], "must be above 0"),
        (["--resolution", "-1"], "must be above 0"),
        (["--layer", "hidden9"], "no layer matches"),
        (["--samples", "1"], "greater than or equal to 2"),
    ],
)
def test_mistakes_are_named(polykit, words, message):
    done = polykit("basis", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())
