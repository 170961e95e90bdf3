"""What each cell of a density study does: train, follow the trajectories, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polykit.errors import DataError, ModelError, PolykitError, UsageError
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.overlap import smallest_overlap
from polykit.runtime.store import CellResult, RunStore
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import Epoch, History
from polykit.types.measurement import ALL_LAYERS
from polykit.workflows.density.classes import class_rows, class_subnetworks
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.densities import doubtful, follow
from polykit.workflows.density.network import Network
from polykit.workflows.density.setup import Cell, Setup, ranks
from polykit.workflows.density.tickets import tickets
from polykit.workflows.epochs import tell_epoch
from polykit.workflows.measuring import measure
from polykit.workflows.sweep import Failures, Phase, record


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data = setup.splits.data(setup.config.data_seeds[0])
    common = record(
        "density",
        setup.config,
        setup.plugins,
        setup.cells,
        command,
        setup.device,
        setup.threads,
    )
    return {
        **common,
        "threshold": {"drop": setup.config.fall, "rise": setup.config.rise},
        "searched": [n for n, chosen in setup.pruners.items() if not ranks(chosen.instance)],
        "trained": [n for n, chosen in setup.pruners.items() if chosen.instance.trains],
        "data": {
            "name": data.name,
            "task": data.task,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "outputs": data.outputs,
            "classes": list(data.classes),
        },
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run; what no network could survive is fatal."""
    work = partial(study, setup, store)
    return [Phase(work, setup.groups, fatal=(DataError, ModelError, UsageError))]


def study(setup: Setup, store: RunStore, cells: Sequence[Cell]) -> Failures:
    """Train the networks of a group together, then look at each.

    A group that was interrupted trains whole again, so that company changes no result; networks
    that are done are not looked at again.
    """
    failures: dict[str, PolykitError] = {}
    try:
        models = {cell: setup.build(cell) for cell in cells}
        histories = _train(setup, store, models)
    except PolykitError as error:
        if len(cells) == 1:
            return {cells[0].name: error}
        return {n: e for cell in cells for n, e in study(setup, store, [cell]).items()}
    for cell, history in histories.items():
        if store.has(cell.name):
            continue
        try:
            store.write_cell(cell.name, _result(Network(setup, cell, models[cell]), history))
        except PolykitError as error:
            failures[cell.name] = error
    return failures


def _train(setup: Setup, store: RunStore, models: Mapping[Cell, nn.Module]) -> dict[Cell, History]:
    """Train networks in place, all from the same data and by the same optimiser."""
    cells = list(models)
    jobs = [
        Job(
            model,
            setup.splits.data(cell.data_seed),
            cell.seed,
            checkpoint=store.scratch(cell.name),
        )
        for cell, model in models.items()
    ]

    def tell(place: int, epoch: Epoch) -> None:
        tell_epoch(
            setup.registry,
            epoch,
            cell=cells[place].name,
            phase="train",
            epochs=setup.config.epochs,
            model=models[cells[place]],
        )

    histories = train_together(
        jobs,
        setup.trainings[cells[0].optimizer],
        setup.config.epochs,
        device=setup.device,
        together=len(jobs),
        on_epoch=tell,
    )
    return dict(zip(cells, histories, strict=True))


def _result(network: Network, history: History) -> CellResult:
    """Ask a trained network everything, and keep it for the store."""
    setup, config = network.setup, network.setup.config
    said = [] if history.reached else [_unreached(history, config)]
    measured = measure(
        setup.metrics, network.subject(network.model, network.kind.candidates.full())
    )
    said += measured.notices
    rows = [*_training(network, history), *_overlaps(network), *measured.rows]
    setup.registry.notify("polykit_measured", cell=network.cell.name, stage="trained", rows=rows)
    paths = [follow(network, label) for label in setup.pruners]
    said += [line for path in paths for line in doubtful(network, path)]
    tables = {
        "rows": rows,
        "effective": [path.effective(config.fall, config.rise) for path in paths],
        "trajectory": [row for path in paths for row in path.rows()],
        "history": [vars(epoch) for epoch in history.epochs],
    }
    if network.data.task == "classification":
        tables["correct"] = [
            {"sample": number, "correct": right}
            for number, right in enumerate(_correct(network).tolist())
        ]
    if setup.by_class is not None:
        parts = class_subnetworks(network, setup.by_class)
        tables["classes"] = class_rows(parts, network)
        said += parts.notices
    if setup.lottery is not None:
        found = tickets(network, setup.lottery, measured)
        tables |= {"tickets": found.rows, "alike": found.alike}
        said += found.notices
    return CellResult(
        {name: network.table(made) for name, made in tables.items() if made},
        notices=tuple(dict.fromkeys(f"{network.cell.name}: {line}" for line in said)),
    )


def _unreached(history: History, config: DensityConfig) -> str:
    return (
        f"training ended after {len(history.epochs)} epochs without reaching validation "
        f"loss {config.stop_loss:g}; give more --epochs, or another rate"
    )


def _training(network: Network, history: History) -> list[dict[str, Any]]:
    """What training came to, and how many weights may go."""
    last = history.epochs[history.chosen - 1]
    whole = {
        "epochs": float(history.chosen),
        "validation_loss": last.validation_loss,
        "parameters": float(network.kind.candidates.full().total),
    }
    if last.validation_accuracy is not None:
        whole["validation_accuracy"] = last.validation_accuracy
    return [
        {"metric": "training", "layer": ALL_LAYERS, "statistic": name, "value": value}
        for name, value in whole.items()
    ]


def _overlaps(network: Network) -> list[dict[str, Any]]:
    """How many of each layer's smallest weights are those that were smallest at the start."""
    before, share = network.start(), network.setup.config.small
    return [
        {
            "metric": "small-weights",
            "layer": name.removesuffix(".weight"),
            "statistic": "overlap",
            "value": smallest_overlap(
                before.get_parameter(name), network.model.get_parameter(name), share
            ),
        }
        for name in network.kind.candidates.shapes
    ]


def _correct(network: Network) -> Tensor:
    """Which validation samples the network gets right: bool `[n]`."""
    device, size, right = network.setup.device, network.setup.config.eval_batch_size, []
    with evaluating(network.model), torch.no_grad():
        for x, y in network.data.validation.batches(size):
            right.append(network.model(x.to(device)).argmax(1).cpu() == y)
    return torch.cat(right)
