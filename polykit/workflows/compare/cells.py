"""What each cell of a comparison does: compare two networks, or pull one towards the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.objectives import task_loss
from polykit.runtime.pairs.matching import apart, match
from polykit.runtime.pairs.similarity import Similarity, similarity
from polykit.runtime.pairs.symmetry import State
from polykit.runtime.seeds import derive, generator
from polykit.runtime.store import CellResult, RunStore, tensor_bytes
from polykit.runtime.training.loop import Epoch, StepLoss, train
from polykit.workflows.compare.line import Line, along, look, part
from polykit.workflows.compare.setup import Compared, Pair, Pull, Setup
from polykit.workflows.epochs import tell_epoch
from polykit.workflows.sweep import Phase, groups_of, one_by_one, record

ORDERS = "permutations.safetensors"
MATCHED, UNMATCHED, RANDOM = "matched", "unmatched", "random"
"""The lines from the first network: to the other with its units matched, as they are, or in a
random order."""

FUNCTIONS, FRESH = "functions", "random weights"
"""What is alike: the two networks' functions; as a control, the first's and that of a network like
it with random weights."""

COMPARED, PULLED, RELEASED = "compared", "pulled", "released"
TO_FIRST, TO_OTHER = "to first", "to other"


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data = setup.data
    common = record(
        "compare", setup.config, setup.plugins, setup.cells, command, setup.device, setup.threads
    )
    return {
        **common,
        "first": setup.first.label,
        "data": {
            "name": data.name,
            "task": data.task,
            "train": len(part(setup, "train")),
            "test": len(part(setup, "test")),
            "outputs": data.outputs,
        },
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run: the comparisons, then the pulls, which need them."""
    return [
        Phase(partial(one_by_one, partial(compare, setup, store)), groups_of(setup.pairs, 1)),
        Phase(partial(one_by_one, partial(pull, setup, store)), groups_of(setup.pulls, 1)),
    ]


def compare(setup: Setup, store: RunStore, cell: Pair) -> None:
    """Compare the first network with another: functions, and the line between them."""
    leaves, other = Leaves(setup, cell), setup.others[cell.other]
    leaves.notices += setup.remarks
    alike(setup, leaves, other)
    if setup.config.path:
        lines(setup, leaves, other)
    leaves.write(store)


def alike(setup: Setup, leaves: Leaves, other: Compared) -> None:
    """How alike two networks' layers and predictions are, beside a network of random weights."""
    leaves.alike(FUNCTIONS, _similar(setup, setup.first, other))
    try:
        fresh = setup.fresh()
    except ModelError as error:
        leaves.notices.append(f"no control by random weights: {error}")
    else:
        leaves.alike(FRESH, _similar(setup, setup.first, fresh))


def _similar(setup: Setup, one: Compared, other: Compared) -> Similarity:
    return similarity(
        (one.model, one.trace),
        (other.model, other.trace),
        part(setup, "test").batches(setup.config.eval_batch_size),
        setup.device,
        classes=setup.data.task == "classification",
    )


def lines(setup: Setup, leaves: Leaves, other: Compared) -> None:
    """Match the other network's units, and look at the lines to it in several orders of them."""
    config, first, moves = setup.config, setup.first, setup.symmetries
    found = match(
        first.parameters(),
        other.parameters(),
        moves,
        starts=config.starts,
        random=generator(config.seed, "matching", other.label),
    )
    leaves.tensors[ORDERS] = tensor_bytes({str(g): o for g, o in enumerate(found.permutations)})
    leaves.add(
        {
            "distance": found.distance,
            "farthest_start": max(found.tries),
            "units_moved": _share_moved(found.permutations),
        },
        route=MATCHED,
    )
    leaves.add({"distance": found.unmatched}, route=UNMATCHED)
    leaves.notices += [
        f"the units of layer {layer!r} were not matched: {why}"
        for layer, why in moves.fixed.items()
    ]
    orders = {(MATCHED, 0): found.permutations, (UNMATCHED, 0): moves.identity()}
    drawn = generator(config.seed, "orders", other.label)
    orders |= {(RANDOM, draw): moves.random(drawn) for draw in range(config.randoms)}
    state, theirs = first.model.state_dict(), other.model.state_dict()
    for (route, draw), order in orders.items():
        leaves.line(along(setup, state, moves.permute(theirs, order)), route=route, draw=draw)


def _share_moved(orders: Sequence[Tensor]) -> float:
    moved = [order != torch.arange(len(order)) for order in orders]
    return float(torch.cat(moved).double().mean()) if moved else 0.0


