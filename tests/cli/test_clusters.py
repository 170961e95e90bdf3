"""`polykit clusters` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

QUICK = ["--model", "convnet:channels=4x6,pools=1,hidden=8", "--epochs", "1", "--threads", "1"]
QUICK += ["--nulls", "19", "--resamples", "3", "--no-sensitivity"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_says_which_units_look_polysemantic(polykit):
    done = polykit("clusters", *QUICK, "--unit", "0-2", "--out", "a", "--no-report")
    assert done.code == 0
    assert "look polysemantic" in done.out or "looks polysemantic" in done.out
    assert "hdbscan_clusters" in done.out
    meta = json.loads(Path("a/run.json").read_text())
    assert meta["command"].startswith("polykit clusters ")
    assert "--epochs 1" in meta["command"]
    assert "--unit 0-2" in meta["command"]
    assert "--no-sensitivity" in meta["command"]
    shown = json.loads(polykit("runs", "show", "a", "--json").out)
    assert {row["unit"] for row in shown["rows"]} == {0, 1, 2}
    assert "clusters" in polykit("runs", "list", "--runs-dir", ".").out


def test_json_holds_the_rows_and_resume_goes_on(polykit):
    done = polykit("clusters", *QUICK, "--out", "a", "--json", "--no-report")
    rows = json.loads(done.out)["rows"]
    assert {row["statistic"] for row in rows} >= {"clusters", "score", "fires"}
    before = Path("a/rows.parquet").read_bytes()
    Path("a/rows.parquet").unlink()
    assert polykit("clusters", "--resume", "a", "--no-report").code == 0
    assert Path("a/rows.parquet").read_bytes() == before
    done = polykit("clusters", "--resume", "a", "--top", "50")
    assert (done.code, "drop --top" in done.err) == (2, True)


def test_a_plan_writes_nothing(polykit):
    done = polykit("clusters", "--dry-run", "--shard-size", "500", "--center", "full")
    assert "1,078 of the train split" in done.out
    assert "conv3: the full map: the field of conv3 leaves the picture" in done.out
    plan = json.loads(polykit("clusters", "--dry-run", "--json", "--precision", "float16").out)
    assert (plan["top"], plan["min_cluster_size"], plan["training_epochs"]) == (108, 5, 30)
    assert plan["megabytes"] == pytest.approx(1078 * (32 * 2 + 16) / 1e6)
    assert list(Path().iterdir()) == []


def test_a_recipe_and_the_environment_set_options(polykit, monkeypatch):
    Path("c.toml").write_text('workflow = "clusters"\ntop = 60\nunits = ["0-3"]\n')
    done = polykit("run", "c.toml", "--dry-run")
    assert "each unit's top 60 pictures" in done.out
    assert "4 in conv3" in done.out
    monkeypatch.setenv("POLYKIT_CLUSTERS_TOP", "70")
    assert "top 70 pictures" in polykit("clusters", "--dry-run").out
    assert "top 80 pictures" in polykit("clusters", "--dry-run", "--top", "80").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "conv33"], "Did you mean 'conv3'"),
        (["--unit", "99"], "layer 'conv3' has units 0 to 31, not 99"),
        (["--unit", "first"], "--unit first: 'first' names no units"),
        (["--center", "cone"], "no cone: the field of conv3 leaves the picture"),
        (["--top", "6000"], "--top '6000': Input should be less than or equal to 5000"),
        (["--data", "imagefolder:nowhere"], "nowhere is no folder"),
        (["--model", "mine:network"], "cannot import 'mine'"),
    ],
)
def test_mistakes_are_one_line(polykit, words, message):
    done = polykit("clusters", *words, "--out", "a")
    assert done.code in (1, 2)
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("a").exists()
