"""Figures of effective densities: against the width, distributions, core sizes, by start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from polykit.report import drawing
from polykit.report.density import numbers, panels
from polykit.report.density.numbers import Width
from polykit.report.density.verdict import percent
from polykit.report.drawing import Drawn, Line
from polykit.report.numbers import estimate
from polykit.report.style import INK, Look, cluster_looks
from polykit.runtime.store import SavedRun


def density_by_width(run: SavedRun) -> Drawn | None:
    """Draw the effective density against the width, beside what the null hypothesis expects."""
    found = numbers.widths(run)
    groups = list(dict.fromkeys((w.pruner, w.optimizer) for w in found))
    if not groups:
        return None
    figure, cells = drawing.grid(len(groups), panels.PANEL)
    for axes, group in zip(cells, groups, strict=True):
        rows = [w for w in found if (w.pruner, w.optimizer) == group]
        line = Line("found", [(w.scale, w.density) for w in rows])
        drawing.draw_line(axes, line, Look("#0072b2", "o"))
        expected = [(w.scale, w.null) for w in rows if w.null is not None]
        axes.plot(*zip(*expected, strict=True), "--", color=INK, label="null hypothesis")
        axes.set_title(panels.title(*group))
        axes.set_ylim(0, 1.05)
        panels.width_axis(axes, [w.scale for w in rows])
    cells[0].set_ylabel("effective density\n(share of weights needed)")
    figure.supxlabel("width (factor on the default →)", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    told = [f"{w.pruner}, {w.optimizer}, {w.scale:g}×: {percent(w.density.mean)}" for w in found]
    return Drawn(
        "effective-density",
        "Effective density against width",
        f"{_networks(found)} Dashed: what the null hypothesis expects, that the number of weights "
        "needed does not grow with the width (both as in Table 2 of the paper).",
        f"Line chart of effective density against width. {'; '.join(told)}.",
        figure,
    )


def _networks(found: Sequence[Width]) -> str:
    counts = [w.density.n for w in found]
    low, high = min(counts), max(counts)
    many = str(low) if low == high else f"{low} to {high}"
    bars = " Bars: 95\u00a0% t-interval." if high > 1 else " One network: no interval can be given."
    return f"n = {many} networks of each width.{bars}"


def distributions(run: SavedRun) -> Drawn | None:
    """Draw the distribution of effective densities: the paper's Figure 4."""
    groups = [
        (group, part)
        for *group, part in numbers.studies(run)
        if any(_kde(one) is not None for _, one in part.groupby("scale"))
    ]
    if not groups:
        return None
    scales = panels.scales_of(numbers.effective(run))
    looks = panels.width_looks(scales)
    figure, cells = drawing.grid(len(groups), panels.PANEL, share=False)
    at = np.linspace(0, 1, 501)
    told = []
    for axes, (group, part) in zip(cells, groups, strict=True):
        for scale in panels.scales_of(part):
            if (curve := _kde(part[part["scale"] == scale])) is not None:
                axes.plot(at, curve, color=looks[scale].color)
                peak = at[int(curve.argmax())]
                told.append(f"{', '.join(group)}, {scale:g}×: most around {percent(peak)}")
        axes.set_title(panels.title(*group))
        axes.set_ylim(bottom=0)
    cells[0].set_ylabel("frequency (per unit of density)")
    figure.supxlabel("effective density", fontsize=11)
    panels.width_legend(figure, scales)
    return Drawn(
        "densities",
        "Distribution of effective densities (Figure 4 of the paper)",
        "Gaussian kernel density estimate, bandwidth by Scott's rule, of the networks of each "
        "width that differ at all.",
        f"Curves of how often an effective density was found. {'; '.join(told)}.",
        figure,
    )


def _kde(part: pd.DataFrame) -> np.ndarray | None:
    return numbers.kernel_density(part["density"].to_numpy(), np.linspace(0, 1, 501))


def sizes(run: SavedRun) -> Drawn | None:
    """Draw weights in all and weights needed: the paper's Figure 5."""
    found = numbers.widths(run)
    groups = list(dict.fromkeys((w.pruner, w.optimizer) for w in found))
    if not groups:
        return None
    figure, cells = drawing.grid(len(groups), panels.PANEL)
    for axes, group in zip(cells, groups, strict=True):
        rows = [w for w in found if (w.pruner, w.optimizer) == group]
        places = np.arange(len(rows))
        axes.bar(places - 0.2, [w.parameters for w in rows], 0.38, color="#8a8f98", label="all")
        axes.bar(
            places + 0.2,
            [w.core.mean for w in rows],
            0.38,
            yerr=[w.sd * w.parameters for w in rows],
            color="#0072b2",
            ecolor=INK,
            label="core",
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xticks(places, [f"{w.scale:g}" for w in rows])
        axes.set_title(panels.title(*group))
    cells[0].set_ylabel("weights")
    figure.supxlabel("width (factor on the default →)", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    told = [
        f"{w.pruner}, {w.optimizer}, {w.scale:g}×: {w.core.mean:,.0f} of {w.parameters:,}"
        for w in found
    ]
    return Drawn(
        "core-size",
        "Weights in all, and weights needed (Figure 5 of the paper)",
        "Core: the weights left at the effective density; bars are standard deviations.",
        f"Bar chart of weights. {'; '.join(told)}.",
        figure,
    )


def initialisations(run: SavedRun) -> Drawn | None:
    """Draw the effective density by initialisation: the paper's Figure 6."""
    table = numbers.effective(run)
    inits = sorted(table["init"].unique())
    if len(inits) < 2:
        return None
    looks = dict(zip(inits, cluster_looks(range(len(inits))).values(), strict=True))
    groups = list(numbers.studies(run))
    figure, cells = drawing.grid(len(groups), panels.PANEL)
    told = []
    for axes, (pruner, optimizer, part) in zip(cells, groups, strict=True):
        lines = [
            Line(
                init,
                [
                    (float(one["scale"].iloc[0]), estimate(one["density"]))
                    for _, one in part[part["init"] == init].groupby("scale")
                ],
            )
            for init in inits
        ]
        drawing.draw_lines(axes, lines, looks, log=True)
        axes.set_title(panels.title(pruner, optimizer))
        panels.width_axis(axes, panels.scales_of(part))
        told += [
            f"{line.name}, {at:g}×: {percent(value.mean)}"
            for line in lines
            for at, value in line.points
        ]
    cells[0].set_ylabel("effective density")
    figure.supxlabel("width", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    return Drawn(
        "initialisation",
        "Effective density by initialisation (Figure 6 of the paper)",
        "Mean and 95\u00a0% t-interval over networks.",
        f"Line chart of effective density against width. {'; '.join(told)}.",
        figure,
    )
