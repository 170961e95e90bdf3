"""A figure with its words, and the panels that all figures are made of."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from polykit.report.numbers import Estimate, Quantity, estimate
from polykit.report.style import WIDTH, Look

_LOG_RATIO = 50.0  # a loss that spans more than this is unreadable on a linear axis
_LEGEND_WIDTH = 78  # in letters of the legend's size, lines included

LETTERS = 24
"""Letters of a name that are written where there is little room."""


@dataclass(frozen=True)
class Drawn:
    """A figure with its file name, title, caption, and the text that stands in for it.

    `section` names the part of the page that it belongs to; empty for the run as a whole.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    section: str = ""


@dataclass(frozen=True)
class Line:
    """One series: its name and, from left to right, where each estimate stands."""

    name: str
    points: Sequence[tuple[float, Estimate]]


def told_apart(drawn: Iterable[Drawn | None]) -> list[Drawn]:
    """Leave out what could not be drawn, and number the names that come twice."""
    taken: dict[str, int] = {}
    unique = []
    for figure in drawn:
        if figure is not None:
            taken[figure.name] = turn = taken.get(figure.name, 0) + 1
            name = figure.name if turn == 1 else f"{figure.name}-{turn}"
            unique.append(replace(figure, name=name))
    return unique


def slug(text: str) -> str:
    """Return a name that is safe in a path and in an address.

    >>> slug("../IG: all layers")
    'ig-all-layers'
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-").lower()


def draw_lines(
    axes: Axes,
    lines: Sequence[Line],
    table: Mapping[str, Look],
    *,
    log: bool = False,
    step: float = 0.05,
) -> None:
    """Draw lines with their intervals, `step` apart so that they do not hide each other.

    On a log axis the step is half that, as a share of x.
    """
    for apart, line in zip(apart_by(len(lines), step), lines, strict=True):
        if not line.points:
            continue
        x = [at * math.exp(-apart / 2) if log else at + apart for at, _ in line.points]
        draw_line(
            axes,
            Line(line.name, [(a, v) for a, (_, v) in zip(x, line.points, strict=True)]),
            table[line.name],
        )


def apart_by(count: int, step: float = 0.05) -> list[float]:
    """Return how far each of several lines is moved aside, around 0.

    >>> apart_by(3)
    [-0.05, 0.0, 0.05]
    """
    return [(place - (count - 1) / 2) * step for place in range(count)]


def draw_line(axes: Axes, line: Line, look: Look) -> None:
    """Draw one line with its intervals as bars."""
    x = [at for at, _ in line.points]
    y = [value.mean for _, value in line.points]
    axes.plot(x, y, look.line, color=look.color, marker=look.marker, label=line.name, zorder=3)
    bars = [(at, value) for at, value in line.points if value.half]
    axes.vlines(
        [at for at, _ in bars],
        [value.low for _, value in bars],
        [value.high for _, value in bars],
        color=look.color,
        linewidth=1.1,
        alpha=0.75,
        zorder=2,
    )


def draw_curve(axes: Axes, table: pd.DataFrame, color: str, marker: str, after: int = 0) -> None:
    """Draw the mean over seeds of `value` against `epoch`, `after` epochs on, with its band."""
    epochs = [int(epoch) for epoch in sorted(table["epoch"].unique())]
    points = [estimate(table[table["epoch"] == epoch]["value"]) for epoch in epochs]
    places = [epoch + after for epoch in epochs]
    axes.plot(
        places,
        [point.mean for point in points],
        color=color,
        marker=marker if len(points) == 1 else None,
    )
    axes.fill_between(
        places,
        [point.low for point in points],
        [point.high for point in points],
        color=color,
        alpha=0.2,
        linewidth=0,
    )


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


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put one legend over the figure, in as many rows as it takes."""
    if handles:
        lengths = [len(str(handle.get_label())) + 6 for handle in handles]
        one_row = sum(lengths) <= _LEGEND_WIDTH
        columns = len(handles) if one_row else max(1, _LEGEND_WIDTH // max(lengths))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns)
        more_rows = math.ceil(len(handles) / columns) - 1
        figure.set_figheight(figure.get_figheight() + 0.25 * more_rows)


def grid(count: int, height: float, *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, two or three beside each other.

    They share both axes, or only x, where their values are not to be compared.
    """
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 1.1 + rows * height), layout="constrained")
    cells = figure.subplots(rows, columns, sharex=True, sharey=share, squeeze=False).flatten()
    for empty in cells[count:]:
        empty.remove()
    for lowest in cells[max(0, count - columns) : count]:
        lowest.xaxis.set_tick_params(labelbottom=True)
    return figure, list(cells[:count])


def ticks(count: int, *, whole: bool = False) -> MaxNLocator:
    """Return what places at most `count` ticks and one more at round, or whole, numbers."""
    return MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10], integer=whole)


def wrapped(text: str, width: int = 34) -> str:
    """Break a label into lines; a word longer than a line is cut."""
    return "\n".join(textwrap.wrap(text, width)) or text


def shortened(name: str, width: int) -> str:
    """Break a name into lines where there is little room; of a long one the end, which tells most.

    >>> shortened("features.0." + 20 * "x", 12).splitlines()
    ['….0.xxxxxxxx', 'xxxxxxxxxxxx']
    """
    return wrapped(name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}", width)
