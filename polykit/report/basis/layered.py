"""Draws a layered graph: nodes in columns, coloured by module, edges as wide as they are strong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polykit.report.style import DENSE_COLOR, cluster_looks

MOST = 80
"""Edges that are drawn between two layers at most: the strongest. More would be one blot."""

COLORED = 7
"""Modules that have a colour of their own: the largest. Others are grey."""

WIDTHS, NODES = (0.5, 2.5), (2, 7)
"""Widths of edges and diameters of nodes, in points, from the weakest to the strongest drawn."""

Node = tuple[str, int]
"""A layer, and the node's number in it."""

GAP = (math.nan, math.nan)
"""Where a path is broken off."""


@dataclass(frozen=True)
class Sketch:
    """How much of a graph was drawn."""

    nodes: int
    edges: int
    all_edges: int
    modules: int


def draw_graph(
    axes: Axes,
    layers: Sequence[str],
    edges: pd.DataFrame,
    members: pd.DataFrame,
    sizes: pd.DataFrame,
) -> Sketch:
    """Draw the strongest edges between each two layers of a graph and the nodes that they join.

    `edges` has layer, node, layer_behind, node_behind and strength; `members` the module of each
    layer and node, `sizes` the size of each.
    """
    drawn = (
        edges.sort_values("strength", ascending=False, kind="stable").groupby("layer").head(MOST)
    )
    before = list(zip(drawn["layer"], drawn["node"], strict=True))
    behind = list(zip(drawn["layer_behind"], drawn["node_behind"], strict=True))
    module = {
        (str(layer), int(node)): int(label)
        for layer, node, label in members[["layer", "node", "module"]].itertuples(index=False)
    }
    places = _places(layers, list(zip(before, behind, strict=True)), module)
    colors = cluster_looks(range(COLORED))

    def color(node: Node) -> str:
        return colors[module[node]].color if module[node] < COLORED else DENSE_COLOR

    width = _scaled(np.log10(drawn["strength"].to_numpy(float)), *WIDTHS)
    lines: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for a, b, wide in zip(before, behind, (2 * width).round() / 2, strict=True):
        shade = color(a) if module[a] == module[b] else DENSE_COLOR
        lines.setdefault((shade, wide), []).extend((places[a], places[b], GAP))
    for (shade, wide), path in sorted(lines.items()):  # one path for many edges: small files
        behind_all = shade == DENSE_COLOR
        axes.plot(
            *zip(*path, strict=True),
            color=shade,
            linewidth=wide,
            alpha=0.35 if behind_all else 0.7,
            zorder=1 if behind_all else 2,
        )
    known = sizes.set_index(["layer", "node"])["size"].to_dict()
    across = _scaled(np.log10([known[node] for node in places]), *NODES).round()
    dots: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for (node, place), size in zip(places.items(), across, strict=True):
        dots.setdefault((color(node), size), []).append(place)
    for (shade, size), points in sorted(dots.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "o", color=shade, markersize=size, markeredgewidth=0, zorder=3)
    axes.set_xlim(-0.3, len(layers) - 0.7)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return Sketch(len(places), len(drawn), len(edges), len(set(module.values())))


def _places(
    layers: Sequence[str], edges: Sequence[tuple[Node, Node]], module: dict[Node, int]
) -> dict[Node, tuple[float, float]]:
    """Put the nodes of each layer in a column, evenly spread, module by module.

    Within a module each stands as near as it can to the middle of what it listens to, so that few
    edges cross.
    """
    sources: dict[Node, list[Node]] = {}
    for before, behind in edges:
        sources.setdefault(before, [])
        sources.setdefault(behind, []).append(before)
    places: dict[Node, tuple[float, float]] = {}
    for x, layer in enumerate(layers):
        column = [
            (module[node], -_middle([places[source][1] for source in heard]), node)
            for node, heard in sources.items()
            if node[0] == layer
        ]
        for rank, (_, _, node) in enumerate(sorted(column)):
            places[node] = (float(x), 1 - (rank + 0.5) / len(column))
    return places


def _middle(heights: Sequence[float]) -> float:
    return sum(heights) / len(heights) if heights else 0.0


def _scaled(values: Sequence[float] | np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values to [low, high] by their rank on a line; all to the middle if they are equal."""
    array = np.asarray(values, dtype=float)
    spread = array.max() - array.min()
    share = (array - array.min()) / spread if spread else np.full(len(array), 0.5)
    return low + share * (high - low)
