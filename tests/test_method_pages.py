"""Every built-in pruner, metric and feature space has a page that says what it computes and why."""

import re
from pathlib import Path

import pytest

from polykit.registry import Registry

METHODS = Path(__file__).parents[1] / "docs" / "methods"
FOLDERS = {"pruner": "pruners", "metric": "metrics", "feature-space": "features"}
LARGEST = 40_000
"""Bytes of a picture: pages hold it whole."""


def methods():
    """Map folder and target of each method to its names; an alias is no method of its own."""
    found = {}
    for one in Registry.discover().entries():
        if one.distribution == "polykit" and one.entry.kind in FOLDERS:
            names = found.setdefault((one.entry.kind, one.entry.target), [])
            names.append(one.entry.name)
    return found


@pytest.mark.parametrize(
    ("kind", "names"),
    [pytest.param(kind, names, id=names[0]) for (kind, _), names in methods().items()],
)
def test_a_method_has_its_page(kind, names):
    folder = METHODS / FOLDERS[kind]
    (name,) = [name for name in names if (folder / f"{name}.md").exists()]
    page = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    for part in ("\n$$ ", "**Source.** ", "**What it tells.** ", "**What it does not.** "):
        assert part in page, f"{name}.md lacks {part.strip()}"
    assert f"<!-- generated: options {kind} {name} -->" in page
    pictures = re.findall(r"^!\[(.+)\]\((.+)\)$", page, re.MULTILINE)
    assert pictures, f"{name}.md has no picture with a text beside it"
    for _, path in pictures:
        assert 1_000 < (folder / path).stat().st_size <= LARGEST, path


def test_pages_are_about_what_is_there():
    there = {(FOLDERS[kind], name) for (kind, _), names in methods().items() for name in names}
    pages = {(path.parent.name, path.stem) for path in METHODS.glob("*/*.md")}
    assert pages <= there
