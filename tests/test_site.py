"""The site: built once, it holds what is generated, and asks nobody for anything when read."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from polykit.cli.group import COMMANDS
from polykit.registry import Registry

ROOT = Path(__file__).parents[1]


class Sources(HTMLParser):
    """Collects what a browser would fetch to show a page: not what a reader may click on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        wanted = values.get("src") if tag != "link" else values.get("href")
        if wanted:
            self.found.append(wanted)


def fetched(page):
    sources = Sources()
    sources.feed(page)
    return sources.found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {p.relative_to(site).as_posix(): p.read_text("utf-8") for p in site.rglob("*.html")}


def test_the_collector_sees_what_is_fetched():
    page = '<link href="//a/b.css"><script src="https://c"></script><a href="https://d">d</a>'
    assert fetched(page) == ["//a/b.css", "https://c"]


def test_pages_fetch_nothing_from_elsewhere(pages):
    for name, page in pages.items():
        for source in fetched(page):
            assert not re.match(r"(https?:)?//", source), f"{name} fetches {source}"


def test_styles_fetch_nothing_from_elsewhere(site):
    styles = list(site.rglob("*.css"))
    assert styles
    for path in styles:
        for source in re.findall(r"url\(([^)]*)\)|@import ([^;]*)", path.read_text("utf-8")):
            assert "//" not in "".join(source).split(",")[0], f"{path.name} fetches {source}"


def test_formulas_are_drawn_whole(pages):
    """What the converter does not know it leaves as TeX."""
    formulas = [(n, f) for n, page in pages.items() for f in re.findall("<math.*?</math>", page)]
    assert len(formulas) > 50
    for name, formula in formulas:
        text = re.sub("<[^>]*>", "", formula)
        assert "\\" not in text, f"{name}: {text}"
    assert not any("arithmatex" in page for page in pages.values())


def test_pictures_are_part_of_their_page(pages):
    page = pages["methods/pruners/force.html"]
    assert "<svg role=" in page
    assert "<img" not in page


def test_every_part_is_generated(pages):
    for name, page in pages.items():
        assert "<!-- generated:" not in page, name


def test_commands_are_in_the_reference(pages):
    for name in COMMANDS:
        assert f"<code>polykit {name}</code>" in pages["reference/cli.html"]
    assert "<code>--granularity" in pages["reference/cli.html"]


def test_plugins_are_in_the_reference(pages):
    for found in Registry.discover().entries():
        if found.distribution == "polykit":
            assert f"<code>{found.entry.name}</code>" in pages["reference/plugins.html"]


def test_public_names_are_in_the_reference(pages):
    for address in ("api.SaliencyPruner.scores", "types.data.FeatureSpace", "session.analyze"):
        assert any(f'id="polykit.{address}"' in page for page in pages.values()), address


def test_examples_of_docstrings_are_code(pages):
    reference = {name: page for name, page in pages.items() if name.startswith("reference/")}
    assert any("&gt;&gt;&gt;" in page for page in reference.values())
    for name, page in reference.items():
        assert "<blockquote>" not in page, f"{name} takes an example for a quotation"
