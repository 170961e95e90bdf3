"""One trained network of the study, and what can be asked of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from polykit.api import Pruner
from polykit.errors import PluginError
from polykit.runtime.blame import blaming
from polykit.runtime.progress import watching
from polykit.runtime.samples.splits import Samples
from polykit.runtime.seeds import generator
from polykit.runtime.training.loop import train
from polykit.types import Candidates, Data, Mask, Objective, Subject
from polykit.workflows.density.setup import Cell, Kind, Setup

SCORE_BATCH = 256
"""Samples that a pruner looks at together, at most."""


@dataclass(frozen=True)
class Network:
    """A cell's network; `model` is trained, in evaluation mode, and left as it is."""

    setup: Setup
    cell: Cell
    model: nn.Module

    @property
    def kind(self) -> Kind:
        """What all networks of its width share."""
        return self.setup.kinds[self.cell.scale]

    @property
    def data(self) -> Data:
        """The data it was trained on."""
        return self.setup.splits.data(self.cell.data_seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """What its outputs are called; their numbers where they have no names."""
        return self.data.classes or tuple(map(str, range(self.data.outputs)))

    def start(self) -> nn.Module:
        """Make the network as it was before any training."""
        return self.setup.build(self.cell).eval()

    def train(self, network: nn.Module, mask: Mask, *, epochs: int | None = None) -> nn.Module:
        """Return a copy of `network`, trained under a mask as the study trains all networks."""
        clone, config = copy.deepcopy(network), self.setup.config
        train(
            clone,
            self.data,
            self.setup.trainings[self.cell.optimizer],
            config.epochs if epochs is None else epochs,
            seed=self.cell.seed,
            device=self.setup.device,
            mask=mask,
        )
        return clone

    def subject(self, model: nn.Module, mask: Mask) -> Subject:
        """Put a network of this kind under the metrics; `mask` is applied already."""
        setup = self.setup
        return Subject(
            model=model,
            trace=self.kind.trace,
            layers=self.kind.layers,
            data=self.data,
            device=setup.device,
            batch_size=setup.config.eval_batch_size,
            spaces=setup.splits.spaces(self.cell.data_seed),
            mask=mask,
        )

    def samples(self) -> Samples:
        """The training samples that pruners may look at, drawn for this network's seed."""
        config, data = self.setup.config, self.data
        order = torch.randperm(len(data.train), generator=generator(self.cell.seed, "score"))
        size = min(SCORE_BATCH, config.eval_batch_size)
        return Samples(data.train, order[: config.score_samples], size)

    def prepared(self, label: str, pruner: Pruner) -> nn.Module:
        """Return the network that a pruner seeks in: the trained one, or that at the start."""
        with blaming(pruner):
            return pruner.prepare(
                self.start() if pruner.trains else self.model,
                candidates=self.kind.candidates,
                generator=generator(self.cell.seed, "prepare", label),
                train=self.train,
            ).eval()

    def prune(
        self,
        label: str,
        pruner: Pruner,
        network: nn.Module,
        density: float,
        *,
        objective: Objective | None = None,
        batches: Samples | None = None,
        candidates: Candidates | None = None,
        use: str = "prune",
    ) -> Mask:
        """Let a pruner find a mask in `network`; by default, one for the task."""
        told = partial(
            self.setup.registry.notify, "polykit_pruning", cell=self.cell.name, pruner=label
        )
        with blaming(pruner), watching(told):
            found: Any = pruner.prune(
                network,
                objective or self.setup.objective,
                batches or self.samples(),
                density=density,
                candidates=candidates or self.kind.candidates,
                generator=generator(self.cell.seed, use, label, density),
                train=self.train,
            )
        if not isinstance(found, Mask):
            raise PluginError(f"pruner {label!r} gave {type(found).__name__}, no Mask")
        return found

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Put what names the network in front of rows."""
        return pd.DataFrame([{**self.cell.key, **row} for row in rows])
