from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from polykit.errors import RunError
from polykit.report.analyze import tables
from polykit.report.page import page_html, write_report
from polykit.report.reports import draw_all

from .conftest import changed

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></svg><img src=x onerror=alert(2)>",
    "a\" onload='alert(3)' b",
    "--> ]]> {{ 7*7 }} $x_1$ &amp;",
]


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def written(run):
    page = write_report(run)
    assert page == run.path / "report.html"
    return Page(page.read_text(encoding="utf-8"))


def sketched(run):
    """Lay out every figure and write the page without them: quicker than `written`."""
    for figure in draw_all(run):
        figure.figure.draw_without_rendering()
    return Page(page_html(run, [], []))


@pytest.fixture(scope="module")
def run(make_run):
    failures = {"seed-1-force-0.1": "boom"}
    return make_run(meta={"notices": ["3 images skipped"], "failures": failures})


@pytest.fixture(scope="module")
def page(run):
    return written(run)


def test_page_holds_verdict_figures_tables_and_the_way_to_repeat(run, page):
    for piece in (
        "no difference from random found at this power (3 seeds)",
        "Polysemanticity of responding units (ig) against density",
        "3 images skipped",
        "seed-1-force-0.1",
        "boom",
        run.meta["command"],
        "polykit runs rerun",
        "options.force.rounds",
        "4f2a9c1",
        "widths=64, 32",
    ):
        assert piece in page.words, piece
    pictures = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(pictures) == len(page.all("figcaption")) == 5
    for picture in pictures:
        assert picture["aria-label"] in page.words  # for those who see, too


