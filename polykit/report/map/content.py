"""What the page of a map says beside its verdict and figures."""

from __future__ import annotations

from dataclasses import dataclass

from polykit.report import words
from polykit.report.map import numbers
from polykit.report.tables import Table, from_frame
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class MapContent:
    """Title, facts and tables of the page."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]


def content(run: SavedRun) -> MapContent:
    """Return what the template of a map needs."""
    analysis = dict((run.meta.get("config") or {}).get("analysis") or {})
    axes = numbers.axes(run)
    facts = [
        ("model", str(analysis.get("model", ""))),
        ("data", str((run.meta.get("data") or {}).get("name", ""))),
        *((option, ", ".join(values)) for option, values in axes.items()),
        ("points", str(len(numbers.points(run)))),
        ("seeds", ", ".join(map(str, sorted(run.rows["seed"].unique())))),
    ]
    table = from_frame(
        "points",
        "Every point",
        "Means over seeds, whole network.",
        numbers.summary(run),
    )
    measured = list(dict.fromkeys(metric for metric, _ in numbers.shown(run)))
    return MapContent(
        f"{words.capital(words.listed(measured))} over {words.listed(list(axes))}",
        [(name, text) for name, text in facts if text],
        [table] if table.rows else [],
    )
