"""All figures of a dissection, those of a unit together."""

from __future__ import annotations

from polykit.report.dissect import diagram, distributions
from polykit.report.dissect import figures as controls
from polykit.report.drawing import Drawn, told_apart
from polykit.runtime.store import SavedRun


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw how the clusters come apart, beside the controls; then the values, then the parts."""
    return told_apart(
        [*controls.draw_all(run), *distributions.draw_all(run), *diagram.draw_all(run)]
    )
