from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from polykit.report import render
from polykit.report.laboratory import tables
from polykit.report.laboratory.findings import findings
from polykit.report.page import page_html, write_report
from polykit.report.reports import draw_all

from ..conftest import changed
from ..test_report_page import HOSTILE, Page
from .conftest import COMPOSITION, NOISY, SMALL, Truth, default_meta

small = Truth(**SMALL)
bad = dataclasses.replace(NOISY, **SMALL)


def sketched(run):
    """Draw every figure and write the page without them: quicker than laying them out."""
    draw_all(run)
    return Page(page_html(run, [], []))


@pytest.fixture(scope="module")
def run(make_laboratory):
    meta = {"notices": ["N2 took a while"], "failures": {"N2-0-3": "out of memory"}}
    return make_laboratory(meta, N2=dataclasses.replace(COMPOSITION, **SMALL), bad=bad)


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_page_opens_with_the_answer_and_tells_all(run, page):
    text = page.words
    places = [
        text.index(piece)
        for piece in (
            "Does pruning change the polysemanticity of responding units?",
            "Without dropout, pruning raised",
            "out of memory",
            "N2 took a while",
            "Every effect with its interval",
            "Where the change since the dense network comes from",
            "Data card",
            "N2: effects",
            "N2: networks and their widths",
            "bad: effects",
            "How to read the numbers",
            "polykit run recipe.toml",
            "polykit runs rerun",
        )
    ]
    assert places == sorted(places)
    assert text.count("labels too noisy to say") >= 2
    assert "the N2 world" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_figures_are_on_disk_and_in_the_page_with_their_words(run, page):
    kinds = ("ratio", "layers", "weighted")
    stems = ["effects", "origins", "training"]
    stems += [f"{name}-{kind}" for name in ("n2", "bad") for kind in kinds]
    files = {path.name for path in (run.path / "figures").iterdir()}
    assert files == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    pictures = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(pictures) == len(stems)
    assert all(picture["aria-label"] in page.words for picture in pictures)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a")]
    assert set(targets) <= set(ids)
    assert "scenario-2" in targets


def test_tables_hold_the_numbers_of_the_effects(run):
    found = findings(run)
    table = tables.effect_table(found, "N2", 1)
    rows = {(row[0].key, row[1].text): row for row in table.rows}
    effect = found.effect("N2", 0.0, "pruning")
    row = rows[0.0, "pruned − unpruned"]
    assert row[2].key == pytest.approx(effect.estimate.mean)
    assert (row[4].key, row[5].key) == (effect.p, effect.corrected)
    parts = [
        rows[0.0, f"pruned − unpruned: {name}"]
        for name in ("layer composition", "change within layers")
    ]
    assert sum(part[2].key for part in parts) == pytest.approx(row[2].key)
    whole = rows[0.0, "pruned − dense"][2].key
    parts = [
        rows[0.0, f"pruned − dense: {name}"]
        for name in ("layer composition", "change within layers")
    ]
    assert sum(part[2].key for part in parts) == pytest.approx(whole)
    networks = tables.network_table(run, found, "N2", 1)
    (row,) = [r for r in networks.rows if (r[1].text, r[2].key) == ("pruned", 0.6)]
    width = networks.columns.index("units of net.0")
    assert row[width].text == f"{round(64 * (1 - 1.2 * 0.6))} of 64"
    assert row[networks.columns.index("reached")].key == pytest.approx(
        run.tables["networks"].query("scenario == 'N2' and ratio == 0.6")["actual_ratio"].mean()
    )


def test_hostile_names_are_shown_not_obeyed(make_laboratory):
    plain = make_laboratory(a=small)
    names = {
        "scenario": {"a": HOSTILE[0]},
        "layer": {"net.0": HOSTILE[1], "net.2": HOSTILE[2]},
        "fact": {"label_ceiling": HOSTILE[2]},
    }
    renamed = {table: rows.replace(names) for table, rows in plain.tables.items()}
    meta = default_meta([HOSTILE[0]])
    meta["scenarios"][0] |= {"description": HOSTILE[1], "dataset": HOSTILE[2], "model": HOSTILE[3]}
    meta["headline"] |= {"summary": HOSTILE[0], "unit": HOSTILE[1]}
    meta |= {"notices": HOSTILE, "failures": {n: n for n in HOSTILE}, "command": HOSTILE[2]}
    run = changed(plain, meta, **renamed)
    drawn = draw_all(run)
    page = Page(page_html(run, drawn, [render.svg(figure.figure) for figure in drawn]))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [n for _, attributes in page.tags for n in attributes if n[:2] == "on"]
    for hostile in HOSTILE:
        assert page.words.count(" ".join(hostile.split())) > 3
    assert all(re.fullmatch(r"[a-z0-9_-]+", figure.name) for figure in drawn)


@pytest.mark.parametrize(
    ("table", "gone"),
    [
        ("rows", "arm == 'unpruned'"),
        ("rows", "arm == 'pruned'"),
        ("rows", "arm == 'dense'"),
        ("rows", "arm in ('random', 'scratch')"),
        ("rows", "layer != 'all'"),
        ("rows", "statistic == 'silent' or statistic == 'total_feature_dimensionality'"),
        ("rows", "seed >= 1"),
        ("rows", "seed == 1 and ratio == 0.3"),
        ("rows", "seed >= 0"),
        ("networks", "seed >= 0"),
        ("epochs", "seed >= 0"),
        ("worlds", "seed >= 0"),
    ],
)
def test_runs_with_holes_are_reported(make_laboratory, table, gone):
    run = make_laboratory(a=small)
    page = sketched(changed(run, **{table: run.tables[table].query(f"not ({gone})")}))
    assert not re.search(r"\b(nan|inf|None)\b", page.words)


def test_a_scenario_that_failed_altogether_is_left_out(make_laboratory):
    run = make_laboratory(a=small, b=small)
    page = sketched(changed(run, rows=run.rows[run.rows.scenario == "a"]))
    assert "b: effects" not in page.words


def test_values_that_are_not_finite_are_left_out_and_told_of(make_laboratory):
    run = make_laboratory(a=small)
    dead = run.rows.arm.eq("pruned") & run.rows.ratio.eq(0.6) & run.rows.statistic.ne("loss")
    page = sketched(changed(run, rows=run.rows.assign(value=run.rows.value.mask(dead, np.nan))))
    assert f"{dead.sum()} of {len(run.rows)} values are not finite" in page.words
    assert "mean over 1 pruning ratio;" in page.words


def test_a_run_that_records_nothing_of_itself_is_reported(make_laboratory):
    page = sketched(changed(make_laboratory(a=small), {"workflow": "laboratory"}))
    assert not re.search(r"\b(nan|inf)\b", page.words)
    assert "Without dropout" in page.words
