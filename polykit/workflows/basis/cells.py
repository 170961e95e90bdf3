"""What each cell of `basis` does: make a network as an analysis does, and draw its graphs."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from polykit.runtime.store import CellResult, RunStore
from polykit.types import Subject
from polykit.workflows.analyze import cells as analyze
from polykit.workflows.analyze.network import Network
from polykit.workflows.analyze.setup import DENSE, Cell
from polykit.workflows.basis.graphs import look
from polykit.workflows.basis.setup import Setup
from polykit.workflows.sweep import Phase

UNTRAINED = "untrained"
"""The stage of the control: a network of the same shape with random weights."""

closing = analyze.closing


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    common = analyze.describe(setup.networks, command, workflow="basis")
    return {**common, "layers": list(setup.layers)}


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run."""
    return analyze.network_phases(setup.networks, store, partial(_begin, setup))


def _begin(setup: Setup, cell: Cell, model: nn.Module) -> Network:
    """Begin a cell's network; a dense one with its untrained control, if it is to be trained."""
    networks = setup.networks
    network = Network(networks, cell, model, partial(_look, setup, cell))
    if cell.pruner == DENSE and (networks.network.trained or networks.epochs):
        fresh = networks.network.redrawn(model, cell.seed) if networks.network.trained else model
        network.measure(UNTRAINED, fresh)
    return network


def _look(setup: Setup, cell: Cell, subject: Subject, stage: str) -> CellResult:
    """Draw a network's graphs; once only if it came trained and every seed has the same one."""
    networks, first = setup.networks, setup.config.seeds[0]
    if networks.same_for_all_seeds and stage == DENSE and cell.seed != first:
        return CellResult({}, {}, (f"the network of seed {first} again, so no graph of its own",))
    return look(setup, cell.seed, subject, stage)
