"""The main job: train, measure, prune, measure, retrain, measure; cell by cell."""

from __future__ import annotations

import copy
import logging
import math
import platform
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from polykit.errors import DataError, ModelError, PluginError, PolykitError, UsageError
from polykit.runtime.blame import blaming
from polykit.runtime.devices import cpu_threads
from polykit.runtime.masking import apply_mask, dead_layers, mask_bytes
from polykit.runtime.measuring import measure_all
from polykit.runtime.seeds import generator
from polykit.runtime.store import CellResult, RunStore, empty, tensor_bytes
from polykit.runtime.training import Epoch, History, train
from polykit.types import Mask, Split, Subject
from polykit.workflows.setup import DENSE, Cell, Setup

_log = logging.getLogger("polykit")


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data = setup.data
    return {
        "polykit": version("polykit"),
        "workflow": "analyze",
        "status": "running",
        "config": setup.config.model_dump(mode="json"),
        "plugins": setup.plugins,
        "epochs": {"train": setup.epochs, "retrain": setup.retrain_epochs},
        "layers": list(setup.layers),
        "environment": _environment(setup),
        "data": {
            "name": data.name,
            "task": data.task,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "outputs": data.outputs,
            "classes": list(data.classes),
            "skipped": [],
        },
        "cells": [cell.name for cell in [*setup.dense_cells, *setup.pruned_cells]],
        "failures": {},
        "notices": [],
        "command": command,
    }


def run(setup: Setup, store: RunStore) -> dict[str, str]:
    """Run every cell that is not done yet, write the tables, and return the failures by cell.

    A cell that fails does not stop the others, but what no cell could survive (data, model or
    usage errors of a dense network) does: it is raised. Ctrl-C is raised too; what is done stays,
    and `run` goes on from there when called again.
    """
    registry, meta = setup.registry, store.meta
    meta["status"] = "running"
    store.write_meta(meta)
    registry.notify(
        "polykit_run_started", path=store.path, config=meta["config"], cells=meta["cells"]
    )
    failures: dict[str, str] = {}
    status = "interrupted"
    try:
        engine = registry.create("engine", setup.config.engine).instance
        with engine.executor() as executor, cpu_threads(setup.threads):
            dense = partial(dense_cell, setup, store)
            failures |= _sweep(executor, dense, setup.dense_cells, store)
            lost = {cell.seed for cell in setup.dense_cells if cell.name in failures}
            ready = [cell for cell in setup.pruned_cells if cell.seed not in lost]
            failures |= _sweep(executor, partial(pruned_cell, setup, store), ready, store)
            for cell in setup.pruned_cells:
                if cell.seed in lost:
                    failures[cell.name] = "not run: the dense network of this seed failed"
        store.collect(meta["cells"])
        status = "failed" if failures else "complete"
    except PolykitError:
        status = "failed"
        raise
    finally:
        meta |= {"status": status, "failures": failures, "notices": store.notices(meta["cells"])}
        meta["data"]["skipped"] = setup.data.skipped()
        store.write_meta(meta)
        registry.notify("polykit_run_finished", path=store.path, status=status, failures=failures)
    return failures


def _sweep(
    executor: Executor, work: Callable[[Cell], None], cells: list[Cell], store: RunStore
) -> dict[str, str]:
    """Map one function over the cells that are not done; return messages of those that failed."""
    failures = {}
    futures = [(cell, executor.submit(work, cell)) for cell in cells if not store.has(cell.name)]
    for cell, future in futures:
        error = future.exception()
        if error is None:
            continue
        if not isinstance(error, PolykitError):
            raise error
        if cell.pruner == DENSE and isinstance(error, DataError | ModelError | UsageError):
            raise error
        _log.error("%s failed: %s", cell.name, error)
        failures[cell.name] = str(error)
    return failures


