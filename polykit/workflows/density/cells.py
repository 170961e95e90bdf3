"""What each cell of a density study does: train, follow the trajectories, measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from polykit.errors import DataError, ModelError, PolykitError, UsageError
from polykit.runtime.blame import blaming
from polykit.runtime.ensemble import Job, train_together
from polykit.runtime.overlap import smallest_overlap
from polykit.runtime.seeds import generator
from polykit.runtime.splits import Samples
from polykit.runtime.store import CellResult, RunStore
from polykit.runtime.trace import evaluating
from polykit.runtime.training import Epoch, History
from polykit.runtime.trajectory import Trajectory, doubts, evaluate_steps, removal
from polykit.types import Subject
from polykit.types.measurement import ALL_LAYERS
from polykit.workflows.density.setup import Cell, Setup
from polykit.workflows.measuring import measure
from polykit.workflows.sweep import Failures, Phase, record


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data = setup.data[setup.config.data_seeds[0]]
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

    A group that was interrupted trains whole again, so that company changes no result.
    """
    failures: dict[str, PolykitError] = {}
    try:
        networks = {cell: _Network(setup, cell) for cell in cells}
        _train(setup, store, networks)
    except PolykitError as error:
        if len(cells) == 1:
            return {cells[0].name: error}
        return {n: e for cell in cells for n, e in study(setup, store, [cell]).items()}
    for cell, network in networks.items():
        try:
            store.write_cell(cell.name, network.result())
        except PolykitError as error:
            failures[cell.name] = error
    return failures


def _train(setup: Setup, store: RunStore, networks: Mapping[Cell, _Network]) -> None:
    """Train networks in place, all from the same data and by the same optimiser."""
    cells = list(networks)
    jobs = [
        Job(
            networks[cell].model,
            setup.data[cell.data_seed],
            cell.seed,
            checkpoint=store.scratch(cell.name),
        )
        for cell in cells
    ]
    histories = train_together(
        jobs,
        setup.trainings[cells[0].optimizer],
        setup.config.epochs,
        device=setup.device,
        together=len(jobs),
        on_epoch=lambda place, epoch: networks[cells[place]].tell(epoch),
    )
    for cell, history in zip(cells, histories, strict=True):
        networks[cell].history = history


