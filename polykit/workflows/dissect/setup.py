"""From names to cells: the units of a run, what is cut out of them, and the controls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from polykit.api import Pruner
from polykit.entries import Chosen
from polykit.errors import DataError, UsageError
from polykit.registry import Registry
from polykit.runtime.passes.addressing import select_units
from polykit.runtime.passes.reading import Reader
from polykit.runtime.pruning.masking import candidates
from polykit.runtime.samples.splits import indexed
from polykit.runtime.seeds import generator
from polykit.types import Candidates, Data, UnitRef
from polykit.workflows.clusters.saved import SavedClusters, open_clusters
from polykit.workflows.dissect.config import DENSITY, DissectConfig
from polykit.workflows.dissect.parts import NEITHER, Pictures, Surgery, held_out_rows
from polykit.workflows.plugins import check_options_used, choose, slug

Control = Literal["own", "unit", "weights", "labels"]
"""Where a part is sought: in the unit itself, or, as a control, in another unit, in a network with
random weights, or for clusters whose labels are shuffled."""


@dataclass(frozen=True)
class Cell:
    """One part: of a unit and a cluster, by a pruner, at a density (1: the pruner chooses).

    `read` is the unit in which it is sought: the unit itself, unless it is a control.
    """

    unit: UnitRef
    cluster: int
    pruner: str
    density: float
    control: Control
    read: UnitRef

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        what = f"{self.unit.layer}-{self.unit.index}-{self.cluster}-{self.pruner}"
        asked = "" if self.density == 1 else f"-{self.density:g}"
        place = "own" if self.control == "own" else f"{self.control}-{self.read.index}"
        return slug(f"{what}{asked}-{place}")

    @property
    def needs(self) -> tuple[str, ...]:
        """None: each part is found by itself."""
        return ()


@dataclass(frozen=True)
class OverlapCell:
    """How much the parts of one unit's clusters share; it needs them all."""

    unit: UnitRef
    parts: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        return slug(f"{self.unit.layer}-{self.unit.index}-overlaps")

    @property
    def needs(self) -> tuple[str, ...]:
        """The unit's own parts."""
        return tuple(part.name for part in self.parts)


@dataclass
class Setup:
    """A resolved `DissectConfig`. `others` are, for each unit, the units to try the same on."""

    config: DissectConfig
    registry: Registry
    clusters: SavedClusters
    pruners: Mapping[str, Chosen]
    units: tuple[UnitRef, ...]
    others: Mapping[UnitRef, tuple[UnitRef, ...]]
    plugins: dict[str, Any]
    _pictures: dict[UnitRef, Pictures] = field(default_factory=dict)

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return tuple(map(str, self.units[:2]))

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.clusters.setup.device

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.config.threads or torch.get_num_threads()

    @property
    def settings(self) -> list[tuple[str, float]]:
        """Every pruner with every density; 1 where the pruner is to choose."""
        asked = self.config.densities
        return [
            (name, density)
            for name, chosen in self.pruners.items()
            for density in asked or ((1.0 if chosen.instance.chooses_density else DENSITY),)
        ]

    def members(self, unit: UnitRef) -> pd.DataFrame:
        """A unit's top pictures that are in a cluster."""
        table = self.clusters.members(unit)
        return table[table["cluster"] >= 0]

    def labels(self, unit: UnitRef) -> list[int]:
        """The unit's clusters."""
        return sorted({int(cluster) for cluster in self.members(unit)["cluster"]})

    def own_cells(self, unit: UnitRef) -> list[Cell]:
        """The parts of the unit itself."""
        return [
            Cell(unit, cluster, pruner, density, "own", unit)
            for (pruner, density), cluster in itertools.product(self.settings, self.labels(unit))
        ]

    @property
    def part_cells(self) -> list[Cell]:
        """All parts, each unit's own before its controls."""
        cells: list[Cell] = []
        for unit in self.units:
            cells += self.own_cells(unit)
            others = self.others[unit]
            controls: list[tuple[Control, UnitRef]] = [
                *(("unit", other) for other in others),
                *(("weights", read) for read in (unit, *others)[: self.config.others]),
                ("labels", unit),
            ]
            cells += [
                Cell(unit, own.cluster, own.pruner, own.density, control, read)
                for control, read in controls
                for own in self.own_cells(unit)
            ]
        return cells

    @property
    def overlap_cells(self) -> list[OverlapCell]:
        """One for each unit."""
        return [OverlapCell(unit, tuple(self.own_cells(unit))) for unit in self.units]

    @property
    def cells(self) -> list[Cell | OverlapCell]:
        """All cells, in order."""
        return [*self.part_cells, *self.overlap_cells]

    @cached_property
    def network(self) -> nn.Module:
        """The network that the run looked at."""
        return self.clusters.network()

    @cached_property
    def fresh(self) -> nn.Module:
        """A network of the same architecture with random weights."""
        return self.clusters.fresh(self.config.seed)

    def reader(self, layer: str) -> Reader:
        """What reads a layer before its nonlinearity, so that a silenced unit can be told."""
        return self.clusters.reader(layer, at="pre")

    def pictures(self, unit: UnitRef) -> Pictures:
        """A unit's pictures; those of one unit at a time are kept.

        Raises DataError where a cluster is left with fewer than two readable pictures.
        """
        if unit not in self._pictures:
            self._pictures = {unit: self._load(unit)}
        return self._pictures[unit]

    def _load(self, unit: UnitRef) -> Pictures:
        members, seed = self.members(unit), self.config.seed
        near = set(self.clusters.members(unit)["picture"])  # those of no cluster included
        rest = torch.tensor([i for i in range(len(self.clusters.split)) if i not in near])
        order = torch.randperm(len(rest), generator=generator(seed, "neither", unit))
        neither = rest[order[: self.config.neither]]
        if len(neither) < 2:
            raise DataError(
                f"all pictures of the split are among {unit}'s top {len(near)}, so there are none "
                f"of no cluster; cluster fewer, with polykit clusters --top"
            )
        labels = dict(zip(members["picture"], members["cluster"], strict=True))
        wanted = torch.cat([torch.tensor(list(labels)), neither])
        found = list(indexed(self.clusters.split, self.config.eval_batch_size, wanted))
        index, x = (torch.cat([part[i] for part in found]) for i in (0, 1))
        cluster = torch.tensor([int(labels.get(i, NEITHER)) for i in index.tolist()])
        out = held_out_rows(cluster, self.config.held_out, generator(seed, "held out", unit))
        return Pictures(x, index, cluster, out)

    def surgery(self, cell: Cell) -> Surgery:
        """What it takes to find a cell's part."""
        pictures, config = self.pictures(cell.unit), self.config
        if cell.control == "labels":
            pictures = pictures.shuffled(generator(config.seed, "labels", cell.unit))
        return Surgery(
            model=self.fresh if cell.control == "weights" else self.network,
            trace=self.clusters.trace,
            read=self.reader(cell.read.layer),
            target=cell.read,
            pictures=pictures,
            cluster=cell.cluster,
            granularity=config.granularity,
            scope=config.scope,
            batch_size=config.eval_batch_size,
        )

    def candidates(self, unit: UnitRef) -> Candidates:
        """What may be cut away below a unit."""
        config = self.config
        return candidates(
            self.network, self.clusters.trace, config.granularity, config.scope, target=unit
        )


