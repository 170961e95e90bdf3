"""The atlas in a browser: it loads clean, sorts, opens units, and serves every kind of reader."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from polykit.report import images
from polykit.report.page import write_report

from ..report.clusters import conftest as atlases

pytestmark = pytest.mark.browser

WORKFLOWS = ("clusters", "dissect", "visualize", "analyze", "laboratory", "compare", "map", "basis")
PHONE = 390


def units(page):
    """The units of the ranking, in the order shown."""
    return page.locator("#units tbody tr td:first-child").all_inner_texts()


def column(page, name):
    """The numbers in a column of the ranking, in the order shown."""
    heads = page.locator("#units thead th").all_inner_texts()
    place = [head.strip(" ↑↓") for head in heads].index(name) + 1
    cells = page.locator(f"#units tbody tr td:nth-child({place})").all_inner_texts()
    return [float(text) for text in cells]


def open_all(page):
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def show_pictures(page):
    """Have the browser load every picture, however far down; return how wide each came out."""
    page.evaluate("for (const one of document.images) one.loading = 'eager'")
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    return page.evaluate("[...document.images].map((one) => one.naturalWidth)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_pages_load_clean_and_fit_a_phone(visit, pages, workflow, scheme):
    page = visit(pages[workflow], width=PHONE, scheme=scheme)
    for prepare in (lambda _: None, open_all):
        prepare(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert all(show_pictures(page))


def test_the_ranking_sorts_by_its_header_buttons(visit, atlas):
    page = visit(atlas)
    first = units(page)
    assert first[0] == "conv3:0"
    button = page.get_by_role("button", name="clusters")
    button.click()
    assert page.locator("th[aria-sort]").inner_text().startswith("clusters")
    counts = column(page, "clusters")
    assert counts == sorted(counts)
    assert units(page) != first
    button.press("Enter")
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert column(page, "clusters") == counts[::-1]


def test_the_ranking_filters(visit, atlas):
    page = visit(atlas)
    page.get_by_role("searchbox").first.fill("conv3:3")
    visible = page.locator("#units tbody tr:visible")
    assert visible.count() == 1
    assert "1 of 5 rows" in page.locator("[data-counts=units]").inner_text()


def test_a_units_name_opens_it_and_takes_the_keyboard_there(visit, atlas):
    page = visit(atlas)
    part = page.locator("#unit-2")
    montage = part.get_by_role("heading", name="Cluster 0", exact=True)
    assert not montage.is_visible()
    link = page.get_by_role("link", name="conv3:1")
    link.click()
    assert montage.is_visible()
    assert page.evaluate("document.activeElement === document.querySelector('#unit-2 > summary')")
    page.keyboard.press("Enter")
    assert not montage.is_visible()
    link.click()  # the address is the same as before
    montage.wait_for(state="visible")


def test_a_unit_is_reached_by_tab_and_opened_by_enter(visit, atlas):
    page = visit(atlas)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#unit-1 > summary')"):
            break
    else:
        pytest.fail("the first unit was never reached")
    focus = page.locator("#unit-1 > summary")
    assert focus.evaluate("(one) => getComputedStyle(one).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.locator("#unit-1").get_attribute("open") is not None
    page.keyboard.press("Space")
    assert page.locator("#unit-1").get_attribute("open") is None


def test_an_address_with_a_unit_opens_it(visit, atlas):
    page = visit(atlas)
    page.goto(f"{atlas.as_uri()}#unit-3")
    page.reload()
    assert page.locator("#unit-3").get_attribute("open") is not None
    assert page.locator("#unit-1").get_attribute("open") is None


def test_all_units_open_and_close_together(visit, atlas):
    page = visit(atlas)
    button = page.get_by_role("button", name="Open all")
    button.click()
    assert page.locator("details.unit[open]").count() == 5
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.locator("details.unit[open]").count() == 0


def test_the_page_reads_the_same_without_its_script(visit, atlas):
    page = visit(atlas, script=False)
    assert units(page)[0] == "conv3:0"
    assert page.locator(".tools:visible").count() == 0
    page.locator("#unit-1 > summary").click()
    assert page.locator("#unit-1 h4").first.is_visible()


def test_what_a_unit_holds_is_shown_at_that_unit_alone(visit, atlas):
    page = visit(atlas)
    open_all(page)
    for heading in ("Dissection first", "Pictures grown to raise the unit"):
        (found,) = page.get_by_role("heading", name=heading).all()
        assert found.evaluate("(one) => one.closest('details.unit').id") == "unit-2"
    assert page.locator("#unit-2 figure svg[role=img]").count() == 4


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_screen_reader_finds_its_way(visit, pages, workflow):
    page = visit(pages[workflow])
    open_all(page)
    found = page.evaluate(
        """() => {
          const all = (what) => [...document.querySelectorAll(what)];
          const named = (one) => (one.getAttribute("aria-label") || one.textContent).trim();
          const ids = all("[id]").map((one) => one.id);
          return {
            mute: all("img").filter((one) => !(one.getAttribute("alt") || "").trim()).length,
            drawings: all(".picture > svg").filter((one) => !named(one)).length,
            nameless: all("button, a, summary").filter((one) =>
              !named(one) && !one.querySelector("img[alt]")).length,
            unlabelled: all("input").filter((one) => !one.labels.length).length,
            headings: all("h1, h2, h3, h4, h5, h6").map((one) => Number(one.tagName[1])),
            twice: ids.filter((id, place) => ids.indexOf(id) !== place),
            broken: all('a[href^="#"]').map((one) => one.getAttribute("href").slice(1))
              .filter((id) => !document.getElementById(id)),
            plain: all("th:not([scope])").length,
            language: document.documentElement.lang,
            title: document.title,
          };
        }"""
    )
    levels = found.pop("headings")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert found.pop("language") == "en"
    assert len(found.pop("title")) > 10
    assert found == {
        "mute": 0, "drawings": 0, "nameless": 0, "unlabelled": 0, "twice": [], "broken": [],
        "plain": 0,
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_ground(visit, atlas, scheme):
    page = visit(atlas, scheme=scheme)
    open_all(page)
    ratios = page.evaluate(
        """() => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => {
            const [x, y, z] = [r, g, b].map((v) => {
              const s = v / 255;
              return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * x + 0.7152 * y + 0.0722 * z;
          };
          const ground = (one) => {
            for (let at = one; at; at = at.parentElement) {
              const color = parse(getComputedStyle(at).backgroundColor);
              if (color.length === 3 || color[3] === 1) return color;
            }
            return [255, 255, 255];
          };
          const texts = "h1, h2, h3, h4, p, td, dt, dd, summary span, a, button, figcaption";
          return [...document.querySelectorAll(texts)].map((one) => {
            const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          });
        }"""
    )
    assert len(ratios) > 50
    assert min(ratios) >= 4.5  # WCAG 2.2, 1.4.3


def test_light_and_dark_look_different_and_neither_is_blank(visit, atlas, tmp_path):
    looks = {}
    for scheme in ("light", "dark"):
        page = visit(atlas, scheme=scheme)
        page.get_by_role("link", name="conv3:1").click()
        page.wait_for_function("[...document.images].some((one) => one.naturalWidth)")
        shot = page.screenshot()
        looks[scheme] = np.asarray(Image.open(io.BytesIO(shot)).convert("L"), dtype=float)
        assert looks[scheme].std() > 10
    assert np.median(looks["light"]) > 200
    assert np.median(looks["dark"]) < 60


def test_pictures_beside_the_page_are_shown_from_there(visit, tmp_path, monkeypatch):
    monkeypatch.setattr("polykit.report.page.ROOM", 0)
    path = write_report(atlases.build(tmp_path / "run", units=(2, 1)))
    assert list((tmp_path / "run" / images.FOLDER).iterdir())
    page = visit(path)
    open_all(page)
    assert "data:image" not in path.read_text(encoding="utf-8")
    widths = show_pictures(page)
    assert len(widths) > 10
    assert all(widths)


def test_hostile_names_are_shown_not_obeyed(visit, tmp_path):
    run = atlases.build(
        tmp_path / "run",
        units=(2, 1),
        layer="</summary><img src=x onerror=alert(1)>",
        classes=("<script>alert(2)</script>", "\" onload='alert(3)' x", "{{ 7*7 }}"),
        source="javascript:alert(4)'\"><svg onload=alert(5)>",
    )
    unit = "</summary><img src=x onerror=alert(1)>:0"
    atlases.dissect(run, "first", unit, pruners=("cs", "<b>force</b>", "random"))
    atlases.visualize(run, "first", unit, ['"><script>alert(6)</script>'])
    page = visit(write_report(run))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.reload()
    open_all(page)
    assert all(show_pictures(page))
    assert page.locator("body script").count() == 1
    assert unit in page.inner_text("#unit-1 > summary h3")
    handlers = "[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())"
    assert not [name for name in page.evaluate(handlers) if name.startswith("on")]
    assert not dialogs
