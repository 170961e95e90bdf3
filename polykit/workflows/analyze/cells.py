"""What each cell of an analysis does: train and measure, or prune, measure, retrain, measure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from polykit.api import StructuralPruner
from polykit.errors import DataError, ModelError, PluginError, PolykitError, UsageError
from polykit.runtime.blame import blaming
from polykit.runtime.progress import watching
from polykit.runtime.samples.splits import Samples
from polykit.runtime.seeds import generator
from polykit.runtime.store import RunStore, tensor_bytes
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import train
from polykit.types import Mask, Smaller
from polykit.workflows.analyze.network import Network
from polykit.workflows.analyze.setup import DENSE, Cell, Setup
from polykit.workflows.config import MIN_CEILING
from polykit.workflows.sweep import Failures, Phase, groups_of, record

Make = Callable[[Cell, nn.Module], Network]
"""Makes the network of a cell out of its module."""


def describe(setup: Setup, command: str, *, workflow: str = "analyze") -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data, cells = setup.data, [*setup.dense_cells, *setup.pruned_cells]
    common = record(
        workflow, setup.config, setup.plugins, cells, command, setup.device, setup.threads
    )
    return {
        **common,
        "epochs": {"train": setup.epochs, "retrain": setup.retrain_epochs},
        "layers": list(setup.layers),
        "data": {
            "name": data.name,
            "task": data.task,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "outputs": data.outputs,
            "classes": list(data.classes),
            "card": [vars(fact) for fact in data.card()],
            "skipped": [],
        },
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run."""
    return network_phases(setup, store, partial(Network, setup))


def network_phases(setup: Setup, store: RunStore, make: Make) -> list[Phase]:
    """Return the work on the networks that `make` makes: dense ones, then pruned ones.

    What no cell could survive (data, model or usage errors of a dense network) is fatal.
    """
    return [
        Phase(
            partial(dense_cells, setup, store, make),
            groups_of(setup.dense_cells, setup.ensemble),
            fatal=(DataError, ModelError, UsageError),
            skipped=setup.data.skipped,
        ),
        Phase(
            partial(pruned_cells, setup, store, make),
            groups_of(setup.pruned_cells, setup.ensemble),
            skipped=setup.data.skipped,
        ),
    ]


def closing(meta: dict[str, Any], skipped: Sequence[str]) -> None:
    """Add to the run's record what could not be read, and what its data's card warns of."""
    meta["data"]["skipped"] = list(dict.fromkeys([*meta["data"]["skipped"], *skipped]))
    meta["notices"] = [*_warnings(meta["data"]["card"]), *meta["notices"]]