def test_figures_are_on_disk_as_svg_and_white_png(run, page):
    files = sorted(path.name for path in (run.path / "figures").iterdir())
    stems = ["accuracy-density", "ig-density", "ig-layers", "ig-units", "training"]
    assert files == [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    with Image.open(run.path / "figures" / "ig-density.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_page_needs_nothing_from_outside(run, page):
    assert not re.search(r"https?:|url\((?!#)|@import", (run.path / "report.html").read_text())
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not page.all("link")
    assert not page.all("img")


def test_only_the_pages_own_script_may_run(run, page):
    text = (run.path / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policies == [
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ]


def test_tables_sort_by_buttons_and_carry_numbers_to_sort_by(page):
    columns = [head for head in page.all("th") if head["scope"] == "col"]
    assert len(page.all("button")) == len(columns) > 0
    keys = [float(cell["data-key"]) for cell in page.all("td") if "data-key" in cell]
    assert keys
    assert all(np.isfinite(keys))
    data = [table["id"] for table in page.all("table") if table["class"] == "data"]
    assert data == ["results", "differences", "statistics"]
    assert [field["data-filters"] for field in page.all("input")] == data


def test_results_table_holds_mean_and_half_width(run):
    (row,) = [
        row
        for row in tables.results(run).rows
        if [cell.text for cell in row[:3]] == ["force", "retrained", "0.1"]
    ]
    here = run.rows.query("pruner == 'force' and stage == 'retrained' and density == 0.1")
    values = here.query("metric == 'accuracy'")["value"]
    half = stats.t.ppf(0.975, 2) * values.std() / np.sqrt(3)
    assert row[4].text == f"{values.mean():.3f} ± {half:.3f}"
    assert row[4].key == pytest.approx(values.mean())


def test_hostile_names_are_shown_not_obeyed(make_run):
    run = make_run(pruners=(*HOSTILE, "random"), densities=(0.5,), layers=HOSTILE, width=6)
    first = HOSTILE[0]
    meta = {
        **run.meta,
        "data": {**run.meta["data"], "classes": HOSTILE, "name": first},
        "notices": HOSTILE,
        "failures": {name: name for name in HOSTILE},
        "command": f"polykit analyze --pruner '{' '.join(HOSTILE)}'",
        "status": HOSTILE[1],
        "plugins": {
            **run.meta["plugins"],
            "model": {"label": first, "name": first, "options": {first: HOSTILE[2]}},
        },
    }
    page = written(dataclasses.replace(run, meta=meta))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    for name in HOSTILE:
        assert page.words.count(" ".join(name.split())) > 10
    for path in (run.path / "figures").iterdir():
        assert re.fullmatch(r"[a-z0-9_-]+\.(svg|png)", path.name)


def test_hostile_metric_names_stay_inside_the_run(make_run, ig_record):
    name = "../../<ig>\"'"
    run = make_run(metric=name, densities=(0.5,), seeds=(0,), width=6)
    meta = {**run.meta, "plugins": {"metrics": [{**ig_record, "label": name}]}}
    run = dataclasses.replace(run, meta=meta)
    page = sketched(run)
    assert name in page.words
    assert not page.all("ig")
    assert all(re.fullmatch(r"[a-z0-9_-]+", figure.name) for figure in draw_all(run))


def test_the_same_run_gives_the_same_bytes(make_run, tmp_path):
    def files(folder):
        run = make_run(seeds=(0, 1), densities=(0.5,), pruners=("force",), layers=("0",), width=6)
        run = dataclasses.replace(run, path=tmp_path / folder / "run")
        write_report(run)
        return {p.relative_to(run.path): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}

    assert files("a") == files("b")


def test_a_report_that_cannot_be_written_leaves_the_old_one(run, page, monkeypatch):
    before = (run.path / "report.html").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr("polykit.report.page.draw_all", lambda _: [])
    with pytest.raises(RunError, match="no space left"):
        write_report(dataclasses.replace(run, meta={**run.meta, "command": "another"}))
    assert (run.path / "report.html").read_bytes() == before
    assert not list(run.path.rglob(".*"))


@pytest.mark.parametrize(
    "change",
    [
        {"densities": (0.1,)},
        {"seeds": (5,)},
        {"seeds": (0, 1), "stages": ("pruned",)},
        {"pruners": ("magnitude",)},
        {"pruners": ("random",)},
        {"layers": ("0",)},
        {"densities": (1.0, 0.5)},
    ],
    ids=str,
)
def test_small_and_odd_runs_are_reported(make_run, change):
    page = sketched(make_run(width=6, **{"densities": (0.5, 0.1), **change}))
    assert not re.search(r"\b(nan|inf|None)\b", page.words)
    assert "At density" in page.words


NOT_FINITE = re.compile(r"\b(nan|inf)\b")


@pytest.mark.parametrize(
    ("table", "gone"),
    [
        ("units", "unit >= 0"),
        ("history", "epoch >= 0"),
        ("rows", "seed >= 0"),
        ("rows", "pruner != 'dense'"),
        ("rows", "pruner == 'dense'"),
        ("rows", "pruner == 'force' and seed == 1"),
        ("rows", "pruner == 'force'"),
        ("rows", "metric == 'accuracy'"),
        ("rows", "metric == 'ig'"),
    ],
)
def test_runs_with_holes_are_reported(make_run, table, gone):
    run = make_run(densities=(0.5, 0.05), width=6)
    left = run.tables[table].query(f"not ({gone})")
    page = sketched(changed(run, **{table: left}))
    assert not NOT_FINITE.search(page.words)


def test_a_network_without_a_living_unit_is_reported(make_run):
    run = make_run(densities=(0.5, 0.05), width=6)
    dead = run.rows.density.eq(0.05) & run.rows.statistic.eq("ratio_responding")
    silent = run.rows.density.eq(0.05) & run.rows.statistic.eq("silent")
    value = run.rows.value.mask(dead).mask(silent, 1.0)
    units = run.tables["units"].assign(
        value=run.tables["units"].value.mask(run.tables["units"].density.eq(0.05), 0.0)
    )
    page = sketched(changed(run, rows=run.rows.assign(value=value), units=units))
    assert not NOT_FINITE.search(page.words)
    assert "100\u00a0% of its units are silent" in page.words.replace(" %", "\u00a0%")
    assert f"{dead.sum()} of {len(run.rows)} values are not finite" in page.words


def test_a_run_that_records_nothing_of_itself_is_reported(make_run):
    run = make_run(densities=(0.5,), width=6)
    history = run.tables["history"].assign(validation_loss=np.nan)
    page = sketched(changed(run, {}, history=history))
    assert "accuracy changed from" in page.words


def test_an_interrupted_run_says_so(make_run):
    run = make_run(densities=(0.5,), width=6, meta={"status": "interrupted"})
    assert "status is “interrupted”" in Page(page_html(run, [], [])).words
