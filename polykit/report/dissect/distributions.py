"""How a unit's values are spread before and after pruning, for each pruner: histograms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from polykit.report import drawing, style, words
from polykit.report.drawing import Drawn, slug, told_apart
from polykit.report.style import DENSE, DENSE_COLOR, figure_style
from polykit.runtime.store import SavedRun

GROUPS: dict[str, tuple[str, str]] = {
    "neither": ("neither", DENSE_COLOR),
    "other": ("the unit's other clusters", "#d55e00"),
    "cluster": ("this cluster", "#0072b2"),
}
"""What a picture belongs to: its words and its colour, from the back to the front."""

_BINS = 40


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw one figure for each unit and cluster: the dense unit, then what each pruner left."""
    table = own(run.tables["activations"])
    with figure_style():
        return told_apart(_figures(table))


def own(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the controls: the unit's own subnetworks, read at the unit itself."""
    return table[(table["control"] == "own") & (table["read_unit"] == table["unit"])]


def settings(table: pd.DataFrame) -> dict[tuple[str, float], str]:
    """Name each pruner and density of a table, in its order; density 1 means none was asked for."""
    pairs = dict.fromkeys(zip(table["pruner"], table["density"], strict=True))
    return {
        (pruner, density): pruner if density == 1 else f"{pruner}, density {density:g}"
        for pruner, density in pairs
    }


def _figures(table: pd.DataFrame) -> Iterator[Drawn]:
    for (unit, cluster), rows in table.groupby(["unit", "cluster"], sort=True):
        yield _draw(rows, str(unit), int(cluster))  # type: ignore[call-overload]


def _draw(rows: pd.DataFrame, unit: str, cluster: int) -> Drawn:
    held_out = rows[rows["held_out"]]
    shown = held_out if len(held_out) else rows
    looks = style.looks([DENSE, *shown["pruner"]])
    dense = shown.drop_duplicates(["picture", "group"])
    panels = [("dense (before)", looks[DENSE], dense.assign(value=dense["before"]))]
    for (pruner, density), name in settings(shown).items():
        here = shown[(shown["pruner"] == pruner) & (shown["density"] == density)]
        panels.append((name, looks[pruner], here.assign(value=here["after"])))
    edges = _edges(pd.concat([values["value"] for _, _, values in panels]))
    figure, cells = drawing.grid(len(panels), 1.75, share=False)
    told = []
    for axes, (name, look, values) in zip(cells, panels, strict=True):
        _histograms(axes, values, edges)
        axes.set_title(drawing.wrapped(name, 26), color=look.color)
        told.append(f"{words.capital(name)}: {_means(values)}")
    figure.supxlabel(f"value of {drawing.wrapped(unit, 60)}", fontsize=11)
    figure.supylabel("share of pictures", fontsize=11)
    _legend(figure, set(shown["group"]))
    counts = {group: int((dense["group"] == group).sum()) for group in GROUPS}
    counted = words.listed([f"{n} of {GROUPS[g][0]}" for g, n in reversed(counts.items()) if n])
    seen = "held-out pictures" if len(held_out) else "pictures, none of them held out"
    where = f"cluster {cluster} of {unit}"
    return Drawn(
        f"activations-{slug(unit)}-{cluster}",
        f"Values before and after pruning for {where}",
        f"n = {len(dense)} {seen}: {counted}. Heights are shares of each group; all panels "
        f"share the axis of values. A part that carries this cluster alone keeps blue where it was "
        f"and moves orange away.",
        f"Histograms of the value of {unit} for {where}. {' '.join(told)}",
        figure,
        section=unit,
    )


def _edges(values: pd.Series[float]) -> NDArray[np.float64]:
    """Bins for the values of all panels."""
    found = values.dropna().to_numpy(dtype=float)
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 0.0)
    return np.linspace(low, high if high > low else low + 1.0, _BINS + 1)


def _histograms(axes: Axes, values: pd.DataFrame, edges: NDArray[np.float64]) -> None:
    for group, (_, color) in GROUPS.items():
        here = values.loc[values["group"] == group, "value"].dropna().to_numpy(dtype=float)
        if len(here):
            shares = np.histogram(here, edges)[0] / len(here)
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.3, linewidth=0)
            axes.stairs(shares, edges, color=color, linewidth=1.4)
    axes.xaxis.set_major_locator(drawing.ticks(4))
    axes.yaxis.set_major_locator(drawing.ticks(3))


def _means(values: pd.DataFrame) -> str:
    parts = []
    for group, (name, _) in reversed(GROUPS.items()):
        here = values.loc[values["group"] == group, "value"].dropna()
        if len(here):
            parts.append(f"{name} with mean {words.number(float(here.mean()))}")
    return f"{', '.join(parts) or 'no values'}."


def _legend(figure: Figure, there: set[str]) -> None:
    handles = [
        Patch(facecolor=(color, 0.3), edgecolor=color, label=name)
        for group, (name, color) in reversed(GROUPS.items())
        if group in there
    ]
    drawing.legend(figure, handles)
