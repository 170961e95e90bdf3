"""An interaction graph as GraphML, which Gephi, Cytoscape, yEd and networkx read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import networkx as nx
from torch import Tensor

from polykit.runtime.modules import ALONE


def graphml(
    names: Mapping[str, Sequence[str]],
    sizes: Mapping[str, Sequence[float]],
    edges: Sequence[Tensor],
    members: Mapping[str, Sequence[Tensor]],
    cutoff: float,
) -> bytes:
    """Write the nodes that an edge above `cutoff` leads to, and these edges, from input to output.

    `names` and `sizes` of the nodes are by layer; `members` gives each of its attributes the
    modules of the nodes of each layer. A node is `layer:name`, an edge has its `strength`.

    >>> import torch
    >>> text = graphml({"0": ["3"], "2": ["d0"]}, {"0": [1.0], "2": [2.0]}, [torch.ones(1, 1)], {},
    ...                0.1)
    >>> nx.parse_graphml(text.decode()).edges(data=True)
    OutEdgeDataView([('0:3', '2:d0', {'strength': 1.0})])
    """
    graph = nx.DiGraph()
    layers = list(names)
    for number, (before, behind) in enumerate(pairwise(layers)):
        E = edges[number].T
        strong = (cutoff < E).nonzero().tolist()
        for (j, i), strength in zip(strong, E[cutoff < E].tolist(), strict=True):
            for place, node in ((number, j), (number + 1, i)):
                layer = layers[place]
                own = {"layer": layer, "name": names[layer][node], "size": sizes[layer][node]}
                labels = {key: int(of[place][node]) for key, of in members.items()}
                own |= {key: label for key, label in labels.items() if label != ALONE}
                graph.add_node(f"{layer}:{names[layer][node]}", **own)
            graph.add_edge(
                f"{before}:{names[before][j]}", f"{behind}:{names[behind][i]}", strength=strength
            )
    return "\n".join(nx.generate_graphml(graph)).encode()
