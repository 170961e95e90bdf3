"""The figures of a map: each statistic over the two options that vary first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, product

import numpy as np
import pandas as pd

from polykit.report import drawing, words
from polykit.report.drawing import Drawn, told_apart
from polykit.report.heat import draw_heat
from polykit.report.map import numbers
from polykit.report.map.numbers import Kind
from polykit.report.numbers import describe
from polykit.report.style import figure_style
from polykit.runtime.store import SavedRun

LONG = 22
"""Letters in a cell above which they are written smaller."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    for metric, statistic in numbers.shown(run):
        for kind in numbers.kinds(run):
            yield heat(run, metric, statistic, kind)


def heat(run: SavedRun, metric: str, statistic: str, kind: Kind) -> Drawn | None:
    """Draw one statistic of one kind of network; the options behind the first two make panels."""
    found = numbers.values(run, metric, statistic, kind)
    if not found:
        return None
    options = list(numbers.axes(run).items())
    (across, columns), (down, rows) = [*options, ("", [""])][:2]
    others = options[2:]
    panels = [
        dict(zip((option for option, _ in others), values, strict=True))
        for values in product(*(values for _, values in others))
    ]
    means = [float(series.mean()) for series in found.values()]
    quantity = describe(run, metric, statistic)
    figure, cells = drawing.grid(len(panels), 0.7 + 0.45 * len(rows), share=False)
    told = []
    at = {frozenset(values.items()): point for point, values in numbers.points(run).items()}
    for axes, fixed in zip(cells, panels, strict=True):
        middle = np.full((len(rows), len(columns)), np.nan)
        texts = [[""] * len(columns) for _ in rows]
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            values = {across: column, **({down: row} if down else {}), **fixed}
            series = found.get(at.get(frozenset(values.items()), ""))
            if series is not None:
                middle[i, j], texts[i][j] = float(series.mean()), text(series, "\n")
                told.append(f"{place(values)}: {text(series, ' ')}")
        draw_heat(
            axes,
            middle,
            texts,
            rows=rows,
            columns=columns,
            low=min(means),
            high=max(means),
            size=8 if max(map(len, chain(*texts))) <= LONG else 6.5,
        )
        axes.set_title(drawing.wrapped(place(fixed), 30))
    cells[0].set_ylabel(down)
    figure.supxlabel(f"{across} →", fontsize=11)
    seeds = max(len(series) for series in found.values())
    range_ = ", in brackets the smallest and largest of them" if seeds > 1 else ""
    return Drawn(
        drawing.slug(f"{metric}-{statistic}-{kind.label}"),
        f"{words.capital(quantity.noun)}: {kind.label}",
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
