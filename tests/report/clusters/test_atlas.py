from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

from polykit.errors import RunError
from polykit.report import render
from polykit.report.clusters.content import content
from polykit.report.clusters.ranking import ranked
from polykit.report.images import FOLDER, Sources, image, png_image
from polykit.report.page import page_html, write_report
from polykit.report.reports import draw_all
from polykit.report.visualize.strips import strips
from polykit.runtime.samples import pictures
from polykit.runtime.store import tensor_bytes

from ..test_report_page import HOSTILE, Page
from .conftest import build, dissect, make_atlas, read, visualize

MEGABYTE = 1_000_000


def sketched(run) -> Page:
    """Write the page without its figures: quicker."""
    return Page(page_html(run, [], []))


def parts(page: Page) -> list[str]:
    return [a["id"] for a in page.all("details") if a.get("class") == "unit"]


def test_units_are_ranked_and_each_has_its_part(tmp_path):
    run = build(tmp_path / "run", units=(1, 3, 0, 2))
    page = sketched(run)
    order = [name for name, _ in ranked(run)]
    assert order[:2] == ["conv3:1", "conv3:3"]
    assert [unit.name for unit in content(run).units] == order
    links = [a["href"] for a in page.all("a") if (a["href"] or "").startswith("#unit")]
    assert links == [f"#{anchor}" for anchor in parts(page)] == [f"#unit-{n}" for n in range(1, 5)]
    assert "most polysemantic first" in page.words


def test_montages_hold_the_strongest_pictures_of_each_cluster(tmp_path):
    run = build(tmp_path / "run", units=(2,), top=60, shown=5)
    (unit,) = content(run).units
    assert [montage.title for montage in unit.montages] == [
        "Cluster 0", "Cluster 1", "In no cluster",
    ]  # fmt: skip
    members = run.tables["members"]
    for montage, cluster in zip(unit.montages, (0, 1, -1), strict=True):
        mine = members[members["cluster"] == cluster].sort_values("rank")
        numbers = [int(re.match(r"picture (\d+) ", one.alt).group(1)) for one in montage.images]
        assert numbers == [n for n in mine["picture"] if n in set(numbers)]
        assert numbers[:5] == list(mine["picture"][:5])
        assert f"{len(mine)} pictures" in montage.note
    assert "80 % are “zebra”" in unit.montages[0].note
    assert all("activation" in one.alt for one in unit.montages[0].images)
    assert [one.alt.split(",")[1] for one in unit.medoids] == [
        " medoid of cluster 0", " medoid of cluster 1",
    ]  # fmt: skip


def test_a_thumbnail_is_the_picture_it_claims_to_be(tmp_path):
    run = build(tmp_path / "run", units=(2,), shown=3)
    (unit,) = content(run).units
    first = unit.montages[0].images[0]
    number = re.match(r"picture (\d+)", first.alt).group(1)
    kept = load_file(run.path / "cells" / "pictures" / "thumbnails.safetensors")[number]
    assert first.content == pictures.png(kept)
    assert (first.kind, first.width, first.height, first.tiny) == ("png", 8, 8, True)


def test_photographs_become_jpegs():
    large = image(torch.full((3, 60, 40), 90, dtype=torch.uint8), "a")
    assert (large.kind, large.width, large.height, large.tiny) == ("jpeg", 40, 60, False)


def test_what_lies_below_is_shown_at_its_unit(atlas):
    by_name = {unit.name: unit for unit in content(atlas).units}
    assert [d.title for d in by_name["conv3:1"].dissections] == ["first"]
    kinds = [strip.title for strip in by_name["conv3:1"].strips]
    assert kinds == ["Pictures grown to raise the unit", "What each pixel does for the unit"]
    rows = by_name["conv3:1"].strips[0].rows
    assert [row.name for row in rows] == ["dense", "cluster 0 by cs"]
    others = [unit for name, unit in by_name.items() if name != "conv3:1"]
    assert not any(unit.dissections or unit.strips for unit in others)
    drawn = draw_all(atlas)
    assert {figure.section for figure in drawn} == {"", "conv3:1"}
    assert len({figure.name for figure in drawn}) == len(drawn)
    assert all(figure.alt and figure.caption for figure in drawn)


def test_a_dissections_page_is_linked_once_it_is_there(atlas):
    assert content(atlas).units[1].dissections[0].page == ""
    (atlas.path / "dissections" / "first" / "report.html").write_text("")
    link = content(atlas).units[1].dissections[0].page
    assert (atlas.path / link).is_file()
    assert link in [a["href"] for a in sketched(atlas).all("a")]


