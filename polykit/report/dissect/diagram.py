"""Which part of each layer a subnetwork keeps, from the input to the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from polykit.report import drawing, style, words
from polykit.report.dissect.distributions import own, settings
from polykit.report.drawing import Drawn, slug, told_apart
from polykit.report.style import figure_style
from polykit.runtime.store import SavedRun

_WIDTH = 0.8
"""Of all bars of a layer together; layers are 1 apart."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw one figure for each unit: a panel per pruner and density, bars per layer and cluster."""
    table = own(run.tables["layers"])
    with figure_style():
        return told_apart(_draw(rows, str(unit)) for unit, rows in table.groupby("unit"))


def _draw(rows: pd.DataFrame, unit: str) -> Drawn:
    layers = list(dict.fromkeys(rows["layer"]))
    clusters = sorted({int(cluster) for cluster in rows["cluster"]})
    sizes = rows.drop_duplicates("layer").set_index("layer")["parameters"]
    shares = rows.assign(
        share=rows["kept"] / rows["parameters"], working=rows["effective"] / rows["parameters"]
    )
    floor = _floor(shares)
    pruned, looks = settings(rows), style.looks(rows["pruner"])
    figure, cells = drawing.grid(len(pruned), 2.1)
    told = []
    for axes, ((pruner, density), name) in zip(cells, pruned.items(), strict=True):
        here = shares[(shares["pruner"] == pruner) & (shares["density"] == density)]
        _bars(axes, here, layers, clusters, floor)
        axes.set_title(drawing.wrapped(name, 26), color=looks[pruner].color)
        ticks = [f"{drawing.wrapped(layer, 12)}\n{int(sizes[layer]):,}" for layer in layers]
        axes.set_xticks(range(len(layers)), ticks, fontsize=9)
        told.append(f"{words.capital(name)}: {_told(here, clusters, layers)}")
    figure.supxlabel("layer, with its parameters (input → unit)", fontsize=11)
    figure.supylabel("parameters kept (log scale)", fontsize=11)
    colors = {cluster: look.color for cluster, look in style.cluster_looks(clusters).items()}
    drawing.legend(
        figure, [Patch(color=colors[c], alpha=0.85, label=f"cluster {c}") for c in clusters]
    )
    return Drawn(
        f"subnetworks-{slug(unit)}",
        f"The subnetworks of {unit}, layer by layer",
        "Filled: parameters that still lie on a path from the input to the unit; outlined: all "
        "that the mask keeps, dead ends included. What is not there keeps nothing.",
        f"Bar charts of the share of parameters kept by layer. {' '.join(told)}",
        figure,
        section=unit,
    )


def _floor(shares: pd.DataFrame) -> float:
    """The power of ten below every share that is drawn."""
    there = shares.loc[shares["working"] > 0, "working"]
    lowest = min(float(there.min()) if len(there) else 1.0, 0.5)
    return float(10 ** math.floor(math.log10(lowest) - 0.05))


def _bars(
    axes: Axes, rows: pd.DataFrame, layers: Sequence[str], clusters: Sequence[int], floor: float
) -> None:
    width = _WIDTH / len(clusters)
    looks = style.cluster_looks(clusters)
    for place, cluster in enumerate(clusters):
        here = rows[rows["cluster"] == cluster].set_index("layer").reindex(list(layers))
        x = [at - _WIDTH / 2 + (place + 0.5) * width for at in range(len(layers))]
        color = looks[cluster].color
        for values, filled in ((here["share"], False), (here["working"], True)):
            heights = values.fillna(0.0).clip(lower=floor) - floor
            axes.bar(
                x,
                heights,
                0.9 * width,
                bottom=floor,
                facecolor=(color, 0.85) if filled else "none",
                edgecolor="none" if filled else color,
                linewidth=0.0 if filled else 1.2,
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(floor, 1.3)
    axes.set_xlim(-0.6, len(layers) - 0.4)


def _told(rows: pd.DataFrame, clusters: Sequence[int], layers: Sequence[str]) -> str:
    parts = []
    for cluster in clusters:
        kept = rows[rows["cluster"] == cluster].set_index("layer")["share"]
        there = [f"{100 * kept[layer]:.2g} % of {layer}" for layer in layers if layer in kept]
        if there:
            parts.append(f"cluster {cluster} keeps {words.listed(there)}")
    return f"{'; '.join(parts)}."
