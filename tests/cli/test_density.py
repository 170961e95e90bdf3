"""`polykit density` on the command line."""

import json
from pathlib import Path

import pytest

QUICK = ["--model", "mlp:widths=8", "--scale", "1", "--scale", "2", "--seed", "0", "--seed", "1"]
QUICK += ["--epochs", "2", "--lr", "0.01", "--step", "0.25", "--metric", "hoyer", "--threads", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_prints_the_answer_and_the_numbers(polykit):
    done = polykit("density", *QUICK, "--out", "a", "--no-report")
    assert done.code == 0
    assert "From scale 1 to 2 the effective density goes from" in done.out
    assert "null_density" in done.out
    assert "without reaching validation loss 0.2" in done.err
    meta = json.loads(Path("a/run.json").read_text())
    assert meta["command"].startswith("polykit density ")
    assert "--scale 1.0 --scale 2.0" in meta["command"]
    page = _page(polykit, "a")
    assert "How dense mlp:widths=8 wants to be on digits" in page
    assert "accuracy falls by more than 0.05" in page
    again = polykit("density", *QUICK, "--out", "b", "--json", "--no-report")
    assert {row["scale"] for row in json.loads(again.out)["rows"]} == {1.0, 2.0}
    assert Path("a/effective.parquet").read_bytes() == Path("b/effective.parquet").read_bytes()


def _page(polykit, run):
    assert polykit("report", run).code == 0
    return Path(run, "report.html").read_text()


def test_the_plan_writes_nothing(polykit):
    done = polykit("density", *QUICK, "--dry-run", "--json")
    assert json.loads(done.out)["prunable"] == [64 * 8 + 80, 64 * 16 + 160]
    assert not list(Path().iterdir())


def test_no_table_is_printed_where_there_is_no_density(polykit):
    done = polykit("density", *QUICK, "--drop", "0.99", "--out", "a", "--no-report")
    assert done.code == 0
    assert "No network crossed the threshold" in done.out
    assert "null_density" not in done.out
    assert "no more to lose than the threshold of 0.99" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "sgd"], "sgd=0.01"),
        (["--drop", "0.1", "--rise", "0.1"], "give one of them"),
        (["--pruner", "structured"], "gives a smaller network instead of a mask"),
        (["--ticket", "snip"], "finds no lottery ticket; take iterative-magnitude"),
        (["--class-pruner", "iterative-magnitude"], "whatever the class; take one"),
        (["--model", "alexnet"], "has no option scale or init"),
        (["--scale", "0"], "factors above 0"),
    ],
)
def test_mistakes_are_named(polykit, words, message):
    done = polykit("density", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())
