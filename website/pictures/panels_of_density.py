"""The panel that most pictures have: something against density, for each pruner of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import polykit
from polykit.report import drawing
from polykit.report.analyze import panels
from polykit.report.analyze.numbers import densities, pruners, stages
from polykit.report.numbers import describe, select
from polykit.report.style import WIDTH, figure_style, looks

HEIGHT = 2.9


@contextmanager
def picture_style() -> Iterator[None]:
    """The style of polykit's figures, with plain titles: a second weight would double the file."""
    with figure_style(), matplotlib.rc_context({"axes.titleweight": "normal"}):
        yield


def two_panels(left: float = 1.0) -> tuple[Figure, Axes, Axes]:
    """Make a figure of two panels; `left` is the share of the first beside 1.6 of the other."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(left, 1.6))
    return figure, first, second


def draw_against_density(
    axes: Axes,
    run: polykit.Run,
    metric: str,
    statistic: str,
    title: str,
    wanted: Collection[str] = (),
) -> None:
    """Draw one statistic after the run's last stage; a legend stands over the figure.

    Of the run's pruners all are drawn, or only those that are `wanted`.
    """
    saved = run.saved
    quantity, table = describe(saved, metric, statistic), select(saved.rows, metric, statistic)
    names = [name for name in pruners(saved) if not wanted or name in wanted]
    steps = densities(saved)
    style = looks(names)
    panels.draw_dense(axes, table)
    lines = panels.density_lines(table, names, steps, stages(saved)[-1])
    drawing.draw_lines(axes, lines, style, log=True)
    panels.density_ticks(axes, steps)
    drawing.fit([axes], table["value"], quantity)
    axes.yaxis.set_major_locator(drawing.ticks(4))
    axes.set(title=title, xlabel="density (pruned harder →)")
    figure = axes.get_figure()
    if isinstance(figure, Figure):
        panels.legend(figure, names, style, dense=True)
