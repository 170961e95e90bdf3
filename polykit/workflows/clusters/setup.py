"""From names to objects: everything the clusters of a network need, checked before a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.clusters.clustering import Recipe
from polykit.runtime.devices import pick_device
from polykit.runtime.passes.addressing import select_layers, select_units
from polykit.runtime.passes.reading import Reader, make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.samples.splits import stretches
from polykit.types import Data, Split, Trace
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.networks import Network, find_data, find_network
from polykit.workflows.plugins import check_options_used, slug

TOGETHER = 512
"""Units of a layer whose clusters are one cell."""

FEWEST, MOST = 100, 600
"""Top pictures of a unit, unless said otherwise: a tenth of all within these bounds."""


@dataclass(frozen=True)
class Cell:
    """One piece of the run: the network, a shard of activations, some units, or the thumbnails."""

    name: str
    kind: Literal["model", "activations", "units", "pictures"]
    layer: str = ""
    first: int = 0
    last: int = 0
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """A resolved run: the objects behind the names of a `ClustersConfig`.

    `readers` and `units` are by layer.
    """

    config: ClustersConfig
    registry: Registry
    data: Data
    network: Network
    device: torch.device
    trace: Trace
    readers: Mapping[str, Reader]
    units: Mapping[str, tuple[int, ...]]
    plugins: dict[str, Any]

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.config.dataset, self.config.model

    @property
    def split(self) -> Split:
        """The pictures that are looked at."""
        found: Split = getattr(self.data, self.config.split)
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels are called, by number if by nothing else; () where there are none."""
        if self.data.task != "classification":
            return ()
        return self.data.classes or tuple(str(label) for label in range(self.data.outputs))

    @property
    def epochs(self) -> int:
        """Training epochs before the network is looked at."""
        if self.config.epochs is not None:
            return self.config.epochs
        return 0 if self.network.trained else 30

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.config.threads or torch.get_num_threads()

    @property
    def top(self) -> int:
        """Top pictures of a unit."""
        tenth = round(len(self.split) / 10)
        return self.config.top or max(FEWEST, min(MOST, tenth))

    @property
    def recipe(self) -> Recipe:
        """How vectors are clustered."""
        config = self.config
        smallest = config.min_cluster_size or max(5, round(self.top / 20))
        return Recipe(config.scale, config.pca, smallest, config.min_samples)

    @property
    def model_cell(self) -> Cell:
        """The cell that trains or loads the network."""
        return Cell("model", "model")

    @property
    def shard_cells(self) -> list[Cell]:
        """One cell per shard of pictures, `first` to `last` not included; all of about one size.

        Where the pictures lie in archives, no shard goes beyond the end of one.
        """
        return [
            Cell(
                f"activations-{number:05d}",
                "activations",
                first=first,
                last=last,
                needs=(self.model_cell.name,),
            )
            for number, (first, last) in enumerate(stretches(self.split, self.config.shard_size))
        ]

    @property
    def unit_cells(self) -> list[Cell]:
        """One cell per layer, or several for a layer of very many units; `last` is included."""
        needs = tuple(cell.name for cell in self.shard_cells)
        return [
            Cell(
                f"units-{slug(layer)}-{part[0]:04d}-{part[-1]:04d}",
                "units",
                layer,
                part[0],
                part[-1],
                needs,
            )
            for layer, units in self.units.items()
            for part in (units[i : i + TOGETHER] for i in range(0, len(units), TOGETHER))
        ]

    @property
    def picture_cell(self) -> Cell:
        """The cell that keeps what is shown of pictures."""
        return Cell("pictures", "pictures", needs=tuple(cell.name for cell in self.unit_cells))

    @property
    def cells(self) -> list[Cell]:
        """All cells, in order."""
        return [self.model_cell, *self.shard_cells, *self.unit_cells, self.picture_cell]

    def chosen(self, cell: Cell) -> tuple[int, ...]:
        """The units of a cell."""
        return tuple(u for u in self.units[cell.layer] if cell.first <= u <= cell.last)

    def build(self) -> nn.Module:
        """Make the network anew, as it is before any training here."""
        return self.network.build(self.data, self.config.seed, self.device)


def resolve(
    config: ClustersConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    `model` and `data` are a Python caller's own objects. Raises PolykitError with what does not
    fit and why.
    """
    device = pick_device(config.device)
    found, dataset_record = find_data(config.dataset, registry, config.options, data)
    network = find_network(config.model, config.checkpoint, registry, config.options, model)
    check_options_used(config, {dataset_record["name"], network.record["name"]}, ())
    _check_sense(config)
    probe = network.build(found, config.seed, torch.device("cpu"))
    x, _ = next(found.test.batches(1))
    path = trace(probe, x)
    units = _units(config, path)
    return Setup(
        config=config,
        registry=registry,
        data=found,
        network=network,
        device=device,
        trace=path,
        readers={
            layer: make_reader(
                probe, path, layer, position=config.position, way=config.center, at=config.at
            )
            for layer in units
        },
        units=units,
        plugins={"dataset": dataset_record, "model": network.record},
    )


def _check_sense(config: ClustersConfig) -> None:
    """Refuse options that contradict each other or would do nothing."""
    if config.position != "center" and config.center != "auto":
        raise UsageError(
            f"--center {config.center} says how the centre is read; with --position "
            f"{config.position} the whole map is: drop one of them"
        )
    smallest, top = config.min_cluster_size, config.top
    if smallest is not None and top is not None and top < 2 * smallest:
        raise UsageError(
            f"{top} top pictures cannot hold two clusters of {smallest}; raise --top to "
            f"{2 * smallest}, or lower --min-cluster-size"
        )


def _units(config: ClustersConfig, path: Trace) -> dict[str, tuple[int, ...]]:
    """Return the units asked for, by layer in order of the forward pass."""
    named = [text for text in config.units if ":" in text]
    layers: tuple[str, ...] = ()
    if config.layers:
        layers = select_layers(path, config.layers)
    elif len(named) < len(config.units):
        layers = (_last_convolution(path),)
    patterns = [f"{layer}:{text}" for layer in layers for text in config.units if ":" not in text]
    found: dict[str, set[int]] = {}
    for pattern in (*named, *patterns):
        for unit in select_units(path, pattern):
            found.setdefault(unit.layer, set()).add(unit.index)
    if idle := [layer for layer in layers if layer not in found]:
        raise UsageError(f"--layer {idle[0]}: no unit of it is asked for; drop it, or add --unit")
    order = list(dict.fromkeys(call.layer for call in path.calls))
    return {layer: tuple(sorted(found[layer])) for layer in order if layer in found}


def _last_convolution(path: Trace) -> str:
    convolutions = [layer for layer in path.layers if path.of(layer)[0].kind == "conv"]
    hidden = convolutions or [layer for layer in path.layers if layer != path.output_layer]
    if not hidden:
        raise UsageError("the network has no hidden layer to look at; name one with --layer")
    return hidden[-1]
