"""What each cell of the laboratory does: make a world, train dense networks, carry out an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from polykit.api import StructuralPruner
from polykit.errors import PluginError, PolykitError
from polykit.runtime.blame import blaming
from polykit.runtime.objectives import parse_objective
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.runtime.pruning.structure import groups, keep_units, random_like
from polykit.runtime.samples.splits import Samples
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.store import CellResult, RunStore, tensor_bytes
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import Epoch
from polykit.types import Data, Smaller, Subject
from polykit.workflows.laboratory.setup import WORLD, Cell, Laboratory
from polykit.workflows.measuring import headlines, measure
from polykit.workflows.sweep import Phase, groups_of, one_by_one, record

SCORE_SAMPLES = 1024
"""Training samples that a pruner may look at."""

TOGETHER, LARGEST = 50, 1_200_000
"""Networks that train at once, and parameters that they may have in all: what stays near a
processor."""

MODELS = "models.safetensors"


def describe(laboratory: Laboratory, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    config, metrics = laboratory.config, laboratory.metrics
    label = next(label for label in metrics if metrics[label].spec == config.metrics[0])
    asked = next(r for r in laboratory.plugins["metrics"] if r["label"] == label)
    column = asked["columns"][asked["headline"]]
    cells = [*laboratory.worlds, *laboratory.dense, *laboratory.arms]
    device, threads = laboratory.device, config.threads
    return {
        **record("laboratory", config, laboratory.plugins, cells, command, device, threads),
        "headline": {
            "metric": label,
            "statistic": asked["headline"],
            "summary": column["summary"],
            "unit": column["unit"],
        },
        "scenarios": [scenario.model_dump() for scenario in config.scenarios],
        "threshold": {"label_ceiling": config.min_ceiling},
    }


def phases(laboratory: Laboratory, store: RunStore) -> list[Phase]:
    """Return the work of the run: worlds, dense networks, arms."""
    steps = [
        (world_cell, laboratory.worlds),
        (dense_cell, laboratory.dense),
        (arm_cell, laboratory.arms),
    ]
    return [
        Phase(partial(one_by_one, partial(work, laboratory, store)), groups_of(cells, 1))
        for work, cells in steps
    ]


def world_cell(laboratory: Laboratory, store: RunStore, cell: Cell) -> None:
    """Make one world's data; keep its ground truth, and what a reader should know about it."""
    data = laboratory.make(cell.scenario, cell.seed)
    place = {"scenario": cell.scenario, "seed": cell.seed}
    facts = [{**place, "fact": fact.name, "value": fact.value} for fact in data.card()]
    tables = {"worlds": pd.DataFrame(facts)} if facts else {}
    store.write_cell(cell.name, CellResult(tables, {WORLD: tensor_bytes(data.truth)}))
    laboratory.registry.notify("polykit_measured", cell=cell.name, stage="world", rows=facts)


def dense_cell(laboratory: Laboratory, store: RunStore, cell: Cell) -> None:
    """Train the dense networks of a scenario's worlds, and keep their weights."""
    networks = []
    for seed in laboratory.config.seeds:
        data = laboratory.data(store, cell.scenario, seed)
        model = laboratory.build(cell.scenario, cell.dropout, seed, data)
        networks.append(_Network(laboratory, cell, seed, data, model))
    _train(laboratory, cell, networks, fresh=True)
    weights = {
        f"{network.seed}/{name}": value
        for network in networks
        for name, value in network.model.state_dict().items()
    }
    _write(laboratory, store, cell, networks, {MODELS: tensor_bytes(weights)})