def dense_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Train (or load) one seed's network, measure it, and keep its weights."""
    recorder = _Recorder(setup, cell)
    model = setup.build(cell.seed)
    history = train(
        model,
        setup.data,
        setup.config.training,
        setup.epochs,
        seed=cell.seed,
        device=setup.device,
        checkpoint=store.scratch(cell.name),
        on_epoch=recorder.on_epoch(model, "train", setup.epochs),
    )
    recorder.trained("train", history)
    recorder.measure(model, DENSE, None)
    recorder.tensors["model.safetensors"] = tensor_bytes(model.state_dict())
    store.write_cell(cell.name, recorder.result())


def pruned_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Prune one seed's network with one pruner to one density; measure; retrain; measure."""
    recorder = _Recorder(setup, cell)
    model = setup.build(cell.seed)
    if setup.config.prune_at == "trained":
        model.load_state_dict(store.read_tensors(Cell(cell.seed).name, "model.safetensors"))
    model.eval()
    mask = _prune(setup, cell, model)
    recorder.pruned(model, mask)
    apply_mask(model, mask)
    recorder.measure(model, "pruned", mask)
    if setup.retrain_epochs:
        history = train(
            model,
            setup.data,
            setup.config.training,
            setup.retrain_epochs,
            seed=cell.seed,
            device=setup.device,
            mask=mask,
            checkpoint=store.scratch(cell.name),
            on_epoch=recorder.on_epoch(model, "retrain", setup.retrain_epochs),
        )
        recorder.trained("retrain", history)
        recorder.measure(model, "retrained", mask)
    store.write_cell(cell.name, recorder.result())


@dataclass(frozen=True)
class ScoreBatches:
    """A fixed choice of training samples, read in chunks as often as a pruner wants."""

    split: Split
    order: Tensor
    batch_size: int

    def __iter__(self) -> Any:
        return self.split.batches(self.batch_size, order=self.order)


def _prune(setup: Setup, cell: Cell, model: nn.Module) -> Mask:
    config, chosen = setup.config, setup.pruners[cell.pruner]
    order = torch.randperm(len(setup.data.train), generator=generator(cell.seed, "score"))
    batches = ScoreBatches(
        setup.data.train, order[: config.score_samples], min(256, config.eval_batch_size)
    )

    def trained(network: nn.Module, mask: Mask) -> nn.Module:
        clone = copy.deepcopy(network)
        train(
            clone,
            setup.data,
            config.training,
            setup.retrain_epochs,
            seed=cell.seed,
            device=setup.device,
            mask=mask,
        )
        return clone

    with blaming(chosen.instance):
        mask = chosen.instance.prune(
            model,
            setup.objective,
            batches,
            density=cell.density,
            candidates=setup.candidates,
            generator=generator(cell.seed, "prune", cell.pruner, cell.density),
            train=trained,
        )
    if not isinstance(mask, Mask):
        raise PluginError(
            f"pruner {cell.pruner!r} ({chosen.distribution}) gave {type(mask).__name__}, no Mask"
        )
    return mask


