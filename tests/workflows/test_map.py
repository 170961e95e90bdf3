"""Maps end to end: each point is the analysis one would run by itself."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import polykit
from polykit import session
from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.report import words
from polykit.report.map import figures
from polykit.report.map.verdict import verdict
from polykit.report.page import write_report
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.map.config import MapConfig

ANALYSIS = {
    "model": "toy-superposition-net",
    "dataset": "toy-superposition",
    "metrics": ("monosemanticity",),
    "pruners": ("magnitude",),
    "densities": (0.5,),
    "control": False,
    "seeds": (0, 1),
    "epochs": 1,
    "retrain_epochs": 1,
    "batch_size": 64,
    "optimizer": "lamb",
    "options": {"toy-superposition": {"features": 8, "inputs": 4, "samples": 512}},
}
VARY = {"lr": (0.003, 0.03), "bias_decay": (0.0, 0.9), "toy-superposition-net.hidden": (6, 9)}
SHOW = ("monosemanticity.monosemantic_per_feature", "loss.loss")


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def run(registry, tmp_path_factory):
    config = MapConfig(analysis=ANALYSIS, vary=VARY, show=SHOW, threads=1)
    return session.run(config, registry, out=tmp_path_factory.mktemp("map") / "run")


def test_a_point_is_the_analysis_one_would_run_by_itself(run, registry, tmp_path):
    alone = {**ANALYSIS, "lr": 0.03, "bias_decay": 0.9}
    alone["options"] = {**ANALYSIS["options"], "toy-superposition-net": {"hidden": 9}}
    other = session.run(AnalyzeConfig(**alone, threads=1), registry, out=tmp_path / "alone")
    assert run.status == other.status == "complete"
    for table in ("rows", "history"):
        mine = run.saved.tables[table]
        mine = mine[mine["point"] == "lr=0.03-bias_decay=0.9-hidden=9"].drop(columns="point")
        theirs = other.saved.tables[table]
        assert mine.reset_index(drop=True).equals(theirs[list(mine.columns)])


def test_every_point_has_every_network(run):
    assert len(run.meta["points"]) == 8
    assert len(run.meta["cells"]) == 8 * 2 * 2
    counts = run.rows.groupby("point")["seed"].nunique()
    assert len(counts) == 8
    assert set(counts) == {2}
    hidden = run.units.groupby("point")["unit"].max()
    assert hidden["lr=0.003-bias_decay=0.0-hidden=6"] == 5


def test_resuming_gives_the_same_bytes(run, registry):
    cell = run.path / "cells" / "lr=0.03-bias_decay=0.0-hidden=6+seed-1-magnitude-0.5"
    before = (run.path / "rows.parquet").read_bytes()
    shutil.rmtree(cell)
    assert session.resume(run.path, registry).status == "complete"
    assert (run.path / "rows.parquet").read_bytes() == before


def test_the_page_shows_a_map_of_each_statistic_and_kind(run):
    drawn = run.plot()
    names = "monosemanticity-monosemantic_per_feature", "loss-loss"
    kinds = "dense", "magnitude-density-0-5-retrained"
    assert set(drawn) == {f"{name}-{kind}" for name in names for kind in kinds}
    panels = drawn["loss-loss-dense"].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"toy-superposition-net.hidden {width}" for width in (6, 9)
    ]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["0.003", "0.03"]
    assert len(panels[0].texts) == 4
    table = run.summary()
    assert len(table) == 16
    dense = run.rows.query("stage == 'dense' and metric == 'loss' and layer == 'all'")
    mean = dense[dense["point"] == "lr=0.03-bias_decay=0.9-hidden=9"]["value"].mean()
    assert table.loc[("0.03", "0.9", "9", "dense"), "loss loss"] == pytest.approx(mean)
    verdict = run.verdict()
    best = dense.groupby("point")["value"].mean().idxmax()
    told = dict(verdict.parts)
    assert "highest at lr " + best.split("-")[0].removeprefix("lr=") in str(told)
    page = write_report(run.saved).read_text()
    assert verdict.answer.split(":")[0] in page


def test_points_that_are_equal_are_counted(run):
    rows = run.saved.rows.copy()
    rows.loc[(rows["metric"] == "loss") & ~rows["point"].str.startswith("lr=0.03-"), "value"] = 0.5
    rows.loc[(rows["metric"] == "loss") & rows["point"].str.startswith("lr=0.03-"), "value"] = 0.25
    found = verdict(replace(run.saved, tables={**run.saved.tables, "rows": rows}))
    dense = dict(found.parts)["cross-entropy (nats), or squared error, per test sample"][0]
    assert dense == "highest at 4 of 8 points, 0.500; lowest at 4 of 8 points, 0.250"
    rows.loc[rows["metric"] == "loss", "value"] = 0.5
    found = verdict(replace(run.saved, tables={**run.saved.tables, "rows": rows}))
    assert "at 8 of 8 points, 0.500" in str(found.parts)


def test_where_one_option_varies_networks_share_a_map(run):
    saved = run.saved
    points = {
        name: values for name, values in saved.meta["points"].items()
        if (values["bias_decay"], values["toy-superposition-net.hidden"]) == ("0.9", "6")
    }  # fmt: skip
    rows = saved.rows[saved.rows["point"].isin(points)]
    narrow = replace(saved, meta={**saved.meta, "points": points}, tables={"rows": rows})
    drawn = {figure.name: figure for figure in figures.draw_all(narrow)}
    assert set(drawn) == {
        "monosemanticity-monosemantic_per_feature-all-networks", "loss-loss-all-networks",
    }  # fmt: skip
    (axes,) = drawn["loss-loss-all-networks"].figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.003", "0.03"]
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == ["dense", "magnitude, density 0.5, retrained"]
    last = rows.query("pruner == 'magnitude' and stage == 'retrained' and metric == 'loss'")
    mean = last[last["point"].str.startswith("lr=0.03")]["value"].mean()
    assert axes.texts[3].get_text().startswith(words.number(float(mean)))


def test_networks_of_two_points_can_be_compared(run, tmp_path):
    points = ("lr=0.003-bias_decay=0.9-hidden=9", "lr=0.03-bias_decay=0.9-hidden=9")
    texts = [f"{run.path}:{point}+seed-0-dense" for point in points]
    found = polykit.compare(
        *texts, out=tmp_path / "run", metrics=("monosemanticity",), points=3, starts=1, randoms=0
    )
    assert found.status == "complete"
    ends = found.saved.tables["path"].query("route == 'matched' and quantity == 'test_loss'")
    dense = run.rows.query("stage == 'dense' and metric == 'loss' and layer == 'all' and seed == 0")
    losses = dense.set_index("point")["value"]
    for t, point in zip((0.0, 1.0), points, strict=True):
        assert ends[ends["t"] == t]["value"].item() == pytest.approx(losses[point], rel=1e-5)
    with pytest.raises(ModelError, match=r"first at hidden\.weight, 9×4 and 6×4"):
        polykit.compare(texts[0], texts[1].replace("hidden=9", "hidden=6"), out=tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {}}, "name an option to vary"),
        ({"vary": {"lr": ()}}, "lr has no value"),
        ({"vary": {"lr": (0.1, 0.1)}}, "names a value twice"),
        ({"vary": {"lrr": (0.1,)}}, "Did you mean 'lr'"),
        ({"vary": {"device": ("cpu",)}}, "said for the whole map"),
        ({"vary": {"seeds": ((0,), (1,))}}, "in .analysis. and in .vary."),
        ({"vary": {"lr": (0.1, -1.0)}}, "analysis at lr=-1.0: lr"),
        ({"show": ("loss",)}, "is no METRIC.STATISTIC"),
        ({"show": ("accuracy.accuracy",)}, "no metric 'accuracy' is measured"),
        ({"show": ("loss.los",)}, "has no statistic 'los'"),
        ({"vary": {"toy-superposition-net.hiden": (3,)}}, "has no option 'hiden'"),
        ({"vary": {"mlp.widths": ("3",)}}, "no plugin 'mlp' takes part"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(registry, tmp_path, changes, message):
    fields = {"analysis": ANALYSIS, "vary": VARY, "show": SHOW, **changes}
    with pytest.raises((UsageError, ValueError), match=message):
        session.run(MapConfig(**fields), registry, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_all_points(registry):
    config = MapConfig(analysis=ANALYSIS, vary=VARY, show=SHOW)
    plan = session.plan(config, registry)
    assert plan.to_dict()["training_epochs"] == 8 * 2 * 2
    assert plan.lines()[0] == "32 cells at 8 points"
