"""The two figures over all scenarios: every effect with its interval, and where changes come from.

Both are in percent of the dense network's value, so that scenarios can be put beside each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from polykit.report import drawing, words
from polykit.report.drawing import Drawn
from polykit.report.laboratory import captions
from polykit.report.laboratory.effects import CONTRASTS
from polykit.report.laboratory.findings import Findings
from polykit.report.laboratory.verdict import ORIGINS, setting_words
from polykit.report.numbers import Estimate
from polykit.report.style import DENSE_COLOR, INK, WIDTH, dropout_looks

_OVER_ALL = "over all"
_COLORS = {"retraining": DENSE_COLOR, "composition": "#e69f00", "within": "#0072b2"}
_QUESTIONS = {
    "pruning": "beyond retraining",
    "choice": "choice of units",
    "history": "history",
    "retraining": "no-prune control",
    "total": "whole change",
}


def called(found: Findings, scenario: str) -> str:
    """Name a scenario, with a star where its labels are too noisy."""
    return f"{scenario} *" if found.noisy(scenario) else scenario


def forest(found: Findings) -> Drawn | None:
    """Draw every contrast of every setting with its interval; None without any."""
    shown = {
        (e.contrast, e.scenario, e.dropout): e.percent for e in found.effects.values() if e.percent
    }
    contrasts = [name for name in CONTRASTS if any(key[0] == name for key in shown)]
    if not contrasts:
        return None
    rows = list(found.scenarios)
    pooled = {key: made.at_large for key, made in found.pooled.items() if len(made.scenarios) > 1}
    labels = [called(found, name) for name in rows] + ([_OVER_ALL] if pooled else [])
    figure = Figure(figsize=(WIDTH, 1.3 + 2 * (0.75 + 0.34 * len(labels))), layout="constrained")
    cells = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    style, offsets = dropout_looks(found.dropouts), _offsets(len(found.dropouts), 0.5)
    for axes, name in zip(cells, contrasts, strict=False):
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6, zorder=1)
        for share, offset in zip(found.dropouts, offsets, strict=True):
            look = style[share]
            for place, scenario in enumerate(rows):
                value = shown.get((name, scenario, share))
                if value is not None:
                    fill = "none" if found.noisy(scenario) else look.color
                    _draw(axes, value, place + offset, look.color, look.marker, fill)
            if (name, share) in pooled:
                _draw(axes, pooled[name, share], len(rows) + offset, look.color, "D", look.color)
        ours, theirs = CONTRASTS[name]
        axes.set_title(f"{_QUESTIONS[name]}\n{ours} − {theirs}", fontsize=10)
        axes.grid(axis="x", alpha=0.15, color=INK)
        axes.grid(visible=False, axis="y")
        if pooled:
            axes.axhline(len(rows) - 0.5, color=INK, linewidth=0.6, alpha=0.4)
    for axes in cells[len(contrasts) :]:
        axes.remove()
    for axes in cells[: len(contrasts)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    cells[0].set_yticks(range(len(labels)), [drawing.wrapped(label, 16) for label in labels])
    cells[0].set_ylim(len(labels) - 0.4, -0.6)
    _frame(cells[: len(contrasts)], [*shown.values(), *pooled.values()])
    figure.supxlabel(f"difference in {found.quantity.summary}, % of the dense value", fontsize=11)
    handles = [
        Line2D([], [], color=style[s].color, marker=style[s].marker, label=setting_words(s))
        for s in found.dropouts
    ]
    drawing.legend(figure, handles)
    return Drawn(
        "effects",
        "Every effect with its interval",
        _forest_caption(found, list(shown.values()), bool(pooled)),
        _forest_alt(found, contrasts),
        figure,
    )


def _draw(axes: Axes, value: Estimate, y: float, color: str, marker: str, fill: str) -> None:
    if value.half:
        axes.hlines(y, value.low, value.high, color=color, linewidth=1.6, zorder=2)
    axes.plot(
        [value.mean],
        [y],
        marker=marker,
        color=color,
        markerfacecolor=fill,
        markeredgewidth=1.3,
        markersize=6,
        linestyle="none",
        zorder=3,
    )


def _frame(panels: Sequence[Axes], values: Sequence[Estimate]) -> None:
    """Show every mean, and intervals of up to twice the usual width; longer ones are cut off."""
    halves = [value.half for value in values if value.half is not None]
    usual = 2 * float(np.median(halves)) if halves else 0.0
    low = min([0.0, *(max(v.low, v.mean - usual) for v in values)])
    high = max([0.0, *(min(v.high, v.mean + usual) for v in values)])
    pad = 0.06 * (high - low) or 1.0
    for axes in panels:
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(drawing.ticks(4))


def _offsets(count: int, width: float) -> list[float]:
    """Where in a row of height 1 its marks stand, from top to bottom."""
    return [width * ((place + 0.5) / count - 0.5) for place in range(count)]


def _forest_caption(found: Findings, values: Sequence[Estimate], pooled: bool) -> str:
    counts = [value.n for value in values]
    text = captions.over(min(counts), max(counts), "bars are")
    text += " Each seed’s differences are averaged over its pruning ratios first."
    if pooled:
        text += f" Diamonds, {_OVER_ALL}: random-effects mean"
        noisy = any(found.noisy(name) for name in found.scenarios)
        text += " of the scenarios whose labels are not too noisy." if noisy else "."
    if any(found.noisy(name) for name in found.scenarios):
        text += " Hollow, *: labels too noisy to say."
    return text


def _forest_alt(found: Findings, contrasts: Sequence[str]) -> str:
    parts = []
    for name in contrasts:
        values = [
            f"{called(found, e.scenario)} {setting_words(e.dropout)} {words.interval(e.percent)}"
            for e in found.effects.values()
            if e.contrast == name and e.percent is not None
        ]
        ours, theirs = CONTRASTS[name]
        parts.append(f"{ours} − {theirs}: {'; '.join(values)}")
    return f"Forest plot, in per cent of the dense value. {'. '.join(parts)}."


def origins(found: Findings) -> Drawn | None:
    """Draw what the change since the dense network is made of; None where no setting has parts."""
    bars: dict[tuple[str, float], dict[str, Estimate]] = {}
    for (scenario, dropout), parts in found.parts_percent.items():
        retraining = found.effect(scenario, dropout, "retraining")
        if retraining is not None and retraining.percent is not None:
            bars[scenario, dropout] = {
                "retraining": retraining.percent,
                "composition": parts.composition,
                "within": parts.within,
            }
    if not bars:
        return None
    shares = [share for share in found.dropouts if any(key[1] == share for key in bars)]
    rows = [name for name in found.scenarios if any(key[0] == name for key in bars)]
    figure = Figure(figsize=(WIDTH, 1.6 + 0.42 * len(rows)), layout="constrained")
    cells = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    told = []
    for axes, share in zip(cells, shares, strict=True):
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for place, scenario in enumerate(rows):
            parts_here = bars.get((scenario, share))
            if parts_here is None:
                continue
            _stack(axes, parts_here, place)
            total = found.effect(scenario, share, "total")
            if total is not None and total.percent is not None:
                hollow = "none" if found.noisy(scenario) else INK
                _draw(axes, total.percent, float(place), INK, "o", hollow)
            values = [
                f"{words.number(value.mean, 10.0)} {ORIGINS[name]}"
                for name, value in parts_here.items()
            ]
            told.append(f"{called(found, scenario)} {setting_words(share)}: {', '.join(values)}")
        axes.set_title(words.capital(setting_words(share)))
        axes.grid(axis="x", alpha=0.15, color=INK)
        axes.grid(visible=False, axis="y")
    cells[0].set_yticks(
        range(len(rows)), [drawing.wrapped(called(found, name), 16) for name in rows]
    )
    cells[0].set_ylim(len(rows) - 0.4, -0.6)
    wholes = [e.percent for e in found.effects.values() if e.contrast == "total" and e.percent]
    stacks = [
        Estimate(sum(v.mean for v in parts.values() if (v.mean > 0) == up), 1)
        for parts in bars.values()
        for up in (True, False)
    ]
    _frame(cells, [*wholes, *stacks])
    figure.supxlabel(f"change of {found.quantity.summary}, % of the dense value", fontsize=11)
    handles: list[Line2D | Patch] = [
        Patch(color=_COLORS[name], label=title) for name, title in ORIGINS.items()
    ]
    handles.append(Line2D([], [], color=INK, marker="o", linestyle="none", label="pruned − dense"))
    drawing.legend(figure, handles)
    counts = [value.n for parts in bars.values() for value in parts.values()]
    caption = captions.over(min(counts), max(counts), "black bars are")
    noisy = any(found.noisy(name) for name in rows)
    return Drawn(
        "origins",
        "Where the change since the dense network comes from",
        f"{caption} Each bar adds up to its dot, pruned − dense: what shows without pruning, what "
        "comes from layers losing different shares of their units, and what changes within "
        f"layers.{' Hollow, *: labels too noisy to say.' if noisy else ''}",
        f"Stacked bars, in per cent of the dense value. {'; '.join(told)}.",
        figure,
    )


def _stack(axes: Axes, parts: dict[str, Estimate], y: int) -> None:
    """Stack what raises to the right of 0 and what lowers to the left."""
    ends = {True: 0.0, False: 0.0}
    for name, value in parts.items():
        up = value.mean > 0
        axes.barh(y, value.mean, height=0.62, left=ends[up], color=_COLORS[name], linewidth=0)
        ends[up] += value.mean