class _Network:
    """One cell's network, its weights at initialisation, and what the cell leaves behind."""

    history: History

    def __init__(self, setup: Setup, cell: Cell) -> None:
        self._setup, self._cell = setup, cell
        self._kind, self._data = setup.kinds[cell.scale], setup.data[cell.data_seed]
        self.model = setup.build(cell)
        self._start = {name: self._weight(name).clone() for name in self._kind.candidates.shapes}
        self._notices: list[str] = []

    def _weight(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()

    def tell(self, epoch: Epoch) -> None:
        """Tell the plugins of an epoch."""
        losses = {"loss": epoch.loss, "validation_loss": epoch.validation_loss}
        if epoch.validation_accuracy is not None:
            losses["validation_accuracy"] = epoch.validation_accuracy
        self._setup.registry.notify(
            "polykit_epoch",
            cell=self._cell.name,
            phase="train",
            epoch=epoch.epoch,
            epochs=self._setup.config.epochs,
            losses=losses,
            model=self.model,
        )

    def result(self) -> CellResult:
        """Everything the study asks of a trained network, ready for the store."""
        config, history = self._setup.config, self.history
        if not history.reached:
            self._say(
                f"training ended after {len(history.epochs)} epochs without reaching validation "
                f"loss {config.stop_loss:g}; give more --epochs, or another rate"
            )
        last = history.epochs[history.chosen - 1]
        whole = {
            "epochs": float(history.chosen),
            "validation_loss": last.validation_loss,
            "parameters": float(self._kind.candidates.full().total),
        }
        if last.validation_accuracy is not None:
            whole["validation_accuracy"] = last.validation_accuracy
        rows = [
            {"metric": "training", "layer": ALL_LAYERS, "statistic": name, "value": value}
            for name, value in whole.items()
        ]
        rows += [
            {
                "metric": "small-weights",
                "layer": name.removesuffix(".weight"),
                "statistic": "overlap",
                "value": smallest_overlap(before, self._weight(name), config.small),
            }
            for name, before in self._start.items()
        ]
        measured = measure(self._setup.metrics, self._subject())
        rows += measured.rows
        self._notices += [f"{self._cell.name}: {line}" for line in measured.notices]
        self._setup.registry.notify(
            "polykit_measured", cell=self._cell.name, stage="trained", rows=rows
        )
        paths = {label: self._trajectory(label) for label in self._setup.pruners}
        tables = {
            "rows": self._table(rows),
            "effective": self._table([self._effective(*found) for found in paths.items()]),
            "trajectory": self._table([row for found in paths.items() for row in _steps(*found)]),
            "history": self._table([vars(epoch) for epoch in history.epochs]),
        }
        if self._data.task == "classification":
            tables["correct"] = self._table(
                [
                    {"sample": number, "correct": right}
                    for number, right in enumerate(self._correct().tolist())
                ]
            )
        return CellResult(tables, notices=tuple(dict.fromkeys(self._notices)))

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        key = self._cell.key
        return pd.DataFrame([{**key, **row} for row in rows])

    def _say(self, text: str) -> None:
        self._notices.append(f"{self._cell.name}: {text}")

    def _subject(self) -> Subject:
        setup, kind = self._setup, self._kind
        return Subject(
            model=self.model,
            trace=kind.trace,
            layers=kind.layers,
            data=self._data,
            device=setup.device,
            batch_size=setup.config.eval_batch_size,
            spaces=setup.spaces,
            mask=kind.candidates.full(),
            cut=None,
        )

    def _trajectory(self, label: str) -> Trajectory:
        """Score the network once, prune it step by step, and evaluate each step."""
        setup, cell, data = self._setup, self._cell, self._data
        order = torch.randperm(len(data.train), generator=generator(cell.seed, "score"))
        size = min(256, setup.config.eval_batch_size)
        pruner = setup.pruners[label].instance
        cut = self._kind.candidates
        with blaming(pruner):
            scores = pruner.scores(
                self.model,
                setup.objective,
                Samples(data.train, order[: setup.config.score_samples], size),
                candidates=cut,
                mask=cut.full(),
                generator=generator(cell.seed, "prune", label),
            )
        return evaluate_steps(
            self.model,
            data.validation,
            data.task,
            removal(scores, setup.config.step),
            device=setup.device,
            flops=self._kind.trace.flops,
            batch_size=setup.config.eval_batch_size,
        )

    def _effective(self, label: str, found: Trajectory) -> dict[str, Any]:
        """The effective density and the size of the core; missing if nothing ever crossed."""
        config, data = self._setup.config, self._data
        step = found.effective_step(drop=config.fall, rise=config.rise)
        targets = torch.cat([y for _, y in data.validation.batches(4096)])
        for line in doubts(found, targets, data.outputs, drop=config.fall, rise=config.rise):
            self._say(f"{label}: {line}")
        return {
            "pruner": label,
            "parameters": found.total,
            "core": math.nan if step is None else float(found.kept[step]),
            "density": math.nan if step is None else float(found.densities[step]),
        }

    def _correct(self) -> Tensor:
        """Which validation samples the network gets right: bool `[n]`."""
        device, right = self._setup.device, []
        with evaluating(self.model), torch.no_grad():
            for x, y in self._data.validation.batches(self._setup.config.eval_batch_size):
                right.append(self.model(x.to(device)).argmax(1).cpu() == y)
        return torch.cat(right)


def _steps(label: str, found: Trajectory) -> list[dict[str, Any]]:
    """One row for each step of a trajectory."""
    accuracy = [math.nan] * len(found.loss) if found.accuracy is None else found.accuracy.tolist()
    columns = zip(
        found.kept.tolist(), found.densities.tolist(), found.loss.tolist(), accuracy, strict=True
    )
    return [
        {
            "pruner": label,
            "step": step,
            "kept": kept,
            "density": density,
            "loss": loss,
            "accuracy": share,
        }
        for step, (kept, density, loss, share) in enumerate(columns)
    ]
