"""The figures of a comparison: the lines between networks, their layers, and the pull."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from polykit.report import drawing, words
from polykit.report.compare import numbers
from polykit.report.drawing import Drawn, told_apart
from polykit.report.heat import draw_heat
from polykit.report.numbers import label, metric_records
from polykit.report.style import INK, Look, figure_style
from polykit.runtime.store import SavedRun

LOOKS: Mapping[str, Look] = {
    "matched": Look("#0072b2", "None"),
    "unmatched": Look("#d55e00", "None"),
    "random": Look(INK, "None", "--"),
}
NAMES = {"matched": "units matched", "unmatched": "units as they are", "random": "random orders"}

PANEL = 2.7
WIDEST = 12
"""Layers up to which numbers are written into the cells of a matrix."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    quantities = list(dict.fromkeys(run.tables["path"]["quantity"].astype(str)))
    for quantity in quantities:
        yield line(run, quantity)
    yield layers(run)
    yield pull(run)


def line(run: SavedRun, quantity: str) -> Drawn | None:
    """Draw a quantity along the lines to every other network."""
    path = run.tables["path"]
    path = path[path["quantity"] == quantity]
    networks = [other for other in numbers.others(run) if (path["other"] == other).any()]
    if not networks:
        return None
    figure, cells = drawing.grid(len(networks), PANEL)
    told = []
    for axes, other in zip(cells, networks, strict=True):
        for route in numbers.ROUTES:
            part = path[(path["other"] == other) & (path["route"] == route)]
            if len(part):
                told.append(f"{other}, {NAMES[route]}: {_draw_route(axes, part, LOOKS[route])}")
        axes.set_title(drawing.wrapped(other, 30))
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["first", "½", "other"])
    name = _axis(run, quantity)
    cells[0].set_ylabel(drawing.wrapped(name, 26))
    figure.supxlabel("place on the line between the networks →", fontsize=11)
    drawing.legend(
        figure,
        [
            Line2D([], [], color=look.color, linestyle=look.line, label=NAMES[route])
            for route, look in LOOKS.items()
            if (path["route"] == route).any()
        ],
    )
    draws = path[path["route"] == "random"]["draw"].nunique()
    band = f" Band: from the lowest to the highest of {draws} random orders." if draws > 1 else ""
    return Drawn(
        drawing.slug(f"line-{quantity}"),
        f"{words.capital(name)} along the line",
        f"From {run.meta.get('first')} to each other network, one pair of networks a panel.{band}",
        f"Line chart of {name} on the line between two networks. {'; '.join(told)}.",
        figure,
    )


def _draw_route(axes: Axes, part: pd.DataFrame, look: Look) -> str:
    """Draw one line, or the mean and the band of several; say where it begins, bends and ends."""
    table = part.pivot_table("value", "t", "draw")
    t, middle = table.index.to_numpy(), table.mean(axis=1).to_numpy()
    axes.plot(t, middle, look.line, color=look.color, zorder=3)
    if table.shape[1] > 1:
        axes.fill_between(
            t, table.min(axis=1), table.max(axis=1), color=look.color, alpha=0.15, linewidth=0
        )
    straight = middle[0] + t * (middle[-1] - middle[0])
    far = int(np.abs(middle - straight).argmax())
    return (
        f"{words.number(middle[0])} at the first, {words.number(middle[far])} at {t[far]:.2g}, "
        f"{words.number(middle[-1])} at the other"
    )


def _axis(run: SavedRun, quantity: str) -> str:
    """What to write at the axis of a quantity."""
    plain = {
        "train_loss": "training loss",
        "test_loss": "test loss",
        "train_accuracy": "training accuracy",
        "test_accuracy": "test accuracy",
    }
    if quantity in plain:
        return plain[quantity]
    records: dict[str, Any] = {label(record): record for record in metric_records(run.meta)}
    record = records.get(quantity, {})
    column = (record.get("columns") or {}).get(str(record.get("headline"))) or {}
    summary, unit = str(column.get("summary") or quantity), str(column.get("unit") or "")
    return f"{summary} ({unit})" if unit else summary


