"""Panels of the laboratory: a quantity against the pruning ratio, one line for each arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from polykit.report import drawing
from polykit.report.drawing import Line
from polykit.report.laboratory.effects import PRUNED, SCRATCH, UNPRUNED
from polykit.report.laboratory.findings import cell, ratios
from polykit.report.numbers import Estimate, estimate
from polykit.report.style import ARM_LOOKS, CONTROL, DENSE, DENSE_COLOR

RATIO_AXIS = "pruning ratio (share of parameters removed; pruned harder →)"
CUT = (PRUNED, CONTROL, SCRATCH)
"""The arms that have a line; the others have no ratio, and go across the panel."""
_NAMES = {UNPRUNED: "unpruned, retrained", CONTROL: "random (control)", SCRATCH: "from scratch"}


def draw_arms(
    axes: Axes,
    values: pd.DataFrame,
    actual: pd.DataFrame,
    setting: tuple[str, float],
    span: float,
) -> None:
    """Draw all arms of a setting; `span` is how far the ratios reach, to keep points apart."""
    dense = cell(values, *setting, DENSE, 0.0)
    if len(dense):
        axes.axhline(float(dense.mean()), color=DENSE_COLOR, linewidth=1.8, zorder=1)
    unpruned = cell(values, *setting, UNPRUNED, 0.0)
    if len(unpruned):
        found = estimate(unpruned)
        axes.axhline(found.mean, color=DENSE_COLOR, linewidth=1.4, linestyle=":", zorder=1)
        if found.half:
            axes.axhspan(
                found.low, found.high, color=DENSE_COLOR, alpha=0.22, linewidth=0, zorder=0
            )
    lines = [Line(arm, arm_line(values, actual, setting, arm)) for arm in CUT]
    drawing.draw_lines(axes, lines, ARM_LOOKS, step=0.012 * span)


def arm_line(
    values: pd.DataFrame, actual: pd.DataFrame, setting: tuple[str, float], arm: str
) -> list[tuple[float, Estimate]]:
    """Return an arm's estimates, each at the mean ratio that was reached."""
    points = []
    for ratio in ratios(values, arm):
        found = cell(values, *setting, arm, ratio)
        if len(found):
            reached = cell(actual, *setting, arm, ratio).reindex(found.index).dropna()
            place = float(reached.mean()) if len(reached) else ratio
            points.append((place, estimate(found)))
    return sorted(points, key=lambda point: point[0])


def reach(actual: pd.DataFrame, values: pd.DataFrame) -> float:
    """Return how far the pruning ratios go in a table of them, or else those that were asked."""
    highest = actual.max().max() if actual.size else None
    asked = [ratio for arm in CUT for ratio in ratios(values, arm)]
    return float(highest) if highest and highest > 0 else max(asked, default=1.0)


def ratio_axis(axes: Iterable[Axes], highest: float) -> None:
    """Give panels the same axis of pruning ratios."""
    for panel in axes:
        panel.set_xlim(-0.04 * highest, 1.06 * highest)
        panel.xaxis.set_major_locator(drawing.ticks(4))


def legend(figure: Figure, arms: Sequence[str], *, several: bool) -> None:
    """Name the arms: what was not pruned first, the control as such."""
    handles: list[Line2D | Patch] = []
    for arm in arms:
        look, name = ARM_LOOKS[arm], _NAMES.get(arm, arm)
        if arm == UNPRUNED and several:
            handles.append(Patch(color=DENSE_COLOR, alpha=0.35, linewidth=0, label=name))
        else:
            handles.append(
                Line2D(
                    [], [], color=look.color, linestyle=look.line, marker=look.marker, label=name
                )
            )
    drawing.legend(figure, handles)


def shared(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put the values of several layers below each other, to fit axes to all of them."""
    return pd.concat(tables.values()) if tables else pd.DataFrame()
