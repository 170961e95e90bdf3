"""One cell's network on its way: what is measured of it, and what the cell leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from torch import Tensor, nn

from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import apply_mask, dead_layers, mask_bytes
from polykit.runtime.store import CellResult, tensor_bytes
from polykit.runtime.training.loop import Epoch, History
from polykit.types import Mask, Smaller, Subject
from polykit.workflows.analyze.setup import Cell, Setup
from polykit.workflows.epochs import tell_epoch
from polykit.workflows.measuring import headlines, measure

Look = Callable[[Subject, str], CellResult]
"""Looks at a network once more, at a stage: tables without the cell's key, files, and remarks."""


def nothing_more(subject: Subject, stage: str) -> CellResult:
    """Look at a network with its metrics only."""
    return CellResult({})


class Network:
    """One cell's network on its way; `look` sees it at each stage, beside the metrics."""

    def __init__(
        self, setup: Setup, cell: Cell, model: nn.Module, look: Look = nothing_more
    ) -> None:
        self._setup, self.cell, self.model, self._look = setup, cell, model, look
        self.mask: Mask | None = None
        self._cut: Smaller | None = None
        self._trace = setup.trace
        self._rows: list[dict[str, Any]] = []
        self._units: list[pd.DataFrame] = []
        self._more: dict[str, list[pd.DataFrame]] = {}
        self._history: list[dict[str, Any]] = []
        self._epochs: list[dict[str, Any]] = []
        self._arrays: dict[str, Tensor] = {}
        self._tensors: dict[str, bytes] = {}
        self._notices: list[str] = []
        self._key: dict[str, Any] = {
            "seed": cell.seed,
            "pruner": cell.pruner,
            "density": cell.density,
        }

    def on_epoch(self, phase: str, epochs: int) -> Callable[[Epoch], None]:
        """Return the callback that tells the plugins of each epoch, and tracks metrics."""
        tracked = self._setup.tracked

        def tell(epoch: Epoch) -> None:
            tell_epoch(
                self._setup.registry,
                epoch,
                cell=self.cell.name,
                phase=phase,
                epochs=epochs,
                model=self.model,
            )
            if tracked:
                place = {**self._key, "phase": phase, "epoch": epoch.epoch}
                self._epochs += [
                    {**place, **row} for row in headlines(tracked, self._subject(self.model))
                ]

        return tell

    def note(self, line: str) -> None:
        """Keep a remark for the reader."""
        self._notices.append(f"{self.cell.name}: {line}")

    def trained(self, phase: str, history: History) -> None:
        """Keep the training curve; say so if the loss to stop at was never reached."""
        for epoch in history.epochs:
            self._history.append({**self._key, "phase": phase, **vars(epoch)})
        if not history.reached:
            self._notices.append(
                f"{self.cell.name}: {phase} ended after {len(history.epochs)} epochs without "
                f"reaching validation loss {self._setup.config.stop_loss:g}; give more --epochs"
            )

    def pruned(self, found: Mask | Smaller) -> None:
        """Become what the pruner left; keep which parts those are."""
        if isinstance(found, Smaller):
            self._cut, self.model = found, found.model
            example = next(self._setup.data.test.batches(1))[0].to(self._setup.device)
            self._trace = trace(found.model, example)
            units = {f"units/{layer}": kept for layer, kept in found.units.items()}
            self._tensors["units.safetensors"] = tensor_bytes(units)
            self._notices += [f"{self.cell.name}: {line}" for line in found.notices]
        else:
            self.mask = found
            self._tensors["mask.safetensors"] = mask_bytes(found, {"cell": self.cell.name})
            dead = dead_layers(self.model, self._setup.trace, found)
            if dead:
                self._notices.append(
                    f"{self.cell.name}: {', '.join(dead)} keeps no weight, so nothing of the input "
                    f"passes; --scope layer or a higher density avoids that"
                )
            apply_mask(self.model, found)
        self._setup.registry.notify(
            "polykit_pruned",
            cell=self.cell.name,
            pruner=self.cell.pruner,
            density=self.cell.density,
            achieved=self._density,
            mask=self.mask,
        )

    @property
    def _density(self) -> float:
        kept = self.mask or self._cut
        return 1.0 if kept is None else kept.density

    def _subject(self, model: nn.Module) -> Subject:
        setup = self._setup
        mask = self.mask
        if mask is None and self._cut is None:
            mask = setup.candidates.full()
        return Subject(
            model=model,
            trace=self._trace,
            layers=setup.layers,
            data=setup.data,
            device=setup.device,
            batch_size=setup.config.eval_batch_size,
            spaces=setup.spaces,
            mask=mask,
            cut=self._cut,
        )

    def measure(self, stage: str, model: nn.Module | None = None) -> None:
        """Let every metric look at the network once, or at a `model` of its shape instead."""
        subject = self._subject(self.model if model is None else model)
        found = measure(self._setup.metrics, subject)
        place = {**self._key, "achieved_density": self._density, "stage": stage}
        rows = [{**place, **row} for row in found.rows]
        self._rows += rows
        self._units += [units.assign(**self._key, stage=stage) for units in found.units]
        self._arrays |= {f"{stage}/{name}": array for name, array in found.arrays.items()}
        self._notices += found.notices
        self._setup.registry.notify("polykit_measured", cell=self.cell.name, stage=stage, rows=rows)
        more = self._look(subject, stage)
        for name, table in more.tables.items():
            self._more.setdefault(name, []).append(table.assign(**self._key, stage=stage))
        self._tensors |= {f"{stage}-{name}": content for name, content in more.tensors.items()}
        self._notices += [f"{self.cell.name}, {stage}: {line}" for line in more.notices]

    def result(self, tensors: Mapping[str, bytes]) -> CellResult:
        """Everything, ready for the store."""
        files = {**self._tensors, **tensors}
        if self._arrays:
            files["arrays.safetensors"] = tensor_bytes(self._arrays)
        tables = {"rows": pd.DataFrame(self._rows)}
        if self._units:
            tables["units"] = pd.concat(self._units, ignore_index=True)
        if self._epochs:
            tables["epochs"] = pd.DataFrame(self._epochs)
        if self._history:
            history = pd.DataFrame(self._history)
            tables["history"] = history.astype({"validation_accuracy": "float64"})
        tables |= {n: pd.concat(parts, ignore_index=True) for n, parts in self._more.items()}
        return CellResult(tables, files, tuple(dict.fromkeys(self._notices)))