def layers(run: SavedRun) -> Drawn | None:
    """Draw linear CKA between all layers, for every other network and for the control."""
    panels = []
    for other in numbers.others(run):
        panels.append((other, numbers.layers(run, other)))
    control = numbers.layers(run, panels[0][0], "random weights") if panels else pd.DataFrame()
    panels.append(("control: random weights", control))
    panels = [(name, matrix) for name, matrix in panels if matrix.size]
    if not panels:
        return None
    tall = max(len(matrix) for _, matrix in panels)
    figure, cells = drawing.grid(len(panels), 1.1 + 0.32 * min(tall, 14), share=False)
    told = []
    for axes, (name, matrix) in zip(cells, panels, strict=True):
        small = max(matrix.shape) <= WIDEST
        texts = [[f"{v:.2f}" if small else "" for v in row] for row in matrix.to_numpy()]
        draw_heat(
            axes,
            matrix.to_numpy(),
            texts,
            rows=[_tick(layer) for layer in matrix.index],
            columns=[_tick(layer) for layer in matrix.columns],
            low=0,
            high=1,
        )
        axes.tick_params(axis="x", rotation=45 if matrix.shape[1] > 2 else 0)
        axes.set_title(drawing.wrapped(name, 20))
        same = numbers.diagonal(matrix)
        told.append(f"{name}: " + ", ".join(f"{layer} {v:.2f}" for layer, v in same.items()))
    cells[0].set_ylabel("layer of the first network")
    figure.supxlabel("layer of the other network", fontsize=11)
    return Drawn(
        "layers",
        "How alike the layers are (linear CKA)",
        "1: the same up to rotation and scale; 0: nothing in common. The control is a network like "
        "the first one with random weights: what architecture and data alone make alike.",
        f"Matrices of linear CKA between layers. Layers of one name: {'; '.join(told)}.",
        figure,
    )


def _tick(layer: object) -> str:
    return drawing.shortened(str(words.visible(str(layer))), 14)


def pull(run: SavedRun) -> Drawn | None:
    """Draw what stands between the pulled network and either end, against the pull's strength."""
    networks = [other for other in numbers.others(run) if len(numbers.strengths(run, other)) > 1]
    if not networks:
        return None
    figure, cells = drawing.grid(len(networks), PANEL)
    told = []
    for axes, other in zip(cells, networks, strict=True):
        every = numbers.strengths(run, other)
        for route, color, marker in (("to other", "#0072b2", "o"), ("to first", "#d55e00", "s")):
            for stage, style in (("pulled", ":"), ("released", "-")):
                found = [numbers.route(run, other, route, stage=stage, strength=s) for s in every]
                heights = [np.nan if one is None else one.loss for one in found]
                axes.plot(every[1:], heights[1:], style, color=color, marker=marker)
                if stage == "released":
                    axes.axhline(heights[0], color=color, linestyle="--", linewidth=1)
                    pairs = zip(every, heights, strict=True)
                    at = ", ".join(f"{words.number(h)} at {s:g}" for s, h in pairs)
                    told.append(f"{other}, {route}, after release: {at}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(drawing.wrapped(other, 30))
    cells[0].set_ylabel("barrier (training loss)")
    figure.supxlabel("strength of the pull λ →", fontsize=11)
    drawing.legend(
        figure,
        [
            Line2D([], [], color="#0072b2", marker="o", label="to the other network"),
            Line2D([], [], color="#d55e00", marker="s", label="back to the first"),
            Line2D([], [], color=INK, linestyle=":", label="under the pull"),
            Line2D([], [], color=INK, label="released"),
            Line2D([], [], color=INK, linestyle="--", label="control: no pull"),
        ],
    )
    return Drawn(
        "pull",
        "How much pull it takes to get from one network to the other",
        "What stands on the line from the network that was trained on to the other one, and on "
        "that back to the first: under the pull λ/2 · ‖θ − θ_other‖², and after as many epochs "
        "without it.",
        f"Line chart of barriers against the strength of the pull. {'; '.join(told)}.",
        figure,
    )
