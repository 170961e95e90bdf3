"""Figures that go on where the paper stops: best subnetworks, relations, classes, tickets."""

from __future__ import annotations

from math import ceil

import numpy as np

from polykit.report import drawing, words
from polykit.report.density import numbers, panels, subnetworks
from polykit.report.density.relations import FEWEST, Relation, pairs, quantities, relations
from polykit.report.density.verdict import percent, sought
from polykit.report.drawing import Drawn, Line
from polykit.report.style import CONTROL, DENSE_COLOR, Look, looks
from polykit.runtime.store import SavedRun

MOST_TICKS = 20
"""Classes that are named at an axis, at most."""


def by_pruner(run: SavedRun) -> Drawn | None:
    """Draw the effective density by every pruner against the width, in one panel."""
    found = numbers.widths(run)
    optimizers = sorted({w.optimizer for w in found})
    names = [name for name in numbers.pruners(run) if any(w.pruner == name for w in found)]
    if len(names) < 2:
        return None
    table = looks(names)
    figure, cells = drawing.grid(len(optimizers), 3.4)
    for axes, optimizer in zip(cells, optimizers, strict=True):
        rows = [w for w in found if w.optimizer == optimizer]
        lines = [
            Line(name, [(w.scale, w.density) for w in rows if w.pruner == name]) for name in names
        ]
        drawing.draw_lines(axes, lines, table, log=True)
        axes.set_title(optimizer)
        axes.set_ylim(0, 1.05)
        panels.width_axis(axes, sorted({w.scale for w in rows}))
    cells[0].set_ylabel("effective density\n(share of weights needed)")
    figure.supxlabel("width (factor on the default →)", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    told = [f"{w.pruner}, {w.optimizer}, {w.scale:g}×: {percent(w.density.mean)}" for w in found]
    return Drawn(
        "pruners",
        "Effective density by each way to find subnetworks",
        f"Mean and 95\u00a0% t-interval over networks. {sought(run)}",
        f"Line chart of effective density against width. {'; '.join(told)}.",
        figure,
    )


def moving_together(run: SavedRun) -> Drawn | None:
    """Draw each metric's headline against the effective density, a dot per network."""
    names = numbers.pruners(run)
    measured = [q for q in quantities(run) if names and len(pairs(run, names[0], q)) >= FEWEST]
    if not measured:
        return None
    pruner, scales = names[0], panels.scales_of(numbers.effective(run))
    table = panels.width_looks(scales)
    figure, cells = drawing.grid(len(measured), 3.0, share=False)
    told = []
    known = {
        (r.quantity.metric, r.scope): r for r in relations(run, pruner) if r.kind == "Spearman"
    }
    for axes, quantity in zip(cells, measured, strict=True):
        dots = pairs(run, pruner, quantity)
        for scale in scales:
            part, look = dots[dots["scale"] == scale], table[scale]
            axes.scatter(part["density"], part["value"], s=24, color=look.color, marker=look.marker)
        axes.set_title(panels.title(quantity.metric))
        axes.set_ylabel(drawing.wrapped(quantity.axis, 30), fontsize=9)
        correlations = [known.get((quantity.metric, scope)) for scope in ("pooled", "within")]
        told += [f"{quantity.metric}: {_told(r)}" for r in correlations if r is not None]
    figure.supxlabel(f"effective density by {pruner} (share of weights needed →)", fontsize=11)
    panels.width_legend(figure, scales, "")
    return Drawn(
        "relations",
        "Do density and what metrics find move together?",
        "Each dot is a network; metrics are of the whole network, before pruning.",
        f"Scatter plots of each metric's headline against effective density. {'; '.join(told)}.",
        figure,
    )


def _told(relation: Relation) -> str:
    over = "over all networks" if relation.scope == "pooled" else "among networks of a kind"
    return f"{words.correlation(relation.value, relation.low, relation.high)} {over}"


def class_overlaps(run: SavedRun) -> Drawn | None:
    """Draw how much classes' subnetworks share, class by class."""
    found = subnetworks.classes(run)
    if not found:
        return None
    tables = {c.scale: subnetworks.overlap(run, c.scale) for c in found}
    low = min(c.chance.mean for c in found)
    high = max(float(np.nanmax(table.to_numpy())) for table in tables.values())
    figure, cells = drawing.grid(len(found), 3.1)
    told = []
    for axes, one in zip(cells, found, strict=True):
        table = tables[one.scale]
        image = axes.imshow(table.to_numpy(), vmin=low, vmax=max(high, low + 1e-3), cmap="cividis")
        every = slice(None, None, ceil(len(table) / MOST_TICKS))
        places = range(len(table))[every]
        axes.set_xticks(places, [str(name) for name in table.columns[every]])
        axes.set_yticks(places, [str(name) for name in table.index[every]])
        axes.grid(visible=False)
        axes.set_title(f"{one.scale:g}×, mean {words.number(one.iou.mean)}")
        told.append(
            f"{one.scale:g}×: {words.number(one.iou.mean)}, chance {words.number(one.chance.mean)}"
        )
    figure.colorbar(image, ax=cells, label="IoU, from chance up", shrink=0.8)
    figure.supxlabel("class", fontsize=11)
    cells[0].set_ylabel("class")
    return Drawn(
        "class-overlaps",
        "How much the subnetworks of two classes share",
        "Mean intersection over union over networks of a width, of all pairs over each "
        "panel. Colours begin at what random masks of the same layer densities share.",
        f"Heat maps of the overlap of classes' subnetworks. {'; '.join(told)}.",
        figure,
    )


def tickets(run: SavedRun) -> Drawn | None:
    """Draw every metric in dense networks, lottery tickets and random tickets."""
    found = list(subnetworks.lottery(run))
    if not found:
        return None
    measured = list({t.quantity.metric: t.quantity for t in found}.values())
    scales = sorted({t.scale for t in found})
    series = {
        "dense": Look(DENSE_COLOR, "s"),
        "lottery ticket": Look("#0072b2", "o"),
        "random ticket": looks([CONTROL])[CONTROL],
    }
    figure, cells = drawing.grid(len(measured), 2.9, share=False)
    told = []
    for axes, quantity in zip(cells, measured, strict=True):
        rows = [t for t in found if t.quantity.metric == quantity.metric]
        points = {
            "dense": [(t.scale, t.dense) for t in rows],
            "lottery ticket": [(t.scale, t.ticket) for t in rows],
            "random ticket": [(t.scale, t.random) for t in rows],
        }
        drawing.draw_lines(
            axes, [Line(name, at) for name, at in points.items()], series, log=True, step=0.1
        )
        panels.width_axis(axes, scales)
        axes.set_title(panels.title(quantity.metric))
        axes.set_ylabel(drawing.wrapped(quantity.axis, 30), fontsize=9)
        told += [
            f"{quantity.metric}, {name}, {scale:g}×: {words.number(value.mean)}"
            for name, at in points.items()
            for scale, value in at
        ]
    figure.supxlabel("width", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    density = (run.meta.get("config") or {}).get("ticket_density")
    return Drawn(
        "tickets",
        "What lottery tickets keep",
        f"Tickets of density {density}, and random masks as dense in each layer, trained from the "
        "same start as the dense network. Mean and 95\u00a0% t-interval over networks.",
        f"Line charts against width. {'; '.join(told)}.",
        figure,
    )
