"""The figures of a dissection: separation and specificity, always with the controls beside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polykit.report import drawing, words
from polykit.report.dissect import numbers
from polykit.report.dissect.numbers import CONTROLS, Finding, Score
from polykit.report.dissect.verdict import two
from polykit.report.drawing import Drawn, slug, told_apart
from polykit.report.style import DENSE_COLOR, INK, WIDTH, Look, figure_style, looks
from polykit.runtime.store import SavedRun

_MARKERS: Mapping[str, str] = {"unit": "^", "weights": "s", "labels": "x"}
"""What stands for a control, hollow and in ink."""

SEPARATION = "AUC, cluster against others (worst cluster)"
SPECIFICITY = "specificity: min(fidelity, 2·AUC − 1)"


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw the figures of every unit; an empty run has none."""
    with figure_style():
        return told_apart(_figures(numbers.findings(run)))


def _figures(found: Sequence[Finding]) -> Iterator[Drawn | None]:
    for unit in dict.fromkeys(finding.unit for finding in found):
        here = [finding for finding in found if finding.unit == unit]
        yield beside_controls(here)
        yield against_density(here)


def beside_controls(found: Sequence[Finding]) -> Drawn:
    """Draw one unit's separation and specificity by pruner, each with all its controls."""
    unit, table = found[0].unit, looks(finding.pruner for finding in found)
    figure = Figure(figsize=(WIDTH, 2.0 + 0.5 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, finding in enumerate(found):
        look = table[finding.pruner]
        _own(left, place, finding.own.auc, look)
        _own(right, place, finding.own.specificity, look)
        for trial in finding.controls:
            _control(left, place, trial.auc.value, trial.control)
            _control(right, place, trial.specificity.value, trial.control)
        _dense(left, place, finding.auc_before)
        if math.isfinite(finding.auc_random.value):
            left.hlines(
                place + 0.3,
                finding.auc_random.low,
                finding.auc_random.high,
                color=INK,
                linestyle="--",
                linewidth=1.4,
            )
    left.axvline(0.5, color=INK, linewidth=0.8, alpha=0.5)
    right.axvline(numbers.SPECIFIC, color=INK, linewidth=0.8, alpha=0.5)
    left.set_xlim(-0.03, 1.03)
    right.set_xlim(-1.05, 1.05)
    left.set_yticks(range(len(found)), [drawing.wrapped(f.name, 22) for f in found])
    left.set_ylim(len(found) - 0.4, -0.6)
    left.set_xlabel(drawing.wrapped(SEPARATION, 30))
    right.set_xlabel(drawing.wrapped(SPECIFICITY, 30))
    for axes in (left, right):
        axes.grid(visible=True, axis="x")
    drawing.legend(figure, _handles())
    first = found[0]
    return Drawn(
        f"controls-{slug(unit)}",
        f"How the clusters of {unit} come apart, beside the controls",
        f"Filled: the unit's own parts, with 95\u00a0% bootstrap intervals over {first.pictures} "
        "held-out pictures of the smallest cluster. Hollow: the same clusters in other units, in a "
        "network with random weights, and with shuffled labels. Grey bar: the dense unit. Dashed: "
        "the middle 95\u00a0% of random masks as sparse in each layer. Thin lines: chance, and the "
        "specificity from which on a part may be the unit's own.",
        f"Dot plot for {unit}. {' '.join(_told(finding) for finding in found)}",
        figure,
        section=unit,
    )


def against_density(found: Sequence[Finding]) -> Drawn | None:
    """Draw separation and specificity against density; None where no pruner has two densities."""
    names = list(dict.fromkeys(finding.pruner for finding in found))
    if max(sum(f.pruner == name for f in found) for name in names) < 2:
        return None
    unit, table = found[0].unit, looks(names)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for name in names:
        here = sorted((f for f in found if f.pruner == name), key=lambda f: f.achieved)
        for axes, score in zip(panels, ("auc", "specificity"), strict=True):
            _line(axes, here, score, table[name])
    for axes, label in zip(panels, (SEPARATION, SPECIFICITY), strict=True):
        axes.set_xscale("log")
        axes.set_ylabel(drawing.wrapped(label, 30))
        axes.set_xlabel("density (share kept)")
    panels[0].set_ylim(-0.03, 1.03)
    panels[1].set_ylim(-1.05, 1.05)
    handles = [
        Line2D([], [], color=table[name].color, marker=table[name].marker, label=name)
        for name in names
    ]
    handles.append(Line2D([], [], color=INK, linestyle=":", label="mean of the controls"))
    drawing.legend(figure, handles)
    return Drawn(
        f"density-{slug(unit)}",
        f"Separation and specificity against density for {unit}",
        "Solid: the unit's own parts, with 95\u00a0% bootstrap intervals over held-out pictures. "
        "Dotted, in the same colour: the mean over other units and random weights.",
        f"Line charts for {unit}. {' '.join(_told(finding) for finding in found)}",
        figure,
        section=unit,
    )


def _line(axes: Axes, found: Sequence[Finding], score: str, look: Look) -> None:
    x = [finding.achieved for finding in found]
    own: list[Score] = [getattr(finding.own, score) for finding in found]
    axes.plot(x, [s.value for s in own], look.line, color=look.color, marker=look.marker)
    axes.vlines(x, [s.low for s in own], [s.high for s in own], color=look.color, linewidth=1.1)
    means = [
        sum(getattr(trial, score).value for trial in f.rivals) / max(1, len(f.rivals))
        for f in found
    ]
    axes.plot(x, means, ":", color=look.color)


def _own(axes: Axes, place: float, score: Score, look: Look) -> None:
    if math.isnan(score.value):
        return
    axes.plot([score.value], [place], marker=look.marker, color=look.color, markersize=8, zorder=4)
    axes.hlines(place, score.low, score.high, color=look.color, linewidth=2, zorder=3)


def _control(axes: Axes, place: float, value: float, control: str) -> None:
    axes.plot(
        [value],
        [place + 0.22],
        marker=_MARKERS[control],
        linestyle="none",
        markerfacecolor="none",
        markeredgecolor=INK,
        markersize=5.5,
        zorder=2,
    )


def _dense(axes: Axes, place: float, value: float) -> None:
    axes.vlines(value, place - 0.28, place + 0.28, color=DENSE_COLOR, linewidth=3, zorder=1)


def _handles() -> list[Line2D]:
    handles = [
        Line2D([], [], color=INK, marker="o", markersize=8, label="own part"),
        Line2D([], [], color=DENSE_COLOR, linewidth=3, label="dense"),
        Line2D([], [], color=INK, linestyle="--", label="random masks"),
    ]
    for control, marker in _MARKERS.items():
        handles.append(
            Line2D(
                [],
                [],
                marker=marker,
                linestyle="none",
                markerfacecolor="none",
                markeredgecolor=INK,
                label=CONTROLS[control],
            )
        )
    return handles


def _told(found: Finding) -> str:
    beside = [
        f"{name} {words.listed([two(trial.auc.value) for trial in found.of(control)])}"
        for control, name in CONTROLS.items()
        if found.of(control)
    ]
    rivals = [two(trial.specificity.value) for trial in found.rivals]
    return (
        f"By {found.name}: AUC {two(found.own.auc.value)} (dense "
        f"{two(found.auc_before)}; {'; '.join(beside) or 'no controls'}), specificity "
        f"{two(found.own.specificity.value)} (controls {words.listed(rivals) or 'none'})."
    )
