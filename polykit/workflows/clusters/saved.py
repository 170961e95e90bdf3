"""A finished run of `clusters`, opened again: its network, pictures, activations and members."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from pydantic import ValidationError
from torch import nn

from polykit.errors import RunError, UsageError, did_you_mean
from polykit.registry import Registry
from polykit.runtime.passes.reading import Reader, make_reader
from polykit.runtime.samples.shards import FILE, Shards
from polykit.runtime.store import RunStore, SavedRun
from polykit.types import At, Data, Split, Trace, UnitRef
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.setup import Setup, resolve


@dataclass(frozen=True)
class SavedClusters:
    """A run and the objects behind it. Tables are read when asked for."""

    path: Path
    setup: Setup

    @property
    def config(self) -> ClustersConfig:
        """The run's configuration."""
        return self.setup.config

    @property
    def data(self) -> Data:
        """The data that the network was trained for."""
        return self.setup.data

    @property
    def split(self) -> Split:
        """The pictures that were looked at; `picture` in the tables is an index into it."""
        return self.setup.split

    @property
    def trace(self) -> Trace:
        """One pass through the network."""
        return self.setup.trace

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that were looked at."""
        return tuple(self.setup.units)

    @cached_property
    def run(self) -> SavedRun:
        """The run's record and tables; raises RunError if it is unfinished or damaged."""
        return RunStore.open(self.path).load()

    def network(self) -> nn.Module:
        """Return the network that was looked at, in evaluation mode; a new one each time."""
        model = self.setup.build()
        store = RunStore.open(self.path)
        weights = store.read_tensors(self.setup.model_cell.name, "model.safetensors")
        model.load_state_dict(weights)
        return model.eval()

    def fresh(self, seed: int) -> nn.Module:
        """Return a network of the same architecture with random weights, in evaluation mode."""
        return self.setup.network.redrawn(self.setup.build(), seed)

    def reader(self, layer: str, at: At | None = None) -> Reader:
        """Return what reads a layer as the run did, or elsewhere: `at` its nonlinearity."""
        own = self.setup.readers.get(layer)
        if own is not None and at in (None, own.at):
            return own
        config = self.config
        return make_reader(
            self.network(),
            self.trace,
            layer,
            position=config.position,
            way=config.center,
            at=at or config.at,
        )

    def activations(self, layer: str) -> Shards:
        """Return a layer's activations on all pictures, streamed from the disk."""
        self._check(layer)
        store = RunStore.open(self.path)
        return Shards(tuple(store.file(c.name, FILE) for c in self.setup.shard_cells), layer)

    def members(self, unit: UnitRef) -> pd.DataFrame:
        """Return a unit's top pictures: rank, picture, activation, cluster, probability.

        Raises UsageError for a unit that the run did not look at.
        """
        self._check(unit.layer)
        if unit.index not in self.setup.units[unit.layer]:
            raise UsageError(
                f"the run did not look at {unit}; of {unit.layer} it has "
                f"{_ranges(self.setup.units[unit.layer])}"
            )
        table = self.run.tables["members"]
        mine = table[(table["layer"] == unit.layer) & (table["unit"] == unit.index)]
        return mine.drop(columns=["layer", "unit"]).reset_index(drop=True)

    def ranked(self) -> tuple[UnitRef, ...]:
        """Return the units that the run looked at, the most polysemantic first."""
        rows = self.run.rows
        scores = rows[rows["statistic"] == "score"]
        scores = scores.sort_values("value", ascending=False, kind="stable")
        return tuple(
            UnitRef(str(layer), int(unit))
            for layer, unit in zip(scores["layer"], scores["unit"], strict=True)
        )

    def _check(self, layer: str) -> None:
        if layer not in self.layers:
            raise UsageError(
                f"the run did not look at layer {layer!r}.{did_you_mean(layer, self.layers)} "
                f"It has {', '.join(self.layers)}"
            )


def open_clusters(
    path: Path,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    device: str | None = None,
) -> SavedClusters:
    """Open a run of `clusters`.

    `model` and `data` stand in for a Python caller's own objects, which the run can't make again.
    Raises RunError where `path` is no such run, or it needs them.
    """
    store = RunStore.open(path)
    if store.workflow != "clusters":
        raise RunError(
            f"{path} is a run of {store.workflow!r}; give one of clusters: `polykit runs list`"
        )
    meta = store.meta
    try:
        config = ClustersConfig(**meta["config"])
    except ValidationError as error:
        raise RunError(
            f"{path / 'run.json'} holds a configuration that this polykit cannot read: "
            f"{error.errors()[0]['msg']}"
        ) from None
    for kind, own in (("model", model), ("dataset", data)):
        if own is None and not meta["plugins"][kind]["distribution"]:
            raise RunError(
                f"{path} looked at a {kind} made in Python ({meta['plugins'][kind]['name']}), "
                f"which cannot be made again from its name; hand it over from Python, too"
            )
    # the weights are in the run, so a checkpoint may be gone by now
    changes = {"checkpoint": None, "device": device or config.device}
    setup = resolve(config.model_copy(update=changes), registry, model=model, data=data)
    return SavedClusters(path, setup)


def _ranges(units: tuple[int, ...]) -> str:
    """Write units as on the command line.

    >>> _ranges((0, 1, 2, 7))
    '0-2,7'
    """
    parts: list[list[int]] = []
    for unit in units:
        if parts and parts[-1][-1] == unit - 1:
            parts[-1].append(unit)
        else:
            parts.append([unit])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
