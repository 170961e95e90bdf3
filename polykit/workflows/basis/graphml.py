"""An interaction graph as GraphML, which Gephi, Cytoscape, yEd and networkx read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import networkx as nx
from torch import Tensor

from polykit.runtime.degeneracy.modules import ALONE

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML may hold."""


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
    graph, layers = nx.DiGraph(), [_FORBIDDEN.sub("\ufffd", layer) for layer in names]
    called = list(names.values())
    across = list(sizes.values())
    labels = {key: [module.tolist() for module in of] for key, of in members.items()}
    for place, E in enumerate(edges):
        for i, j in (cutoff < E).nonzero().tolist():
            ends = []
            for number, node in ((place, j), (place + 1, i)):
                layer = layers[number]
                ends.append(f"{layer}:{called[number][node]}")
                if ends[-1] not in graph:
                    own = {key: of[number][node] for key, of in labels.items()}
                    graph.add_node(
                        ends[-1],
                        layer=layer,
                        name=called[number][node],
                        size=across[number][node],
                        **{key: module for key, module in own.items() if module != ALONE},
                    )
            graph.add_edge(*ends, strength=float(E[i, j]))
    return "\n".join(nx.generate_graphml(graph)).encode()
