"""The drawing of layered graphs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from polykit.report.basis.layered import MOST, draw_graph

LAYERS = ["a", "b", "c"]


def drawn(edges: list[tuple[str, int, str, int, float]]):
    """Draw edges, all nodes of one size and one module; return the sketch and the axes."""
    columns = ["layer", "node", "layer_behind", "node_behind", "strength"]
    table = pd.DataFrame(edges, columns=columns)
    ends = {(a, i) for a, i, *_ in edges} | {(b, j) for _, _, b, j, _ in edges}
    nodes = pd.DataFrame(sorted(ends), columns=["layer", "node"])
    axes = Figure().subplots()
    sketch = draw_graph(axes, LAYERS, table, nodes.assign(module=0), nodes.assign(size=1.0))
    return sketch, axes


def test_strong_edges_between_two_layers_hide_none_between_others():
    strong = [("b", i, "c", j, 1.0 + i) for i in range(20) for j in range(10)]
    sketch, _ = drawn([("a", 0, "b", 0, 1e-6), ("a", 1, "b", 1, 1e-6), *strong])
    assert (sketch.edges, sketch.all_edges) == (2 + MOST, 202)
    assert sketch.nodes == 4 + 8 + 10  # the strongest come from eight of b


def test_nodes_stand_by_what_they_listen_to():
    """A permutation is drawn without a crossing, so every line is level."""
    order = [3, 0, 2, 1]
    first = [("a", i, "b", j, 1.0) for i, j in enumerate(order)]
    _, axes = drawn([*first, *(("b", j, "c", i, 1.0) for i, j in enumerate(order))])
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    for line in lines:
        assert (line.get_ydata()[0::3] == line.get_ydata()[1::3]).all()
    assert sum(len(line.get_ydata()) // 3 for line in lines) == 8
