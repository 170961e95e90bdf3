"""From names to objects: everything a density study needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from polykit.api import SaliencyPruner
from polykit.entries import Chosen
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.addressing import select_layers
from polykit.runtime.devices import pick_device
from polykit.runtime.masking import candidates
from polykit.runtime.objectives import TaskLoss
from polykit.runtime.seeds import seeded
from polykit.runtime.trace import trace
from polykit.runtime.training_config import TrainingConfig
from polykit.types import Candidates, Data, Trace
from polykit.workflows.analyze.setup import SMALL_ENSEMBLE, SMALL_STEP
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.plugins import (
    Spaces,
    build_model,
    check_options_used,
    choose,
    create,
    load_data,
    metric_record,
    slug,
)


@dataclass(frozen=True, order=True)
class Cell:
    """One network of the study."""

    scale: float
    init: str
    optimizer: str
    seed: int
    data_seed: int

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        parts = (f"{self.scale:g}x", self.init, self.optimizer, f"seed-{self.seed}")
        return slug("-".join((*parts, f"data-{self.data_seed}")))

    @property
    def needs(self) -> tuple[str, ...]:
        """No other cell."""
        return ()

    @property
    def key(self) -> dict[str, Any]:
        """The columns that name the network in every table."""
        return vars(self)


@dataclass(frozen=True)
class Kind:
    """What all networks of one width share: the shape, what may go, and who is looked at."""

    trace: Trace
    layers: tuple[str, ...]
    candidates: Candidates


@dataclass
class Setup:
    """A resolved study: the objects behind the names of a `DensityConfig`."""

    config: DensityConfig
    registry: Registry
    data: Mapping[int, Data]
    models: Mapping[tuple[float, str], Chosen]
    kinds: Mapping[float, Kind]
    pruners: Mapping[str, Chosen]
    metrics: Mapping[str, Chosen]
    objective: TaskLoss
    device: torch.device
    plugins: dict[str, Any]
    spaces: Spaces

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.config.dataset, self.config.model

    @cached_property
    def trainings(self) -> dict[str, TrainingConfig]:
        """How each optimiser trains, by its label NAME=LR."""
        config = self.config
        common = TrainingConfig(**config.model_dump(include=set(TrainingConfig.model_fields)))
        found = {}
        for text in config.optimizers or (f"{config.optimizer}={config.lr:g}",):
            name, _, rate = text.partition("=")
            found[text] = common.model_copy(update={"optimizer": name, "lr": float(rate)})
        return found

    @property
    def groups(self) -> list[list[Cell]]:
        """The networks that train together: of one width, optimiser and start, on the same data."""
        config, found = self.config, []
        for scale in config.scales:
            size = self._together(scale)
            for init in config.inits:
                for optimizer in self.trainings:
                    for data_seed in config.data_seeds:
                        cells = [
                            Cell(scale, init, optimizer, seed, data_seed) for seed in config.seeds
                        ]
                        found += [cells[i : i + size] for i in range(0, len(cells), size)]
        return found

    @property
    def cells(self) -> list[Cell]:
        """One cell for each network."""
        return [cell for group in self.groups for cell in group]

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        if self.config.threads is not None:
            return self.config.threads
        small = all(self._small(scale) for scale in self.config.scales)
        return 1 if small else torch.get_num_threads()

    def _together(self, scale: float) -> int:
        return self.config.ensemble or (SMALL_ENSEMBLE if self._small(scale) else 1)

    def _small(self, scale: float) -> bool:
        return 3 * self.config.batch_size * self.kinds[scale].trace.flops < SMALL_STEP

    def build(self, cell: Cell) -> nn.Module:
        """Make a network as it is before any training."""
        with seeded(cell.seed, "init"):
            made = self.models[cell.scale, cell.init]
            return build_model(made, self.data[cell.data_seed]).to(self.device)


def resolve(config: DensityConfig, registry: Registry) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    Raises PolykitError with what does not fit and why: a model without a scale, a pruner without
    scores, a threshold on accuracy where there are no classes.
    """
    device = pick_device(config.device)
    models = {
        (scale, init): _variant("model", config.model, registry, config, scale=scale, init=init)
        for scale in config.scales
        for init in config.inits
    }
    datasets = {
        seed: _variant("dataset", config.dataset, registry, config, split_seed=seed)
        for seed in config.data_seeds
    }
    data = {seed: load_data(chosen) for seed, chosen in datasets.items()}
    first = data[config.data_seeds[0]]
    if config.fall is not None and first.task != "classification":
        raise UsageError(f"{first.name} has no accuracy to drop; give a --rise of loss, as 0.1")
    pruners = choose("pruner", config.pruners, registry, config.options)
    for label, chosen in pruners.items():
        if not isinstance(chosen.instance, SaliencyPruner):
            raise UsageError(
                f"pruner {label!r} gives no scores to sort by; take one that does, such as "
                f"magnitude, snip or random"
            )
    metrics = choose("metric", config.metrics, registry, config.options)
    model, dataset = next(iter(models.values())), next(iter(datasets.values()))
    made = [*pruners.values(), *metrics.values()]
    names = {model.name, dataset.name, *(chosen.name for chosen in made)}
    check_options_used(config, names, made)
    x, _ = next(first.validation.batches(1))
    kinds = {}
    for scale in config.scales:
        with seeded(config.seeds[0], "init"):
            network = build_model(models[scale, config.inits[0]], first)
        path = trace(network, x)
        cut = candidates(network, path, competition=config.scope)
        kinds[scale] = Kind(path, select_layers(path, config.layers), cut)
    return Setup(
        config=config,
        registry=registry,
        data=data,
        models=models,
        kinds=kinds,
        pruners=pruners,
        metrics=metrics,
        objective=TaskLoss(first.task),
        device=device,
        plugins={
            "dataset": dataset.record,
            "model": model.record,
            "pruners": [{"label": label, **c.record} for label, c in pruners.items()],
            "metrics": [metric_record(label, c) for label, c in metrics.items()],
        },
        spaces=Spaces(registry, config.options),
    )


def _variant(
    kind: Any, spec: str, registry: Registry, config: DensityConfig, **values: Any
) -> Chosen:
    """Make a model or dataset with some of its options set; it must have them.

    The one value that a study does not vary may be missing: the data's only split, seed 0.
    """
    found, written = registry.locate(kind, spec)
    missing = [name for name in values if name not in found.options.model_fields]
    if missing == ["split_seed"] and values["split_seed"] == 0:
        missing = []
        values = {}
    if missing:
        need = "--data-seed 0 only" if kind == "dataset" else "lenet, conv2 or resnet"
        raise UsageError(
            f"{kind} {spec!r} has no option {' or '.join(missing)}, which the study varies; take "
            f"{need}"
        )
    own = config.options.get(found.entry.name, {})
    double = [name for name in values if name in {**own, **written}]
    if double:
        raise UsageError(
            f"option {double[0]} of {found.entry.name}: the study sets that itself; use --scale, "
            f"--init or --data-seed"
        )
    return create(kind, spec, registry, {found.entry.name: {**own, **values}})
