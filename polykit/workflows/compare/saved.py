"""Networks that were trained before: in a run of `analyze` or `map`, or in a file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from polykit.errors import ModelError, RunError, UsageError, did_you_mean
from polykit.registry import Registry
from polykit.runtime.pruning.structure import keep_units
from polykit.runtime.store import RunStore
from polykit.runtime.training.checkpoints import load_weights
from polykit.types import Data
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.analyze.setup import DENSE, Cell
from polykit.workflows.map.config import MapConfig
from polykit.workflows.map.setup import analysis_at, point_of
from polykit.workflows.networks import Network, find_network
from polykit.workflows.plugins import create

WEIGHTS, UNITS = "model.safetensors", "units.safetensors"


@dataclass(frozen=True)
class Place:
    """Where a network is: a cell of a run of `analyze` or `map`, or a file of weights (no cell)."""

    path: Path
    cell: str = ""

    @property
    def label(self) -> str:
        """What to call the network."""
        return f"{self.path.name}:{self.cell}" if self.cell else self.path.name


def find(text: str) -> Place:
    """Read RUN, RUN:SEED, RUN:CELL or FILE; a run alone stands for its only dense network.

    Raises UsageError for what is none of these, with what the run has.
    """
    if Path(text).is_file():
        return Place(Path(text))
    path, cell = Path(text), ""
    if not path.is_dir():
        before, _, cell = text.rpartition(":")
        path = Path(before)
    if path == Path() or not (path / "run.json").is_file():
        raise UsageError(
            f"{text!r} is no network: neither a run, RUN:SEED, RUN:CELL nor a file of weights; "
            f"`polykit runs list` shows runs"
        )
    store = RunStore.open(path)
    if store.workflow not in ("analyze", "map"):
        raise UsageError(
            f"{path} is a run of {store.workflow!r}; give one of analyze or map, or a weights file"
        )
    cells = [str(name) for name in store.meta["cells"]]
    if cell.isdigit():
        cell = Cell(int(cell)).name
    dense = [name for name in cells if name.endswith(f"-{DENSE}")]
    if not cell and len(dense) == 1:
        cell = dense[0]
    if cell not in cells:
        listed = ", ".join(f"{path}:{name}" for name in cells[:8])
        what = f"has no network {cell!r}.{did_you_mean(cell, cells)}" if cell else "has several."
        raise UsageError(f"the run {path} {what} Name one, such as {listed}")
    if not store.has(cell):
        raise RunError(f"{path}:{cell} is not finished; go on with: polykit run --resume {path}")
    return Place(path, cell)


def config_of(place: Place) -> AnalyzeConfig:
    """Read the analysis that a cell is of.

    Raises RunError where its network or data cannot be made again from their names.
    """
    meta = RunStore.open(place.path).meta
    for kind in ("model", "dataset"):
        record = meta["plugins"][kind]
        if not record["distribution"]:
            raise RunError(
                f"{place.path} looked at a {kind} made in Python ({record['name']}), which cannot "
                f"be made again from its name; hand the networks over from Python: polykit.compare"
            )
    try:
        if meta["workflow"] == "map":
            return analysis_at(MapConfig(**meta["config"]), point_of(place.cell))
        return AnalyzeConfig(**meta["config"])
    except ValidationError as error:
        raise RunError(
            f"{place.path / 'run.json'} holds a configuration that this polykit cannot read: "
            f"{error.errors()[0]['msg']}"
        ) from None


def network_of(place: Place, registry: Registry) -> Network:
    """Return how the network of a run's cell is made, before its weights are loaded."""
    config = config_of(place)
    return find_network(config.model, None, registry, config.options)


def dataset_record(place: Place, registry: Registry) -> dict[str, Any]:
    """Return the record of the data that the network of a run's cell was trained on."""
    config = config_of(place)
    return create("dataset", config.dataset, registry, config.options).record


def load(place: Place, network: Network, data: Data) -> nn.Module:
    """Build a network and give it the weights that are saved in `place`, on the CPU.

    Raises ModelError or RunError where they are not there or do not fit.
    """
    model = network.build(data, 0, torch.device("cpu"))
    if not place.cell:
        load_weights(model, place.path)
        return model.eval()
    store = RunStore.open(place.path)
    folder = store.cell(place.cell)
    if (folder / UNITS).is_file():  # structural pruning left a smaller network
        units = store.read_tensors(place.cell, UNITS)
        keep = {name.removeprefix("units/"): kept for name, kept in units.items()}
        model = keep_units(model, next(data.test.batches(1))[0], keep).model
    if not (folder / WEIGHTS).is_file():
        raise RunError(
            f"{place.path} kept no weights of {place.cell}; repeat the analysis with --keep-weights"
        )
    try:
        load_weights(model, store.file(place.cell, WEIGHTS))
    except ModelError as error:
        raise ModelError(f"{place.label}: {error}") from None
    return model.eval()