def arm_cell(laboratory: Laboratory, store: RunStore, cell: Cell) -> None:
    """Take the dense networks of a scenario, do to them what the arm says, and train them."""
    weights = store.read_tensors(cell.needs[0], MODELS)
    networks: list[_Network] = []
    for seed in laboratory.config.seeds:
        data = laboratory.data(store, cell.scenario, seed)
        dense = laboratory.build(cell.scenario, cell.dropout, seed, data)
        own = {n.partition("/")[2]: v for n, v in weights.items() if n.startswith(f"{seed}/")}
        dense.load_state_dict(own)
        dense.eval()
        whole = _Network(laboratory, cell, seed, data, dense)
        if cell.arm == "unpruned":
            networks.append(whole)
            continue
        for ratio in laboratory.config.ratios:
            try:
                cut = _cut(laboratory, whole, ratio)
            except PolykitError as error:
                raise type(error)(f"seed {seed}, ratio {ratio:g}: {error}") from error
            network = _Network(laboratory, cell, seed, data, cut.model, ratio, cut, whole.units)
            networks.append(network)
    _train(laboratory, cell, networks, fresh=cell.arm == "scratch")
    _write(laboratory, store, cell, networks, {})


def _cut(laboratory: Laboratory, dense: _Network, ratio: float) -> Smaller:
    """Make a dense network smaller: as the pruner says, or to its widths in another way."""
    model, seed, arm = dense.model, dense.seed, dense.cell.arm
    pruned = _shrink(laboratory, dense, ratio)
    if arm == "pruned":
        return pruned
    if arm == "random":
        draw = generator(seed, "random units", ratio)
        units = random_like(pruned.units, groups(model, dense.example), draw)
        return keep_units(model, dense.example, units)
    fresh = keep_units(model, dense.example, pruned.units)
    with seeded(seed, "fresh", ratio):
        laboratory.models[dense.cell.scenario, dense.cell.dropout].instance.redraw(fresh.model)
    return fresh


def _shrink(laboratory: Laboratory, dense: _Network, ratio: float) -> Smaller:
    chosen, data, path = laboratory.pruner, dense.data, dense.subject.trace
    order = torch.randperm(len(data.train), generator=generator(dense.seed, "score"))
    pruner: StructuralPruner = chosen.instance
    with blaming(pruner):
        found = pruner.shrink(
            dense.model,
            parse_objective("task", data.task, path),
            Samples(data.train, order[:SCORE_SAMPLES], laboratory.config.eval_batch_size),
            density=1 - ratio,
            candidates=candidates(dense.model, path, "unit", "global"),
            generator=generator(dense.seed, "prune", ratio),
        )
    if not isinstance(found, Smaller):
        raise PluginError(
            f"pruner {chosen.name!r} ({chosen.distribution}) gave {type(found).__name__}, no "
            f"Smaller"
        )
    return found


def _train(
    laboratory: Laboratory, cell: Cell, networks: Sequence[_Network], *, fresh: bool
) -> None:
    """Train a cell's networks together, and measure each after every epoch."""
    config = laboratory.config
    epochs = config.epochs if fresh else config.retrain_epochs
    lr = config.lr if fresh else config.retrain_lr
    for network in networks:
        network.look(0)

    def tell(place: int, epoch: Epoch) -> None:
        network = networks[place]
        network.history.append(epoch)
        network.look(epoch.epoch)
        laboratory.registry.notify(
            "polykit_epoch",
            cell=cell.name,
            phase="train" if fresh else "retrain",
            epoch=epoch.epoch,
            epochs=epochs,
            losses={"loss": epoch.loss, "validation_loss": epoch.validation_loss},
            model=network.model,
        )

    histories = train_together(
        [Job(network.model, network.data, network.seed) for network in networks],
        config.training.model_copy(update={"lr": lr}),
        epochs,
        device=laboratory.device,
        together=config.ensemble or _together(networks),
        on_epoch=tell,
    )
    for network, history in zip(networks, histories, strict=True):
        if not history.reached:
            network.notices.append(
                f"{cell.name}, seed {network.seed}, ratio {network.ratio:g}: never reached the "
                f"validation loss {config.stop_loss:g}"
            )