PLACES = {"clusters": "", "dissect": "dissections/first", "visualize": "visualizations/first"}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Page]:
    """The pages of an atlas and of what lies below it, with their figures."""
    run = make_atlas(tmp_path_factory.mktemp("atlas"))
    return {
        workflow: Page(write_report(read(run.path / place)).read_text(encoding="utf-8"))
        for workflow, place in PLACES.items()
    }


@pytest.mark.parametrize("workflow", PLACES)
def test_every_page_of_the_three_is_written(written, workflow):
    page = written[workflow]
    assert "conv3:1" in page.words
    assert "How to repeat it" in page.words
    assert not re.search(r"\b(nan|None)\b", page.words)
    pictured = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictured) == len(page.all("figcaption"))
    assert (len(pictured) > 1) == (workflow != "visualize")
    assert bool(page.all("img")) == (workflow != "dissect")


def test_a_damaged_run_below_hides_no_other(atlas):
    broken = atlas.path / "dissections" / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    unfinished = atlas.path / "visualizations" / "unfinished"
    unfinished.mkdir()
    record = json.loads((atlas.path / "visualizations" / "first" / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(record))
    found = content(atlas)
    assert [d.title for d in found.units[1].dissections] == ["first"]
    assert len(found.notices) == 2
    words = sketched(atlas).words
    assert "dissections/broken is left out" in words
    assert "visualizations/unfinished is left out" in words


def test_pictures_are_in_the_page_while_there_is_room(tmp_path):
    run = build(tmp_path / "run", units=(2,) * 50, size=(64, 64), shown=12, noise=3.0)
    path = write_report(run)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("img")) > 50 * 3 * 12
    assert path.stat().st_size < 30 * MEGABYTE
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert not (run.path / FOLDER).exists()


def test_pictures_beyond_that_lie_beside_the_page(tmp_path):
    # noise is the most that a picture can weigh
    run = build(tmp_path / "run", units=(2,) * 50, size=(120, 120), shown=16, noise=90.0)
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    assert 20 * MEGABYTE < path.stat().st_size < 30 * MEGABYTE
    sources = [a["src"] for a in Page(text).all("img")]
    beside = {source for source in sources if not source.startswith("data:")}
    assert beside
    assert sources[0].startswith("data:")  # the first of the ranking stay with the page
    assert {str(p.relative_to(run.path)) for p in (run.path / FOLDER).iterdir()} == beside
    with Pillow.open(run.path / sorted(beside)[0]) as opened:
        assert opened.size == (120, 120)


def test_sources_never_take_more_room_than_there_is():
    one = image(torch.zeros(3, 8, 8, dtype=torch.uint8), "")
    size = len(Sources()(one))
    source = Sources(room=2 * size + 1)
    inside = [source(one).startswith("data:") for _ in range(4)]
    assert inside == [True, True, False, False]
    assert list(source.files.values()) == [one.content]


def test_only_the_atlas_and_visualisations_may_show_pictures(atlas):
    def policy(run):
        (found,) = [m["content"] for m in sketched(run).all("meta") if m.get("http-equiv")]
        return found

    assert policy(atlas).endswith("; img-src data: 'self'")
    assert policy(read(atlas.path / "visualizations" / "first")).endswith("img-src data: 'self'")
    assert "img-src" not in policy(read(atlas.path / "dissections" / "first"))


def test_hostile_names_are_shown_not_obeyed(tmp_path):
    layer, (first, second, third, fourth) = HOSTILE[1], HOSTILE
    run = build(
        tmp_path / "run", units=(2, 1), layer=layer, classes=HOSTILE, source=third,
        meta={"notices": HOSTILE, "failures": {first: second}, "status": fourth},
    )  # fmt: skip
    unit = f"{layer}:0"
    dissect(run, "first", unit, pruners=HOSTILE[:2])
    visualize(run, "first", unit, HOSTILE)
    dissection = read(run.path / PLACES["dissect"])
    drawn = draw_all(dissection)
    svgs = [render.svg(figure.figure) for figure in drawn]
    assert all(re.fullmatch(r"[a-z0-9_-]+", figure.name) for figure in drawn)
    others = (run, read(run.path / PLACES["visualize"]))
    pages = [Page(page_html(dissection, drawn, svgs)), *map(sketched, others)]
    for page in pages:
        assert len(page.all("script")) == 1
        assert not [n for _, attributes in page.tags for n in attributes if n[:2] == "on"]
        assert all(a["src"].startswith("data:image/") for a in page.all("img"))
        assert unit in page.words
    alts = [a["alt"] for a in pages[1].all("img")]
    assert any(third in alt for alt in alts)
    assert any(first in alt for alt in alts)
    assert all(a["title"] == a["alt"] for page in pages for a in page.all("img"))


