"""From names to worlds: everything the laboratory needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from polykit.api import StructuralPruner
from polykit.entries import Chosen
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.devices import pick_device
from polykit.runtime.seeds import seeded
from polykit.runtime.store import RunStore
from polykit.types import Data
from polykit.workflows.laboratory.config import LaboratoryConfig, Scenario
from polykit.workflows.plugins import (
    Spaces,
    build_model,
    check_options_used,
    choose,
    create,
    load_data,
    metric_record,
    restore_data,
)

PLAIN_METRICS = ("loss", "parameters")
"""What every network is asked, beside the metrics of the question."""

WORLD = "world.safetensors"


@dataclass(frozen=True)
class Cell:
    """One piece of the laboratory: a world, the dense networks in a scenario's worlds, or an arm.

    Networks of all seeds (and ratios) train together, so they are one cell.
    """

    scenario: str
    kind: Literal["world", "networks"]
    seed: int = 0
    dropout: float = 0.0
    arm: str = "dense"
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        if self.kind == "world":
            return f"{self.scenario}-world-{self.seed}"
        return f"{self.scenario}-dropout-{self.dropout:g}-{self.arm}"


@dataclass
class Laboratory:
    """A resolved laboratory: the objects behind the names of a `LaboratoryConfig`.

    `datasets` are by scenario and seed, `models` by scenario and dropout.
    """

    config: LaboratoryConfig
    registry: Registry
    datasets: Mapping[tuple[str, int], Chosen]
    models: Mapping[tuple[str, float], Chosen]
    pruner: Chosen
    metrics: Mapping[str, Chosen]
    device: torch.device
    spaces: Spaces
    plugins: dict[str, Any]
    _worlds: dict[tuple[str, int], Data] = field(default_factory=dict)

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return tuple(scenario.name for scenario in self.config.scenarios)

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.config.threads

    @property
    def asked(self) -> dict[str, Chosen]:
        """The metrics of the question, without those that every network is asked."""
        return {label: c for label, c in self.metrics.items() if c.spec in self.config.metrics}

    @property
    def worlds(self) -> list[Cell]:
        """One cell per scenario × seed."""
        return [
            Cell(scenario.name, "world", seed=seed)
            for scenario in self.config.scenarios
            for seed in self.config.seeds
        ]

    @property
    def dense(self) -> list[Cell]:
        """One cell per scenario × dropout."""
        return [
            Cell(
                scenario.name,
                "networks",
                dropout=dropout,
                needs=tuple(cell.name for cell in self.worlds if cell.scenario == scenario.name),
            )
            for scenario in self.config.scenarios
            for dropout in self.config.dropouts
        ]

    @property
    def arms(self) -> list[Cell]:
        """One cell per scenario × dropout × arm."""
        return [
            Cell(cell.scenario, "networks", dropout=cell.dropout, arm=arm, needs=(cell.name,))
            for cell in self.dense
            for arm in self.config.arms
        ]

    def make(self, scenario: str, seed: int) -> Data:
        """Make a world anew."""
        return load_data(self.datasets[scenario, seed])

    def data(self, store: RunStore, scenario: str, seed: int) -> Data:
        """Return a world whose cell is done; those of one scenario at a time are kept."""
        if (scenario, seed) not in self._worlds:
            self._worlds = {key: data for key, data in self._worlds.items() if key[0] == scenario}
            truth = store.read_tensors(Cell(scenario, "world", seed=seed).name, WORLD)
            self._worlds[scenario, seed] = restore_data(self.datasets[scenario, seed], truth)
        return self._worlds[scenario, seed]

    def build(self, scenario: str, dropout: float, seed: int, data: Data) -> nn.Module:
        """Make a network anew, as it is before any training; the same at every dropout."""
        with seeded(seed, "init"):
            return build_model(self.models[scenario, dropout], data).to(self.device)


def resolve(config: LaboratoryConfig, registry: Registry) -> Laboratory:
    """Turn names into objects and check that they fit, before a run directory exists.

    Raises PolykitError with what does not fit and why.
    """
    device = pick_device(config.device)
    wanted = (*PLAIN_METRICS, *(m for m in config.metrics if m not in PLAIN_METRICS))
    metrics = choose("metric", wanted, registry, config.options)
    pruner = create("pruner", config.pruner, registry, config.options)
    if not isinstance(pruner.instance, StructuralPruner):
        raise UsageError(
            f"pruner {pruner.name!r} gives a mask; the laboratory needs one that removes units, "
            f"such as structured"
        )
    asked = next(c for c in metrics.values() if c.spec == config.metrics[0])
    if not asked.instance.headline:
        raise UsageError(
            f"metric {asked.name!r} has no headline statistic, so no question can be asked of it; "
            f"put another one first"
        )
    datasets = {
        (scenario.name, seed): _seeded_dataset(scenario, seed, registry, config)
        for scenario in config.scenarios
        for seed in config.seeds
    }
    models = {
        (scenario.name, dropout): _model(scenario, dropout, registry, config)
        for scenario in config.scenarios
        for dropout in config.dropouts
    }
    made = [*datasets.values(), *models.values(), pruner, *metrics.values()]
    check_options_used(config, {c.name for c in made}, made)
    first = config.seeds[0]
    return Laboratory(
        config=config,
        registry=registry,
        datasets=datasets,
        models=models,
        pruner=pruner,
        metrics=metrics,
        device=device,
        spaces=Spaces(registry, config.options),
        plugins={
            "pruner": pruner.record,
            "metrics": [metric_record(label, c) for label, c in metrics.items()],
            "datasets": {s.name: datasets[s.name, first].record for s in config.scenarios},
            "models": {s.name: models[s.name, config.dropouts[0]].record for s in config.scenarios},
        },
    )


def _seeded_dataset(
    scenario: Scenario, seed: int, registry: Registry, config: LaboratoryConfig
) -> Chosen:
    """Make the dataset of one world; one that has no seed is the same in every world."""
    found, spec_options = registry.locate("dataset", scenario.dataset)
    options = dict(config.options.get(found.entry.name, {}))
    if "seed" in spec_options or "seed" in options:
        raise UsageError(
            f"scenario {scenario.name!r}: the option seed of {scenario.dataset!r} is set by the "
            f"laboratory, from its seeds; leave it out"
        )
    if "seed" in found.options.model_fields:
        options["seed"] = seed
    return registry.create("dataset", scenario.dataset, options)


def _model(
    scenario: Scenario, dropout: float, registry: Registry, config: LaboratoryConfig
) -> Chosen:
    found, spec_options = registry.locate("model", scenario.model)
    options = dict(config.options.get(found.entry.name, {}))
    if "dropout" in found.options.model_fields and "dropout" not in spec_options:
        options["dropout"] = dropout
    elif dropout:
        raise UsageError(
            f"scenario {scenario.name!r}: the model {scenario.model!r} takes no dropout from the "
            f"laboratory; set dropouts = [0.0], or choose a model that has the option, such as mlp"
        )
    return registry.create("model", scenario.model, options)
