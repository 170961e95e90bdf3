"""One panel of lines: a quantity along an axis, one line per pruner, the dense network in grey."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from polykit.report.numbers import DENSE_NETWORK, Estimate, Quantity, by_network, estimate
from polykit.report.style import CONTROL, DENSE, DENSE_COLOR, WIDTH, Look

DENSITY_AXIS = "density (share of weights kept; pruned harder →)"
_LOG_RATIO = 50.0  # a loss that spans more than this is unreadable on a linear axis
_LEGEND_WIDTH = 78  # in letters of the legend's size, lines included


@dataclass(frozen=True)
class Line:
    """One series: its name and, from left to right, where each estimate stands."""

    name: str
    points: Sequence[tuple[float, Estimate]]


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


def draw_lines(
    axes: Axes, lines: Iterable[Line], table: Mapping[str, Look], *, log: bool = False
) -> None:
    """Draw lines with their intervals, set a little apart so that they do not hide each other."""
    drawn = list(lines)
    for place, line in enumerate(drawn):
        if not line.points:
            continue
        apart = (place - (len(drawn) - 1) / 2) * 0.025
        x = [at * math.exp(-apart) if log else at + 2 * apart for at, _ in line.points]
        look = table[line.name]
        y = [value.mean for _, value in line.points]
        axes.plot(x, y, look.line, color=look.color, marker=look.marker, label=line.name, zorder=3)
        bars = [(at, value) for at, (_, value) in zip(x, line.points, strict=True) if value.half]
        axes.vlines(
            [at for at, _ in bars],
            [value.low for _, value in bars],
            [value.high for _, value in bars],
            color=look.color,
            linewidth=1.1,
            alpha=0.75,
            zorder=2,
        )


def draw_dense(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the dense network as a grey line across the panel, its interval as a band."""
    dense = by_network(table).get(DENSE_NETWORK)
    if dense is None:
        return
    value = estimate(dense)
    axes.axhline(value.mean, color=DENSE_COLOR, linewidth=1.8, zorder=1)
    if value.half:
        axes.axhspan(value.low, value.high, color=DENSE_COLOR, alpha=0.18, linewidth=0, zorder=0)


def density_ticks(axes: Axes, densities: Sequence[float]) -> None:
    """Make x a log axis of density that falls to the right, ticked at the run's densities."""
    axes.set_xscale("log")
    highest, lowest = max(densities), min(densities)
    room = max((highest / lowest) ** 0.07, 1.12)
    axes.set_xlim(min(highest * room, highest * 1.6), lowest / room)
    span = math.log(highest / lowest) if highest > lowest else 1.0
    kept: list[float] = []
    for density in densities:
        if not kept or math.log(kept[-1] / density) > 0.16 * span:
            kept.append(density)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{density:g}" for density in kept])


def fit(panels: Sequence[Axes], values: Iterable[float], quantity: Quantity) -> None:
    """Fit the y axes to single seeds' values; longer intervals run into the frame.

    With two seeds a t-interval is nine standard deviations wide: fitted to it, no line would show.
    """
    sample = np.asarray(list(values), dtype=float)
    if not len(sample):
        return
    low, high = float(sample.min()), float(sample.max())
    if low > 0 and high / low > _LOG_RATIO and math.isinf(quantity.high):
        for axes in panels:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(low / 1.5, high * 1.5)
        return
    pad = 0.18 * (high - low) or 0.1 * abs(high) or 1.0
    edge = 0.05 * (high - low)  # half a marker beyond what the quantity can reach
    bottom, top = max(low - pad, quantity.low - edge), min(high + pad, quantity.high + edge)
    for axes in panels:
        if top > bottom:
            axes.set_ylim(bottom, top)


def legend(figure: Figure, names: Sequence[str], table: Mapping[str, Look], *, dense: bool) -> None:
    """Put one legend over the figure: dense first, then the pruners, the control named as such."""
    handles = [Line2D([], [], color=DENSE_COLOR, label=DENSE)] if dense else []
    for name in names:
        look = table[name]
        label = f"{name} (control)" if name == CONTROL else name
        handles.append(
            Line2D([], [], color=look.color, linestyle=look.line, marker=look.marker, label=label)
        )
    if handles:
        lengths = [len(str(handle.get_label())) + 6 for handle in handles]
        one_row = sum(lengths) <= _LEGEND_WIDTH
        columns = len(handles) if one_row else max(1, _LEGEND_WIDTH // max(lengths))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns)
        more_rows = math.ceil(len(handles) / columns) - 1
        figure.set_figheight(figure.get_figheight() + 0.25 * more_rows)


def grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, two or three beside each other, sharing both axes."""
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 1.1 + rows * height), layout="constrained")
    cells = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for empty in cells[count:]:
        empty.remove()
    for lowest in cells[max(0, count - columns) : count]:
        lowest.xaxis.set_tick_params(labelbottom=True)
    return figure, list(cells[:count])


def wrapped(text: str, width: int = 34) -> str:
    """Break a label into lines; a word longer than a line is cut."""
    return "\n".join(textwrap.wrap(text, width)) or text
