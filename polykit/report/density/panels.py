"""What the panels of a density study share: the look of each width, its axis and its legend."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from polykit.report import drawing
from polykit.report.style import Look, cluster_looks

PANEL = 2.9
"""Height of a panel in inches."""


TITLE = 22
"""Letters of a line over a panel, as many as fit where three stand beside each other."""


def title(*parts: str) -> str:
    """Write what a panel shows, each part on a line of its own."""
    return "\n".join(drawing.wrapped(part, TITLE) for part in parts)


def width_looks(scales: Sequence[float]) -> dict[float, Look]:
    """Give each width its look, by its place."""
    found = cluster_looks(range(len(scales)))
    return {scale: found[place] for place, scale in enumerate(scales)}


def scales_of(table: pd.DataFrame) -> list[float]:
    """Return the widths of a table, rising."""
    return sorted(float(scale) for scale in table["scale"].unique())


def width_legend(figure: Figure, scales: Sequence[float], line: str = "-") -> None:
    """Put one legend of the widths over the figure; an empty `line` leaves dots."""
    looks = width_looks(scales)
    drawing.legend(
        figure,
        [
            Line2D([], [], ls=line, color=looks[s].color, marker=looks[s].marker, label=f"{s:g}×")
            for s in scales
        ],
    )


def width_axis(axes: Axes, scales: Sequence[float]) -> None:
    """Make x a log axis of widths, ticked at those of the run."""
    axes.set_xscale("log")
    axes.set_xlim(min(scales) / 1.4, max(scales) * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(list(scales)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{scale:g}" for scale in scales])
