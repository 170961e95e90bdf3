"""Panels of an analysis: a quantity against density, a line per pruner, the dense one in grey."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from polykit.report import drawing
from polykit.report.analyze.numbers import DENSE_NETWORK, by_network
from polykit.report.drawing import Line
from polykit.report.numbers import estimate
from polykit.report.style import CONTROL, DENSE, DENSE_COLOR, Look

DENSITY_AXIS = "density (share of weights kept; pruned harder →)"


def density_lines(
    table: pd.DataFrame, names: Sequence[str], densities: Sequence[float], stage: str
) -> list[Line]:
    """Return each pruner's line against density, each point at the density that was achieved."""
    values, achieved = by_network(table), by_network(table, "achieved_density")
    lines = []
    for name in names:
        points = []
        for density in densities:
            network = (name, density, stage)
            if network in values:
                place = float(achieved[network].mean())
                points.append((place if place > 0 else density, estimate(values[network])))
        lines.append(Line(name, points))
    return lines


def draw_dense(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the dense network as a grey line across the panel, its interval as a band."""
    dense = by_network(table).get(DENSE_NETWORK)
    if dense is None:
        return
    value = estimate(dense)
    axes.axhline(value.mean, color=DENSE_COLOR, linewidth=1.8, zorder=1)
    if value.half:
        axes.axhspan(value.low, value.high, color=DENSE_COLOR, alpha=0.18, linewidth=0, zorder=0)


def density_ticks(axes: Axes, densities: Sequence[float], lines: Sequence[Line]) -> None:
    """Make x a log axis of density that falls to the right, ticked at the run's densities.

    It has room for all `lines`, whose points stand beside those densities.
    """
    axes.set_xscale("log")
    highest, lowest = max(densities), min(densities)
    room = min(max((highest / lowest) ** 0.07, 1.12), 1.6)
    aside = math.exp(max(drawing.apart_by(len(lines)), default=0.0) / 2 + 0.02)
    places = [at for line in lines for at, _ in line.points] or densities
    axes.set_xlim(max(highest * room, max(places) * aside), min(lowest / room, min(places) / aside))
    span = math.log(highest / lowest) if highest > lowest else 1.0
    kept: list[float] = []
    for density in densities:
        if not kept or math.log(kept[-1] / density) > 0.16 * span:
            kept.append(density)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{density:g}" for density in kept])


def legend(figure: Figure, names: Sequence[str], table: Mapping[str, Look], *, dense: bool) -> None:
    """Put one legend over the figure: dense first, then the pruners, the control named as such."""
    handles = [Line2D([], [], color=DENSE_COLOR, label=DENSE)] if dense else []
    for name in names:
        look = table[name]
        label = f"{name} (control)" if name == CONTROL else name
        handles.append(
            Line2D([], [], color=look.color, linestyle=look.line, marker=look.marker, label=label)
        )
    drawing.legend(figure, handles)