def _together(networks: Sequence[_Network]) -> int:
    """How many networks to train at once, unless the configuration says it."""
    largest = max(sum(p.numel() for p in n.model.parameters()) for n in networks)
    return max(1, min(TOGETHER, LARGEST // largest))


def _write(
    laboratory: Laboratory,
    store: RunStore,
    cell: Cell,
    networks: Sequence[_Network],
    tensors: Mapping[str, bytes],
) -> None:
    """Measure the networks with every metric and write the cell."""
    rows = [row for network in networks for row in network.measure()]
    losses = [row for network in networks for row in network.losses()]
    tables = {
        "networks": pd.DataFrame([row for network in networks for row in network.widths()]),
        "rows": pd.DataFrame(rows),
        "epochs": pd.DataFrame([row for network in networks for row in network.epochs]),
        "history": pd.DataFrame(losses),
    }
    notices = [*_remarks(cell, networks), *(line for n in networks for line in n.notices)]
    store.write_cell(cell.name, CellResult(tables, tensors, tuple(dict.fromkeys(notices))))
    laboratory.registry.notify("polykit_measured", cell=cell.name, stage=cell.arm, rows=rows)


def _remarks(cell: Cell, networks: Sequence[_Network]) -> list[str]:
    """What the pruner had to say, once for a cell: the widths of all networks are in a table."""
    said = [network for network in networks if network.cut and network.cut.notices]
    if not said:
        return []
    first = said[0]
    example = f"seed {first.seed}, ratio {first.ratio:g}: {'; '.join(first.cut.notices)}"  # type: ignore[union-attr]
    return [f"{cell.name}: remarks on {len(said)} of {len(networks)} networks, e.g. {example}"]


@dataclass
class _Network:
    """One network of a cell, and what is known about it."""

    laboratory: Laboratory
    cell: Cell
    seed: int
    data: Data
    model: nn.Module
    ratio: float = 0.0
    cut: Smaller | None = None
    before: Mapping[str, int] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        laboratory, cell = self.laboratory, self.cell
        x, _ = next(self.data.test.batches(1))
        self.example = x.to(laboratory.device)
        path = trace(self.model, self.example)
        self.place: dict[str, Any] = {
            "scenario": cell.scenario,
            "dropout": cell.dropout,
            "seed": self.seed,
            "arm": cell.arm,
            "ratio": self.ratio,
        }
        self.subject = Subject(
            model=self.model,
            trace=path,
            layers=select_layers(path, laboratory.config.layers),
            data=self.data,
            device=laboratory.device,
            batch_size=laboratory.config.eval_batch_size,
            spaces=laboratory.spaces,
            cut=self.cut,
        )

    def look(self, epoch: int) -> None:
        """Take down the headline of each metric asked for, as it is after an epoch."""
        # a copy, for it is another network now, and what was learned from the last one is stale
        found = headlines(self.laboratory.asked, replace(self.subject))
        self.epochs += [{**self.place, "epoch": epoch, **row} for row in found]

    def measure(self) -> list[dict[str, Any]]:
        """Return the rows of every metric."""
        found = measure(self.laboratory.metrics, replace(self.subject))
        self.notices += found.notices
        return [{**self.place, **row} for row in found.rows]

    def losses(self) -> list[dict[str, Any]]:
        """Return the training curve."""
        names = ("epoch", "loss", "validation_loss")
        return [{**self.place, **{n: getattr(epoch, n) for n in names}} for epoch in self.history]

    @property
    def units(self) -> dict[str, int]:
        """How many units each measured layer has."""
        return {layer: self.subject.trace.of(layer)[0].units for layer in self.subject.layers}

    def widths(self) -> list[dict[str, Any]]:
        """Return how many units each measured layer had and has."""
        place = {**self.place, "actual_ratio": self.cut.ratio if self.cut else 0.0}
        return [
            {**place, "layer": layer, "units": self.before.get(layer, kept), "kept": kept}
            for layer, kept in self.units.items()
        ]
