"""What the page of a dissection says beside its verdict and figures."""

from __future__ import annotations

from dataclasses import dataclass

from polykit.report.dissect import numbers
from polykit.report.tables import Table, from_frame
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class DissectContent:
    """Title, facts, the units that were dissected, and tables."""

    title: str
    facts: list[tuple[str, str]]
    units: list[str]
    tables: list[Table]


def content(run: SavedRun) -> DissectContent:
    """Return what the template of a dissection needs."""
    config = dict(run.meta.get("config") or {})
    units = list(dict.fromkeys(str(unit) for unit in run.rows["unit"]))
    pruners = list(dict.fromkeys(str(pruner) for pruner in run.rows["pruner"]))
    facts = [
        ("run", str(config.get("run") or "")),
        ("pruners", ", ".join(pruners)),
        ("objective", str(config.get("objective") or "")),
    ]
    tables = [
        from_frame("summary", "Results", "Measured on held-out pictures.", numbers.summary(run)),
        from_frame(
            "overlaps",
            "Overlap of the clusters’ subnetworks",
            "Intersection over union of what two clusters’ masks keep, beside what chance gives.",
            run.tables["overlaps"],
        ),
    ]
    return DissectContent(
        f"Do the clusters of {', '.join(units) or 'the units'} come from different parts?",
        [(name, value) for name, value in facts if value],
        units,
        [table for table in tables if table.rows],
    )