def _warnings(card: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the data's card says against believing results."""
    return [
        f"the features explain only {100 * fact['value']:.0f} % of the labels' variance: most of "
        f"what a network could learn here is noise"
        for fact in card
        if fact["name"] == "label_ceiling" and fact["value"] < MIN_CEILING
    ]


def dense_cells(setup: Setup, store: RunStore, make: Make, cells: Sequence[Cell]) -> Failures:
    """Train (or load) the networks of some seeds, measure them, and keep their weights."""
    networks = {cell: make(cell, setup.build(cell.seed)) for cell in cells}
    failures = _train(setup, store, networks, "train", setup.epochs)
    if failures and len(cells) > 1:  # one network spoils an ensemble, so each for itself
        return _apart(partial(dense_cells, setup, store, make), cells)
    first, *others = setup.config.seeds
    for cell, network in networks.items():
        if setup.same_for_all_seeds and others and cell.seed == first:
            network.note(
                "every seed has this one trained network, so intervals tell how much pruning, "
                "retraining and their samples vary, and nothing of other networks"
            )
        if cell.name not in failures:
            _attempt(failures, cell, partial(_finish, store, network, DENSE, _weights(network)))
    return failures


def pruned_cells(setup: Setup, store: RunStore, make: Make, cells: Sequence[Cell]) -> Failures:
    """Prune networks, each with one pruner to one density; measure; retrain; measure."""
    failures: dict[str, PolykitError] = {}
    networks: dict[Cell, Network] = {}
    for cell in cells:
        _attempt(failures, cell, partial(_pruned, setup, store, make, cell, networks))
    spoilt = _train(setup, store, networks, "retrain", setup.retrain_epochs)
    if spoilt and len(cells) > 1:
        return _apart(partial(pruned_cells, setup, store, make), cells)
    failures |= spoilt
    stage = "retrained" if setup.retrain_epochs else ""
    for cell, network in networks.items():
        if cell.name not in failures:
            kept = _weights(network) if setup.config.keep_weights else {}
            _attempt(failures, cell, partial(_finish, store, network, stage, kept))
    return failures


def _weights(network: Network) -> dict[str, bytes]:
    return {"model.safetensors": tensor_bytes(network.model.state_dict())}


def _apart(work: Callable[[Sequence[Cell]], Failures], cells: Sequence[Cell]) -> Failures:
    """Do the work of a group cell by cell, from the start."""
    return {n: error for cell in cells for n, error in work([cell]).items()}


def _attempt(failures: dict[str, PolykitError], cell: Cell, work: Callable[[], None]) -> None:
    """Do one cell's share of a group's work; its failure is its own."""
    try:
        work()
    except PolykitError as error:
        failures[cell.name] = error


def _finish(store: RunStore, network: Network, stage: str, tensors: Mapping[str, bytes]) -> None:
    """Measure a network for the last time, unless it has not changed, and write its cell."""
    if stage:
        network.measure(stage)
    store.write_cell(network.cell.name, network.result(tensors))


def _pruned(
    setup: Setup, store: RunStore, make: Make, cell: Cell, networks: dict[Cell, Network]
) -> None:
    """Prune one seed's network and measure it; put it among `networks`."""
    model = setup.build(cell.seed)
    if setup.config.prune_at == "trained":
        model.load_state_dict(store.read_tensors(Cell(cell.seed).name, "model.safetensors"))
    model, found = _prune(setup, cell, model.eval())
    network = make(cell, model)
    network.pruned(found)
    network.measure("pruned")
    networks[cell] = network


def _train(
    setup: Setup, store: RunStore, networks: Mapping[Cell, Network], phase: str, epochs: int
) -> dict[str, PolykitError]:
    """Train networks in place, together if there are several; return the errors by cell."""
    if epochs == 0 or not networks:
        return {}
    config, cells = setup.config, list(networks)
    members = [networks[cell] for cell in cells]
    tells = [network.on_epoch(phase, epochs) for network in members]
    # what was tracked before an interruption is not in a checkpoint
    places = [None if setup.tracked else store.scratch(cell.name) for cell in cells]
    try:
        histories = train_together(
            [
                Job(n.model, setup.data, n.cell.seed, n.mask, place)
                for n, place in zip(members, places, strict=True)
            ],
            config.training,
            epochs,
            device=setup.device,
            together=setup.ensemble,
            on_epoch=lambda place, epoch: tells[place](epoch),
        )
    except PolykitError as error:
        return {cell.name: error for cell in cells}
    for network, history in zip(members, histories, strict=True):
        network.trained(phase, history)
    return {}


def _prune(setup: Setup, cell: Cell, model: nn.Module) -> tuple[nn.Module, Mask | Smaller]:
    """Return the network that was pruned, and what the pruner left of it."""
    config, chosen = setup.config, setup.pruners[cell.pruner]
    order = torch.randperm(len(setup.data.train), generator=generator(cell.seed, "score"))
    batches = Samples(
        setup.data.train, order[: config.score_samples], min(256, config.eval_batch_size)
    )

    def trained(network: nn.Module, mask: Mask, *, epochs: int | None = None) -> nn.Module:
        clone = copy.deepcopy(network)
        train(
            clone,
            setup.data,
            config.training,
            setup.retrain_epochs if epochs is None else epochs,
            seed=cell.seed,
            device=setup.device,
            mask=mask,
        )
        return clone

    arguments: dict[str, Any] = {
        "density": cell.density,
        "candidates": setup.candidates,
        "generator": generator(cell.seed, "prune", cell.pruner, cell.density),
    }
    pruner = chosen.instance
    told = partial(setup.registry.notify, "polykit_pruning", cell=cell.name, pruner=cell.pruner)
    with blaming(pruner), watching(told):
        found: Any
        if isinstance(pruner, StructuralPruner):
            wanted: type = Smaller
            found = pruner.shrink(model, setup.objective, batches, **arguments)
        else:
            wanted = Mask
            model = pruner.prepare(
                model,
                candidates=setup.candidates,
                generator=generator(cell.seed, "prepare", cell.pruner),
                train=trained,
            ).eval()
            found = pruner.prune(model, setup.objective, batches, **arguments, train=trained)
    if not isinstance(found, wanted):
        raise PluginError(
            f"pruner {cell.pruner!r} ({chosen.distribution}) gave {type(found).__name__}, no "
            f"{wanted.__name__}"
        )
    return model, cast("Mask | Smaller", found)
