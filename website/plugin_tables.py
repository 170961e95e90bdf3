"""What the registry knows of the built-in plugins, as tables."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from markdown_tables import table
from polykit.api import KINDS, Kind
from polykit.cli.fields import describe
from polykit.entries import Found
from polykit.registry import Registry
from polykit.workflows.config import value_text

METHODS = Path(__file__).parents[1] / "docs" / "methods"
FOLDERS: dict[Kind, str] = {"pruner": "pruners", "metric": "metrics", "feature-space": "features"}


def catalogue() -> str:
    """Return a table of each kind's plugins: name, what it does, source."""
    lines: list[str] = []
    for kind in KINDS:
        rows = [
            (_linked(one, "../methods"), one.entry.summary, one.entry.source)
            for one in _builtin()
            if one.entry.kind == kind
        ]
        if rows:
            lines += [f"## {kind.replace('-', ' ').capitalize()}s", ""]
            lines += table(("name", "what it does", "source"), rows)
    return "\n".join(lines)


def methods(kind: Kind) -> str:
    """Return a table of one kind's plugins, for the page that stands beside their pages."""
    found = [one for one in _builtin() if one.entry.kind == kind]
    rows = [(_linked(one, "methods"), one.entry.summary) for one in found]
    return "\n".join(table(("name", "what it does"), rows))


def options(kind: Kind, name: str) -> str:
    """Return a plugin's tables: its options, and of a metric what it reports."""
    (found,) = (one for one in _builtin() if (one.entry.kind, one.entry.name) == (kind, name))
    plugin = found.options
    rows = [
        (
            f"`{option['name']}`",
            option["type"],
            option["bounds"],
            "" if option["default"] is None else f"`{value_text(option['default'])}`",
            option["description"],
        )
        for option in describe(plugin)
    ]
    lines = ["It has no options.", ""] if not rows else []
    lines += table(("option", "type", "bounds", "default", "meaning"), rows) if rows else []
    headline, columns = getattr(plugin, "headline", ""), getattr(plugin, "columns", {})
    reported = [
        (f"`{name}`{' (headline)' * (name == headline)}", column.range, column.unit, column.summary)
        for name, column in columns.items()
    ]
    if reported:
        lines += ["It reports:", "", *table(("statistic", "range", "unit", "meaning"), reported)]
    return "\n".join(lines)


@cache
def _builtin() -> tuple[Found, ...]:
    return tuple(
        found for found in Registry.discover().entries() if found.distribution == "polykit"
    )


def _linked(found: Found, to_methods: str) -> str:
    """A plugin's name, as a link where it has a page; aliases lead to their method's."""
    entry, folder = found.entry, FOLDERS.get(found.entry.kind, "")
    names = [one.entry.name for one in _builtin() if one.entry.target == entry.target]
    pages = [f"{folder}/{name}.md" for name in (entry.name, *names)]
    page = next((page for page in pages if folder and (METHODS / page).exists()), None)
    return f"[`{entry.name}`]({to_methods}/{page})" if page else f"`{entry.name}`"
