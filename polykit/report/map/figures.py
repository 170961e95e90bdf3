"""The figures of a map: each statistic over the two options that vary first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import pandas as pd

from polykit.report import drawing, words
from polykit.report.drawing import Drawn, told_apart
from polykit.report.heat import draw_heat
from polykit.report.map import numbers
from polykit.report.numbers import describe
from polykit.report.style import figure_style
from polykit.runtime.store import SavedRun

LONG = 22
"""Letters in a cell above which they are written smaller."""

NETWORKS = "networks"
"""What the kinds of network are called where they are an axis."""


@dataclass(frozen=True)
class Grid:
    """What is drawn in one figure: the values of seeds by what stands at the axes.

    `axes` are options with their values, columns first, then rows, then panels.
    """

    label: str
    axes: list[tuple[str, list[str]]]
    found: dict[frozenset[tuple[str, str]], pd.Series[float]]


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn]:
    for metric, statistic in numbers.shown(run):
        for grid in grids(run, metric, statistic):
            yield heat(run, metric, statistic, grid)


def grids(run: SavedRun, metric: str, statistic: str) -> list[Grid]:
    """Part a statistic into figures: one for each kind of network, or one where kinds are an axis.

    They are if a single option varies, since there is room for them then.
    """
    points, axes, made = numbers.points(run), list(numbers.axes(run).items()), []
    for kind in numbers.kinds(run):
        values = numbers.values(run, metric, statistic, kind)
        found = {frozenset(points[point].items()): series for point, series in values.items()}
        if found:
            made.append(Grid(kind.label, axes, found))
    if len(made) < 2 or sum(len(values) > 1 for _, values in axes) > 1:
        return made
    together = {
        at | {(NETWORKS, grid.label)}: series for grid in made for at, series in grid.found.items()
    }
    rows = (NETWORKS, [grid.label for grid in made])
    return [Grid("all networks", [*axes[:1], rows, *axes[1:]], together)]


def heat(run: SavedRun, metric: str, statistic: str, grid: Grid) -> Drawn:
    """Draw one statistic; what is behind the first two axes makes panels."""
    (across, columns), (down, rows) = [*grid.axes, ("", [""])][:2]
    others = grid.axes[2:]
    panels = [
        dict(zip((option for option, _ in others), values, strict=True))
        for values in product(*(values for _, values in others))
    ]
    means = [float(series.mean()) for series in grid.found.values()]
    quantity = describe(run, metric, statistic)
    figure, cells = drawing.grid(len(panels), 0.7 + 0.45 * len(rows), share=False)
    told = []
    for axes, fixed in zip(cells, panels, strict=True):
        middle = np.full((len(rows), len(columns)), np.nan)
        texts = [[""] * len(columns) for _ in rows]
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            values = {across: column, **({down: row} if down else {}), **fixed}
            series = grid.found.get(frozenset(values.items()))
            if series is not None:
                middle[i, j], texts[i][j] = float(series.mean()), text(series, "\n")
                told.append(f"{place(values)}: {text(series, ' ')}")
        draw_heat(
            axes,
            middle,
            texts,
            rows=[drawing.wrapped(row, 24) for row in rows],
            columns=columns,
            low=min(means),
            high=max(means),
            size=8 if max(map(len, chain(*texts))) <= LONG else 6.5,
        )
        axes.set_title(drawing.wrapped(place(fixed), 30))
    cells[0].set_ylabel(down)
    figure.supxlabel(f"{across} →", fontsize=11)
    seeds = max(len(series) for series in grid.found.values())
    range_ = ", in brackets the smallest and largest of them" if seeds > 1 else ""
    return Drawn(
        drawing.slug(f"{metric}-{statistic}-{grid.label}"),
        f"{words.capital(quantity.noun)}: {grid.label}",
        f"{words.capital(quantity.axis)}, whole network. Mean over {words.seeds(seeds)}{range_}.",
        f"Map of {quantity.axis}. {'; '.join(told)}.",
        figure,
    )


def text(series: pd.Series[float], between: str) -> str:
    """Write the mean, and the range where seeds differ.

    >>> text(pd.Series([0.1, 0.3]), " ")
    '0.200 (0.100–0.300)'
    """
    mean = float(series.mean())
    if series.nunique() == 1:
        return words.number(mean)
    low, high = (words.number(float(value), mean) for value in (series.min(), series.max()))
    return f"{words.number(mean)}{between}({low}–{high})"


def place(values: Mapping[str, str]) -> str:
    """Write where a point is.

    >>> place({"lr": "0.03", "mlp.widths": "8"})
    'lr 0.03, mlp.widths 8'
    """
    return ", ".join(f"{option} {value}" for option, value in values.items())