class _Recorder:
    """Collects what one cell leaves behind."""

    def __init__(self, setup: Setup, cell: Cell) -> None:
        self._setup, self._cell = setup, cell
        self._rows: list[dict[str, Any]] = []
        self._units: list[pd.DataFrame] = []
        self._history: list[dict[str, Any]] = []
        self._arrays: dict[str, Tensor] = {}
        self._notices: list[str] = []
        self._key = {"seed": cell.seed, "pruner": cell.pruner, "density": cell.density}
        self.tensors: dict[str, bytes] = {}

    def on_epoch(self, model: nn.Module, phase: str, epochs: int) -> Callable[[Epoch], None]:
        """Return the callback that tells the plugins of each epoch."""

        def tell(epoch: Epoch) -> None:
            losses = {"loss": epoch.loss, "validation_loss": epoch.validation_loss}
            if epoch.validation_accuracy is not None:
                losses["validation_accuracy"] = epoch.validation_accuracy
            self._setup.registry.notify(
                "polykit_epoch",
                cell=self._cell.name,
                phase=phase,
                epoch=epoch.epoch,
                epochs=epochs,
                losses=losses,
                model=model,
            )

        return tell

    def trained(self, phase: str, history: History) -> None:
        """Keep the training curve; say so if the loss to stop at was never reached."""
        for epoch in history.epochs:
            self._history.append({**self._key, "phase": phase, **vars(epoch)})
        if not history.reached:
            self._notices.append(
                f"{self._cell.name}: {phase} ended after {len(history.epochs)} epochs without "
                f"reaching validation loss {self._setup.config.stop_loss:g}; give more --epochs"
            )

    def pruned(self, model: nn.Module, mask: Mask) -> None:
        """Keep the mask; say so if it cuts a layer off."""
        self.tensors["mask.safetensors"] = mask_bytes(mask, {"cell": self._cell.name})
        dead = dead_layers(model, self._setup.trace, mask)
        if dead:
            self._notices.append(
                f"{self._cell.name}: {', '.join(dead)} keeps no weight, so nothing of the input "
                f"passes; --scope layer or a higher density avoids that"
            )
        self._setup.registry.notify(
            "polykit_pruned",
            cell=self._cell.name,
            pruner=self._cell.pruner,
            density=self._cell.density,
            mask=mask,
        )

    def measure(self, model: nn.Module, stage: str, mask: Mask | None) -> None:
        """Let every metric look at the network once."""
        setup = self._setup
        subject = Subject(
            model=model,
            trace=setup.trace,
            layers=setup.layers,
            data=setup.data,
            device=setup.device,
            batch_size=setup.config.eval_batch_size,
            feature_space=setup.feature_space,
            mask=setup.candidates.full() if mask is None else mask,
        )
        results = measure_all([c.instance for c in setup.metrics.values()], subject)
        density = 1.0 if mask is None else mask.density
        new = []
        for label, result in zip(setup.metrics, results, strict=True):
            for layer, statistic, value in result.rows():
                if math.isnan(value):
                    self._notices.append(f"{label}: {statistic} of {layer} is undefined; left out")
                    continue
                place = {"metric": label, "layer": layer, "statistic": statistic}
                new.append(
                    {**self._key, "achieved_density": density, "stage": stage, **place}
                    | {"value": value}
                )
            if result.units is not None and len(result.units):
                self._units.append(_long(result.units, {**self._key, "stage": stage}, label))
            for name, array in result.arrays.items():
                self._arrays[f"{stage}/{label}/{name}"] = array
        self._rows += new
        setup.registry.notify("polykit_measured", cell=self._cell.name, stage=stage, rows=new)

    def result(self) -> CellResult:
        """Everything, ready for the store."""
        tensors = dict(self.tensors)
        if self._arrays:
            tensors["arrays.safetensors"] = tensor_bytes(self._arrays)
        history = pd.DataFrame(self._history) if self._history else empty("history")
        return CellResult(
            {
                "rows": pd.DataFrame(self._rows),
                "units": pd.concat(self._units, ignore_index=True)
                if self._units
                else empty("units"),
                "history": history.astype({"validation_accuracy": "float64"}),
            },
            tensors,
            tuple(dict.fromkeys(self._notices)),
        )


def _long(units: pd.DataFrame, key: Mapping[str, Any], metric: str) -> pd.DataFrame:
    """One row per unit and statistic; undefined values are left out."""
    table = units.melt(["layer", "unit"], var_name="statistic", value_name="value")
    table = table.dropna(subset=["value"]).astype({"value": "float64", "unit": "int64"})
    return table.assign(**key, metric=metric)


def _environment(setup: Setup) -> dict[str, Any]:
    """What else decides the numbers: versions, device, threads, and the state of the checkout."""
    libraries = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "captum")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(setup.device),
        "threads": setup.threads,
        "git": _git(),
        **{name: version(name) for name in libraries},
    }


def _git() -> str:
    """The commit of the working directory, `-dirty` if changed, or empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