def test_a_picture_outside_its_run_is_not_read(atlas):
    secret = atlas.path.parent / "secret.png"
    secret.write_bytes(pictures.png(torch.zeros(3, 2, 2, dtype=torch.uint8)))
    run = read(atlas.path / "visualizations" / "first")
    for file in ("../../../secret.png", str(secret)):
        table = run.tables["images"].assign(file=file)
        with pytest.raises(RunError, match="not its own"):
            list(
                strips(dataclasses.replace(run, tables={**run.tables, "images": table}), "conv3:1")
            )
    link = run.path / "link.png"
    link.symlink_to(secret)
    table = run.tables["images"].assign(file="link.png")
    with pytest.raises(RunError, match="not its own"):
        list(strips(dataclasses.replace(run, tables={**run.tables, "images": table}), "conv3:1"))


def test_a_damaged_picture_is_named():
    with pytest.raises(RunError, match="damaged"):
        png_image(b"GIF89a", "")
    jpeg = pictures.jpeg(torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(RunError, match="damaged"):
        png_image(jpeg, "")


@pytest.mark.parametrize(
    "change",
    [{"units": ()}, {"units": (0,)}, {"units": (1,)}, {"units": (2,), "shown": 0}, {"top": 3}],
    ids=str,
)
def test_small_and_odd_runs_are_reported(tmp_path, change):
    run = build(tmp_path / "run", **change)
    for figure in draw_all(run):
        figure.figure.draw_without_rendering()
    page = sketched(run)
    assert not re.search(r"\b(nan|inf|None(?! of))\b", page.words)


def test_runs_without_thumbnails_name_their_pictures_numbers_only(tmp_path):
    run = build(tmp_path / "run", units=(2,))
    (run.path / "cells" / "pictures" / "thumbnails.safetensors").unlink()
    page = sketched(run)
    assert not page.all("img")
    assert "Cluster 0" in page.words


def test_damaged_thumbnails_are_named(tmp_path):
    run = build(tmp_path / "run", units=(2,))
    path = run.path / "cells" / "pictures" / "thumbnails.safetensors"
    path.write_bytes(tensor_bytes({"4": torch.zeros(2, 2)}))
    with pytest.raises(RunError, match="thumbnails"):
        content(run)


def test_the_same_run_gives_the_same_page(tmp_path):
    def text(name):
        return page_html(make_atlas(tmp_path / name), [], []).replace(str(tmp_path / name), "")

    assert text("a") == text("b")


def test_histograms_tell_held_out_pictures_alone(atlas):
    run = read(atlas.path / "dissections" / "first")
    first = next(f for f in draw_all(run) if f.name == "activations-conv3-1-0")
    table = run.tables["activations"].query("cluster == 0 and held_out and pruner == 'cs'")
    counts = table["group"].value_counts()
    assert (
        f"n = {len(table)} held-out pictures: {counts['cluster']} of this cluster" in first.caption
    )
    mean = table.loc[table["group"] == "other", "after"].mean()
    assert f"the unit's other clusters with mean {mean:.3g}" in first.alt.replace("−", "-")
    assert len(first.figure.axes) == 4


def test_the_diagram_tells_each_layers_share(atlas):
    run = read(atlas.path / "dissections" / "first")
    drawn = next(f for f in draw_all(run) if f.name == "subnetworks-conv3-1")
    layers = run.tables["layers"].query("cluster == 1 and pruner == 'force'").set_index("layer")
    share = 100 * layers.loc["conv2", "kept"] / layers.loc["conv2", "parameters"]
    assert f"{share:.2g} % of conv2" in drawn.alt
    tops = [bar.get_y() + bar.get_height() for bar in drawn.figure.axes[0].patches]
    assert np.isclose(max(tops), 43 / 144)


def test_controls_are_not_drawn_as_the_units_own(atlas):
    run = read(atlas.path / "dissections" / "first")
    changed = {
        name: pd.concat([table, table.assign(control="unit", pruner="foreign")])
        for name, table in run.tables.items()
        if name in ("activations", "layers")
    }
    with_controls = dataclasses.replace(run, tables={**run.tables, **changed})
    ours = [f.alt for f in draw_all(run) if f.name.startswith(("activations", "subnetworks"))]
    theirs = [
        f.alt for f in draw_all(with_controls) if f.name.startswith(("activations", "subnetworks"))
    ]
    assert ours == theirs
