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
        found = [one for one in _builtin() if one.entry.kind == kind]
        if found:
            rows = [(_linked(one), one.entry.summary, one.entry.source) for one in found]
            lines += [f"## {kind.replace('-', ' ').capitalize()}s", ""]
            lines += table(("name", "what it does", "source"), rows)
    return "\n".join(lines)


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


def _linked(found: Found) -> str:
    """A plugin's name, as a link where it has a page."""
    name, folder = found.entry.name, FOLDERS.get(found.entry.kind, "")
    page = METHODS / folder / f"{name}.md"
    return f"[`{name}`](../methods/{folder}/{name}.md)" if folder and page.exists() else f"`{name}`"