def pull(setup: Setup, store: RunStore, cell: Pull) -> None:
    """Train the first network on, pulled to the other, then as long without the pull."""
    leaves, other = Leaves(setup, cell), setup.others[cell.other]
    saved = store.read_tensors(Pair(cell.other).name, ORDERS)
    orders = [saved[str(place)] for place in range(len(saved))]
    goal = setup.symmetries.permute(other.model.state_dict(), orders)
    matched = replace(other, model=copy.deepcopy(setup.first.model))
    matched.model.load_state_dict(goal)
    moving = replace(setup.first, model=copy.deepcopy(setup.first.model))
    for stage, strength in ((PULLED, cell.strength), (RELEASED, 0.0)):
        history = train(
            moving.model,
            setup.data,
            setup.config.training,
            setup.config.epochs,
            seed=derive(setup.config.seed, stage),
            device=setup.device,
            on_epoch=leaves.on_epoch(stage, moving.model),
            loss=pulled(setup.data.task, matched.parameters(), strength),
        )
        leaves.history += [{"stage": stage, **vars(epoch)} for epoch in history.epochs]
        leaves.add(look(setup, moving.model), stage=stage)
        for route, end in ((TO_FIRST, setup.first), (TO_OTHER, matched)):
            state = end.model.state_dict()
            line = along(setup, moving.model.state_dict(), state, metrics=False)
            distance = apart(moving.parameters(), end.parameters())
            leaves.add({"distance": distance, **line.barriers()}, stage=stage, route=route)
            leaves.add(_numbers(_similar(setup, moving, end)), stage=stage, route=route)
    leaves.write(store)


def pulled(task: str, goal: State, strength: float) -> StepLoss:
    """The task loss plus strength / 2 · ‖θ − goal‖², over all parameters."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = task_loss(model(x), y, task, "mean")
        if not strength:
            return value
        away = [(p - goal[n]).square().sum() for n, p in model.named_parameters()]
        return value + strength / 2 * torch.stack(away).sum()

    return loss


class Leaves:
    """What a cell leaves behind, in tidy rows."""

    def __init__(self, setup: Setup, cell: Pair | Pull) -> None:
        self._setup, self._cell = setup, cell
        self._place = {"other": cell.other, "strength": getattr(cell, "strength", 0.0)}
        self._rows: list[dict[str, Any]] = []
        self._path: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.tensors: dict[str, bytes] = {}
        self.notices: list[str] = []

    def add(
        self, found: Mapping[str, float], *, stage: str = COMPARED, route: str = "", draw: int = 0
    ) -> None:
        """Keep statistics."""
        where = {**self._place, "stage": stage, "route": route, "draw": draw}
        self._rows += [{**where, "statistic": n, "value": v} for n, v in found.items()]

    def alike(self, route: str, found: Similarity) -> None:
        """Keep how alike two networks are."""
        self.add(_numbers(found), route=route)
        for i, a in enumerate(found.layers_a):
            for j, b in enumerate(found.layers_b):
                value = float(found.cka[i, j])
                if math.isnan(value):
                    self.notices.append(
                        f"no CKA of layer {a!r} with {b!r} ({route}): the units of one never change"
                    )
                    continue
                row = {"route": route, "layer_a": a, "layer_b": b, "cka": value}
                self._layers.append({"other": self._cell.other, **row})

    def line(self, found: Line, *, route: str, draw: int) -> None:
        """Keep what was measured along a line, and the barriers on it."""
        self.add(found.barriers(), route=route, draw=draw)
        where = {"other": self._cell.other, "route": route, "draw": draw}
        for t, point in zip(found.t, found.found, strict=True):
            self._path += [{**where, "t": t, "quantity": n, "value": v} for n, v in point.items()]

    def on_epoch(self, stage: str, model: nn.Module) -> Callable[[Epoch], None]:
        """Return what tells the plugins of each epoch."""
        return partial(
            tell_epoch,
            self._setup.registry,
            cell=self._cell.name,
            phase=stage,
            epochs=self._setup.config.epochs,
            model=model,
        )

    def write(self, store: RunStore) -> None:
        """Write the cell and tell the plugins."""
        tables = {
            "rows": pd.DataFrame(self._rows),
            "path": pd.DataFrame(self._path),
            "layers": pd.DataFrame(self._layers),
            "history": pd.DataFrame([{**self._place, **row} for row in self.history]),
        }
        filled = {name: table for name, table in tables.items() if len(table)}
        notices = tuple(f"{self._cell.other}: {line}" for line in dict.fromkeys(self.notices))
        store.write_cell(self._cell.name, CellResult(filled, self.tensors, notices))
        self._setup.registry.notify(
            "polykit_measured", cell=self._cell.name, stage=COMPARED, rows=self._rows
        )


def _numbers(found: Similarity) -> dict[str, float]:
    """Agreement and correlation, as far as they are defined."""
    numbers = {"correlation": found.correlation}
    if (agreement := found.agreement) is not None:
        numbers |= {
            "agreement": agreement.share,
            "agreement_by_chance": agreement.chance,
            "kappa": agreement.kappa,
        }
    return {name: value for name, value in numbers.items() if value is not None}
