"""The interaction graphs of one network, in every basis: edges, modules, and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polykit.runtime.degeneracy.bases import Kind, bases_bytes, effective_number
from polykit.runtime.degeneracy.interactions import interactions
from polykit.runtime.degeneracy.modules import ALONE, Modules, find_modules, links_of, rewired
from polykit.runtime.degeneracy.nodes import Nodes, Origin, nodes_of
from polykit.runtime.degeneracy.slopes import Factors, gather
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.samples.splits import Samples
from polykit.runtime.seeds import generator
from polykit.runtime.store import CellResult, tensor_bytes
from polykit.types import Subject
from polykit.types.measurement import ALL_LAYERS
from polykit.workflows.basis.graphml import graphml
from polykit.workflows.basis.setup import Setup

CHANCES = 3
"""Times that links are rewired to see what modularity chance gives."""


@dataclass(frozen=True)
class Graph:
    """One graph: its nodes by layer, in order, and the edges between each two.

    `basis` and `origin` name it, `variance` is that of the network's outputs.
    """

    basis: str
    origin: str
    nodes: Mapping[str, Nodes]
    edges: Sequence[Tensor]
    variance: float

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.basis}-{self.origin}"

    @property
    def pairs(self) -> dict[str, Tensor]:
        """Edges by the names of the layers that they join."""
        names = [f"{before}→{behind}" for before, behind in pairwise(self.nodes)]
        return dict(zip(names, self.edges, strict=True))


@dataclass
class _Found:
    """What is gathered of a network: parts of tables, edges, files, remarks."""

    parts: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    edges: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, graph: Graph, table: str, rows: Any, **setting: float) -> None:
        """Add rows, or columns, about a graph to a table."""
        found = pd.DataFrame(rows).assign(basis=graph.basis, origin=graph.origin, **setting)
        self.parts.setdefault(table, []).append(found)

    def result(self) -> CellResult:
        tables = {name: pd.concat(parts) for name, parts in self.parts.items()}
        files = self.files
        if self.edges:
            files = {**files, "edges.safetensors": tensor_bytes(self.edges)}
        return CellResult(tables, files, tuple(dict.fromkeys(self.notices)))


def look(setup: Setup, seed: int, subject: Subject, stage: str) -> CellResult:
    """Draw a network's interaction graph in every basis and from every origin.

    Edges are compared with the cutoffs as shares of the outputs' variance on the samples. Memory:
    the factors of all layers, the edges of all graphs, and what `interactions` needs.
    """
    config = setup.config
    count = min(config.samples, len(subject.data.test))
    chosen = Samples(subject.data.test, torch.arange(count), subject.batch_size)

    def batches() -> Iterator[Tensor]:
        return (x.to(subject.device) for x, _ in chosen)

    found = _Found()
    variance = _variance(subject, batches())
    if not variance:
        found.notices.append(
            f"the outputs are the same on all {count} samples, so nothing interacts: no graph"
        )
        return found.result()
    model, path = subject.model, subject.trace
    factors = gather(model, batches(), path, setup.layers)
    for basis in config.bases:
        for origin in config.origins:
            nodes = {layer: nodes_of(factors[layer], basis, origin) for layer in setup.layers}
            edges = interactions(model, batches(), path, nodes, steps=config.steps)
            graph = Graph(basis, origin, nodes, edges, variance)
            _describe(found, graph, min(config.cutoffs))
            _part(found, graph, setup, seed)
            if basis != "neuron":
                _keep(found, basis, origin, factors)
    return found.result()


def _variance(subject: Subject, batches: Iterator[Tensor]) -> float:
    """The mean squared distance of the outputs from their mean; 0 if it may be rounding."""
    with evaluating(subject.model), torch.no_grad():
        y = torch.cat([subject.model(x).flatten(1).cpu().double() for x in batches])
    spread = float((y - y.mean(dim=0)).square().sum(dim=1).mean())
    noise = float(y.abs().max()) * torch.finfo(torch.float32).eps
    return spread if spread > noise**2 else 0.0


def _describe(found: _Found, graph: Graph, cutoff: float) -> None:
    """Say how many nodes and edges there are and how many of them count; list what is drawn."""
    layers = {
        layer: {"nodes": float(len(nodes)), "effective_nodes": effective_number(nodes.size)}
        for layer, nodes in graph.nodes.items()
    }
    pairs = {
        pair: {
            "possible_edges": float(E.numel()),
            "effective_edges": effective_number(E),
            "effective_inputs": _inputs(E),
        }
        for pair, E in graph.pairs.items()
    }
    whole = {
        statistic: sum(counts[statistic] for counts in parts.values())
        for parts in (layers, pairs)
        for statistic in next(iter(parts.values()))
    }
    whole["effective_inputs"] /= len(pairs)
    for layer, counts in {**layers, **pairs, ALL_LAYERS: whole}.items():
        columns = {"statistic": list(counts), "value": list(counts.values())}
        found.add(graph, "graphs", {"layer": layer, **columns})
    for layer, nodes in graph.nodes.items():
        numbers = np.arange(len(nodes))
        columns = {"node": numbers, "name": names(nodes), "size": nodes.size.cpu().numpy()}
        found.add(graph, "nodes", {"layer": layer, **columns})
    for (before, behind), E in zip(pairwise(graph.nodes), graph.edges, strict=True):
        i, j = (cutoff * graph.variance < E).nonzero(as_tuple=True)
        columns = {"node": j.numpy(), "node_behind": i.numpy(), "strength": E[i, j].numpy()}
        found.add(graph, "edges", {"layer": before, "layer_behind": behind, **columns})
    found.edges |= {f"{graph.name}/{pair}": E for pair, E in graph.pairs.items()}


def _inputs(E: Tensor) -> float:
    """How many nodes before count for a node behind: a mean that weighs by strength; 0 of none."""
    strength = E.sum(dim=1)
    if not bool(strength.any()):
        return 0.0
    shares = E / strength.clamp_min(torch.finfo(E.dtype).tiny)[:, None]
    counts = torch.special.entr(shares).sum(dim=1).exp()
    return float((counts * strength).sum() / strength.sum())


def names(nodes: Nodes) -> list[str]:
    """Name nodes: neurons by their number, the constant `one`, directions d0, d1 and so on."""
    if nodes.neurons is None:
        return [f"d{number}" for number in range(len(nodes))]
    return ["one" if number == 0 else str(number - 1) for number in nodes.neurons.tolist()]


def _part(found: _Found, graph: Graph, setup: Setup, seed: int) -> None:
    """Seek modules at every cutoff and resolution, beside what rewired links give."""
    config = setup.config
    members: dict[str, Sequence[Tensor]] = {}
    for cutoff in config.cutoffs:
        links = links_of(graph.edges, cutoff * graph.variance)
        chance = [
            rewired(links, generator(seed, "rewired", graph.name, turn)) for turn in range(CHANCES)
        ]
        for resolution in config.resolutions:
            modules, *others = (
                find_modules(one, resolution=resolution, seed=seed) for one in (links, *chance)
            )
            if not modules.edges:
                found.notices.append(
                    f"{graph.name}: no edge is above the cutoff {cutoff:g}, so there are no "
                    f"modules; lower it with --cutoff"
                )
                continue
            setting = {"cutoff": cutoff, "resolution": resolution}
            found.add(graph, "modules", [_scores(modules, others)], **setting)
            for layer, labels in zip(graph.nodes, modules.members, strict=True):
                (linked,) = (labels != ALONE).nonzero(as_tuple=True)
                columns = {"node": linked.numpy(), "module": labels[linked].numpy()}
                found.add(graph, "members", {"layer": layer, **columns}, **setting)
            members[f"module cutoff={cutoff:g} resolution={resolution:g}"] = modules.members
    found.files[f"{graph.name}.graphml"] = graphml(
        {layer: names(nodes) for layer, nodes in graph.nodes.items()},
        {layer: nodes.size.tolist() for layer, nodes in graph.nodes.items()},
        graph.edges,
        members,
        min(config.cutoffs) * graph.variance,
    )


def _scores(modules: Modules, chance: Sequence[Modules]) -> dict[str, Any]:
    """What a partition is worth, and what links of the same degrees give by chance."""
    return {
        "edges": modules.edges,
        "modules": modules.count,
        "modularity": modules.modularity,
        "between": modules.between,
        "chance_modularity": float(np.mean([found.modularity for found in chance])),
        "chance_between": float(np.mean([found.between for found in chance])),
    }


def _keep(found: _Found, kind: Kind, origin: Origin, factors: Mapping[str, Factors]) -> None:
    """Keep the bases of all layers, as `load_bases` reads them."""
    bases = {layer: own.basis(kind, centred=origin == "mean") for layer, own in factors.items()}
    found.files[f"{kind}-{origin}.safetensors"] = bases_bytes(bases)
    limited = [layer for layer, basis in bases.items() if basis.limited_by_samples]
    if limited:
        found.notices.append(
            f"{', '.join(limited)}: the rank is limited by the number of samples, "
            f"{bases[limited[0]].samples}; with more --samples there may be more directions"
        )
