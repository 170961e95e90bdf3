"""What the page of a run of `visualize` says beside its verdict: the pictures, unit by unit."""

from __future__ import annotations

from dataclasses import dataclass

from polykit.report.drawing import Drawn
from polykit.report.visualize.strips import Strip, strips
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class VisualizeContent:
    """Title, facts, and for each unit its strips of pictures."""

    title: str
    facts: list[tuple[str, str]]
    units: list[tuple[str, list[Strip]]]


def content(run: SavedRun) -> VisualizeContent:
    """Return what the template of a run of `visualize` needs."""
    config = dict(run.meta.get("config") or {})
    units = list(dict.fromkeys(run.tables["images"]["unit"]))
    facts = [
        ("run", str(config.get("run") or "")),
        ("dissection", str(config.get("dissection") or "")),
        ("attribution", str(config.get("attribution") or "")),
        ("steps", str(config.get("steps") or "")),
        ("diversity", str(config.get("diversity") or "")),
    ]
    title = f"What {', '.join(units) or 'the units'} look for"
    return VisualizeContent(
        title,
        [(name, value) for name, value in facts if value],
        [(unit, list(strips(run, unit))) for unit in units],
    )


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw nothing: the page's pictures are the run's own."""
    return []
