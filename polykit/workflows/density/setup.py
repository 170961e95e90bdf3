"""From names to objects: everything a density study needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil
from typing import Any

import torch
from torch import nn

from polykit.api import Pruner, SaliencyPruner
from polykit.entries import Chosen
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.devices import pick_device
from polykit.runtime.objectives import TaskLoss
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.runtime.seeds import seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.types import Candidates, Data, Subject, Trace
from polykit.workflows.analyze.setup import SMALL_ENSEMBLE, SMALL_STEP
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.variants import Splits, datasets, variant
from polykit.workflows.measuring import check
from polykit.workflows.plugins import (
    Spaces,
    build_model,
    check_options_used,
    choose,
    create,
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
    """A resolved study: the objects behind the names of a `DensityConfig`.

    `lottery` finds tickets and `by_class` classes' subnetworks, where those are asked for.
    """

    config: DensityConfig
    registry: Registry
    splits: Splits
    models: Mapping[tuple[float, str], Chosen]
    kinds: Mapping[float, Kind]
    pruners: Mapping[str, Chosen]
    metrics: Mapping[str, Chosen]
    lottery: Chosen | None
    by_class: Chosen | None
    objective: TaskLoss
    device: torch.device
    plugins: dict[str, Any]

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
    def last(self) -> int:
        """The step of a trajectory at which nothing is left."""
        return ceil(1 / self.config.step - 1e-9)

    @property
    def groups(self) -> list[list[Cell]]:
        """The networks that train together: of one width, optimiser and start, on the same data.

        All groups on one split come before those on the next.
        """
        config, found = self.config, []
        kinds = product(config.data_seeds, config.scales, config.inits, self.trainings)
        for data_seed, scale, init, optimizer in kinds:
            size = self._together(scale)
            cells = [Cell(scale, init, optimizer, seed, data_seed) for seed in config.seeds]
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
            return build_model(made, self.splits.data(cell.data_seed)).to(self.device)


def resolve(config: DensityConfig, registry: Registry, *, data: Data | None = None) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    `data` is a caller's own, which has one split. Raises PolykitError with what does not fit and
    why: a model without a scale, a threshold on accuracy where there are no classes.
    """
    models = {
        (scale, init): variant("model", config.model, registry, config, scale=scale, init=init)
        for scale in config.scales
        for init in config.inits
    }
    load, record = datasets(config, registry, data)
    splits = Splits(load, lambda: Spaces(registry, config.options))
    first = splits.data(config.data_seeds[0])
    classes = first.task == "classification"
    if config.fall is not None and not classes:
        raise UsageError(f"{first.name} has no accuracy to drop; give a --rise of loss, as 0.1")
    if config.class_pruner is not None and not classes:
        raise UsageError(f"{first.name} has no classes; leave --class-pruner out")
    pruners = choose("pruner", config.pruners, registry, config.options)
    lottery = _single(config.ticket, registry, config)
    by_class = _single(config.class_pruner, registry, config)
    _check_pruners(pruners, lottery, by_class)
    metrics = choose("metric", config.metrics, registry, config.options)
    model = next(iter(models.values()))
    extra = [chosen for chosen in (lottery, by_class) if chosen is not None]
    made = [*pruners.values(), *extra, *metrics.values()]
    names = {model.name, record["name"], *(chosen.name for chosen in made)}
    check_options_used(config, names, made)
    plugins = {
        "dataset": record,
        "model": model.record,
        "pruners": [{"label": label, **c.record} for label, c in pruners.items()],
        "metrics": [metric_record(label, c) for label, c in metrics.items()],
    }
    spaces = Spaces(registry, config.options)
    plugins |= {"ticket": lottery.record} if lottery is not None else {}
    plugins |= {"class_pruner": by_class.record} if by_class is not None else {}
    return Setup(
        config=config,
        registry=registry,
        splits=splits,
        models=models,
        kinds={
            scale: _kind(config, models[scale, config.inits[0]], first, metrics, spaces)
            for scale in config.scales
        },
        pruners=pruners,
        metrics=metrics,
        lottery=lottery,
        by_class=by_class,
        objective=TaskLoss(first.task),
        device=pick_device(config.device),
        plugins=plugins,
    )


def ranks(pruner: Pruner) -> bool:
    """Whether one look at the whole network ranks what goes first: then all densities follow.

    FORCE and other iterative schedules look again at each density, and learned masks have no
    ranking; those are asked for a subnetwork density by density.
    """
    kind = type(pruner)
    return (
        isinstance(pruner, SaliencyPruner)
        and pruner.schedule == "oneshot"
        and (kind.prune, kind.prepare) == (SaliencyPruner.prune, SaliencyPruner.prepare)
    )


def _kind(
    config: DensityConfig,
    made: Chosen,
    data: Data,
    metrics: Mapping[str, Chosen],
    spaces: Spaces,
) -> Kind:
    """Look at an untrained network of a scale; raise what a metric has against it."""
    x, _ = next(data.validation.batches(1))
    with seeded(config.seeds[0], "init"):
        network = build_model(made, data)
    path = trace(network, x)
    cut = candidates(network, path, competition=config.scope)
    layers = select_layers(path, config.layers)
    untrained = Subject(
        model=network.eval(),
        trace=path,
        layers=layers,
        data=data,
        device=torch.device("cpu"),
        batch_size=config.eval_batch_size,
        spaces=spaces,
    )
    check(metrics, untrained)
    return Kind(path, layers, cut)


def _single(spec: str | None, registry: Registry, config: DensityConfig) -> Chosen | None:
    return None if spec is None else create("pruner", spec, registry, config.options)


def _check_pruners(
    pruners: Mapping[str, Chosen], lottery: Chosen | None, by_class: Chosen | None
) -> None:
    """Refuse pruners that cannot do what they are chosen for."""
    extra = {c.spec: c for c in (lottery, by_class) if c is not None}
    for label, chosen in {**pruners, **extra}.items():
        if not isinstance(chosen.instance, Pruner):
            raise UsageError(
                f"pruner {label!r} gives a smaller network instead of a mask; take one that masks, "
                f"such as magnitude, force or edge-popup"
            )
    if lottery is not None and not lottery.instance.trains:
        raise UsageError(
            f"--ticket {lottery.spec}: it does not train, so it finds no lottery ticket; take "
            f"iterative-magnitude"
        )
    if by_class is not None and by_class.instance.trains:
        raise UsageError(
            f"--class-pruner {by_class.spec}: it trains for the task, whatever the class; take "
            f"one that looks at an objective, such as snip, force or cs"
        )