def resolve(
    config: DissectConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
) -> Setup:
    """Open the run and check that its units can be dissected, before anything is written.

    `model` and `data` are a Python caller's own objects, if the run was made with such. Raises
    PolykitError with what does not fit and why: no run of clusters, an unknown unit or one with
    fewer than two clusters, a pruner that gives no mask.
    """
    clusters = open_clusters(
        Path(config.run), registry, model=model, data=data, device=config.device
    )
    pruners = choose("pruner", config.pruners, registry, config.options)
    check_options_used(config, {c.name for c in pruners.values()}, [*pruners.values()])
    for label, chosen in pruners.items():
        if not isinstance(chosen.instance, Pruner):
            raise UsageError(
                f"pruner {label!r} gives a smaller network and no mask, so a unit's part cannot be "
                f"told from it; take one that gives a mask, such as cs or force"
            )
    units = _units(config, clusters)
    setup = Setup(
        config=config,
        registry=registry,
        clusters=clusters,
        pruners=pruners,
        units=units,
        others={unit: _others(unit, clusters, config) for unit in units},
        plugins={
            **clusters.setup.plugins,
            "pruners": [{"label": label, **c.record} for label, c in pruners.items()],
        },
    )
    for unit in units:
        setup.candidates(unit)  # raises where nothing below the unit can be cut
    return setup


def _units(config: DissectConfig, clusters: SavedClusters) -> tuple[UnitRef, ...]:
    """The units asked for, or the one that ranks first; all with two clusters or more."""
    split = _split_units(clusters)
    if not config.units:
        if not split:
            raise UsageError(
                f"no unit of {config.run} has two clusters, so there is nothing to cut apart; look "
                f"at other layers or settings with polykit clusters (--layer, --pca, --top)"
            )
        return split[:1]
    units = tuple(
        dict.fromkeys(unit for text in config.units for unit in select_units(clusters.trace, text))
    )
    for unit in units:
        members = clusters.members(unit)  # raises for a unit that the run did not look at
        count = members.loc[members["cluster"] >= 0, "cluster"].nunique()
        if count < 2:
            known = ", ".join(map(str, split[:5])) or "none"
            raise UsageError(
                f"unit {unit} has {count or 'no'} cluster{'' if count == 1 else 's'} in "
                f"{config.run}, and a dissection compares two or more; units that have them: "
                f"{known}"
            )
    return units


def _split_units(clusters: SavedClusters) -> tuple[UnitRef, ...]:
    """The units with two clusters or more, the most polysemantic first."""
    rows = clusters.run.rows
    scores = rows[(rows["statistic"] == "score") & (rows["value"] > 0)]
    scores = scores.sort_values("value", ascending=False, kind="stable")
    return tuple(
        UnitRef(str(layer), int(unit))
        for layer, unit in zip(scores["layer"], scores["unit"], strict=True)
    )


def _others(unit: UnitRef, clusters: SavedClusters, config: DissectConfig) -> tuple[UnitRef, ...]:
    """Draw units of the same layer that ever fire."""
    rows = clusters.run.rows
    silent = rows[(rows["statistic"] == "fires") & (rows["layer"] == unit.layer)]
    dead = {int(index) for index in silent.loc[silent["value"] == 0, "unit"]}
    count = clusters.trace.of(unit.layer)[0].units
    order = torch.randperm(count, generator=generator(config.seed, "others", unit)).tolist()
    alive = [index for index in order if index != unit.index and index not in dead]
    return tuple(UnitRef(unit.layer, index) for index in alive[: config.others])
