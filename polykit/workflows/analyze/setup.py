"""From names to objects: everything a sweep needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polykit.api import AnyMetric, Pruner
from polykit.entries import Chosen
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.devices import pick_device
from polykit.runtime.objectives import parse_objective
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.types import Candidates, Data, Objective, Subject, Trace
from polykit.workflows.analyze.config import AnalyzeConfig, PrunedConfig
from polykit.workflows.measuring import check
from polykit.workflows.networks import Network, find_data, find_network
from polykit.workflows.plugins import (
    Spaces,
    check_options_used,
    choose,
    load_data,
    metric_record,
    slug,
)

PLAIN_METRICS = ("loss", "accuracy", "density", "parameters", "flops")
"""What every row of results needs; accuracy only where there are classes."""

CONTROL = "random"
DENSE = "dense"

SMALL_STEP = 2**28
"""FLOPs of a training step below which a second thread costs more than it brings."""

SMALL_ENSEMBLE = 16
"""How many networks with such small steps share the overhead of one."""


@dataclass(frozen=True, order=True)
class Cell:
    """One piece of a sweep: a network to train, or to prune to one density, for one seed."""

    seed: int
    pruner: str = DENSE
    density: float = 1.0

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        if self.pruner == DENSE:
            return f"seed-{self.seed}-{DENSE}"
        return f"seed-{self.seed}-{slug(self.pruner)}-{self.density:g}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The cell that trained the network to prune."""
        return () if self.pruner == DENSE else (Cell(self.seed).name,)


@dataclass
class Setup:
    """A resolved analysis: the objects behind the names of its configuration."""

    config: PrunedConfig
    registry: Registry
    data: Data
    pruners: Mapping[str, Chosen]
    metrics: Mapping[str, Chosen]
    tracked: Mapping[str, Chosen]
    network: Network
    device: torch.device
    trace: Trace
    layers: tuple[str, ...]
    objective: Objective
    candidates: Candidates
    plugins: dict[str, Any]
    spaces: Spaces

    @property
    def dense_cells(self) -> list[Cell]:
        """One cell per seed: train (or load) and measure."""
        return [Cell(seed) for seed in self.config.seeds]

    @property
    def pruned_cells(self) -> list[Cell]:
        """One cell per seed × pruner × density."""
        return [
            Cell(seed, pruner, density)
            for seed in self.config.seeds
            for pruner in self.pruners
            for density in self.config.densities
        ]

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.config.dataset, self.config.model

    @property
    def epochs(self) -> int:
        """Training epochs of the dense network."""
        if self.config.epochs is not None:
            return self.config.epochs
        return 0 if self.network.trained else 30

    @property
    def same_for_all_seeds(self) -> bool:
        """Whether every seed has the same dense network: it came trained and stays as it is."""
        return self.network.trained and not self.epochs

    @property
    def retrain_epochs(self) -> int:
        """Training epochs after pruning."""
        if self.config.retrain_epochs is not None:
            return self.config.retrain_epochs
        return self.epochs if self.config.prune_at == "init" else 10

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        if self.config.threads is not None:
            return self.config.threads
        return 1 if self._small else torch.get_num_threads()

    @property
    def ensemble(self) -> int:
        """How many networks to train at once."""
        return self.config.ensemble or (SMALL_ENSEMBLE if self._small else 1)

    @property
    def _small(self) -> bool:
        return 3 * self.config.batch_size * self.trace.flops < SMALL_STEP

    def build(self, seed: int) -> nn.Module:
        """Make the network anew, as it is before any training."""
        return self.network.build(self.data, seed, self.device)


def resolve(
    config: AnalyzeConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    pruners: Mapping[str, Pruner] | None = None,
    metrics: Mapping[str, AnyMetric] | None = None,
    load: Callable[[Chosen], Data] = load_data,
) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    `model`, `data`, `pruners` and `metrics` are a Python caller's own objects; `load` is how a
    dataset plugin is asked for its data. Raises PolykitError with what does not fit and why.
    """
    return prepare(
        config,
        registry,
        measured=_in_bases(config, registry, own=metrics or {}),
        track=config.track,
        model=model,
        data=data,
        pruners=pruners,
        metrics=metrics,
        load=load,
    )


def _in_bases(
    config: AnalyzeConfig, registry: Registry, own: Mapping[str, AnyMetric]
) -> tuple[str, ...]:
    """Name the metrics, and those that can be taken in a basis once more for each basis."""
    found: list[str] = []
    for spec in config.metrics:
        found.append(spec)
        if spec in own:
            continue
        metric, written = registry.locate("metric", spec)
        if "basis" in {**config.options.get(metric.entry.name, {}), **written}:
            continue
        if "basis" in metric.options.model_fields:
            then = "," if written else ":"
            found += [f"{spec}{then}basis={basis}" for basis in config.bases]
    if config.bases and len(found) == len(config.metrics):
        raise UsageError(
            f"--basis does nothing for {', '.join(found) or 'no metric'}: take a metric that has "
            f"the option basis and leaves it open, such as ig or hoyer"
        )
    return tuple(found)


def prepare(
    config: PrunedConfig,
    registry: Registry,
    *,
    measured: Sequence[str] = (),
    track: Sequence[str] = (),
    model: nn.Module | None = None,
    data: Data | None = None,
    pruners: Mapping[str, Pruner] | None = None,
    metrics: Mapping[str, AnyMetric] | None = None,
    load: Callable[[Chosen], Data] = load_data,
) -> Setup:
    """Prepare networks to be trained, pruned, and measured with `measured` and the plain metrics.

    The control is left out where there is no pruner to compare with it. The other arguments, and
    what is raised, are those of `resolve`.
    """
    device = pick_device(config.device)
    data, dataset_record = find_data(config.dataset, registry, config.options, data, load)
    network = find_network(config.model, config.checkpoint, registry, config.options, model)
    probe = network.build(data, config.seeds[0], torch.device("cpu"))
    pruned_by = config.pruners
    if config.control and pruned_by and CONTROL not in pruned_by:
        pruned_by = (*pruned_by, CONTROL)
    plain = [m for m in PLAIN_METRICS if m != "accuracy" or data.task == "classification"]
    wanted = [*plain, *(metric for metric in measured if metric not in plain)]
    chosen_pruners = choose("pruner", pruned_by, registry, config.options, pruners)
    chosen_metrics = choose("metric", wanted, registry, config.options, metrics)
    if DENSE in chosen_pruners:
        raise UsageError(f"pruner {DENSE!r}: that name stands for the unpruned network")
    tracked = choose("metric", track, registry, config.options, metrics)
    made = [*chosen_pruners.values(), *chosen_metrics.values(), *tracked.values()]
    names = {dataset_record["name"], network.record["name"], *(c.name for c in made)}
    check_options_used(config, names, made)
    x, _ = next(data.test.batches(1))
    path = trace(probe, x)
    objective = parse_objective(config.objective, data.task, path)
    layers, spaces = select_layers(path, config.layers), Spaces(registry, config.options)
    untrained = Subject(
        model=probe.eval(),
        trace=path,
        layers=layers,
        data=data,
        device=torch.device("cpu"),
        batch_size=config.eval_batch_size,
        spaces=spaces,
    )
    check({**chosen_metrics, **tracked}, untrained)
    return Setup(
        config=config,
        registry=registry,
        data=data,
        pruners=chosen_pruners,
        metrics=chosen_metrics,
        tracked=tracked,
        network=network,
        device=device,
        trace=path,
        layers=layers,
        objective=objective,
        candidates=candidates(
            probe,
            path,
            config.granularity,
            config.scope,
            layers=None if config.prune_layers == ("*",) else config.prune_layers,
            target=objective.target,
        ),
        plugins={
            "dataset": dataset_record,
            "model": network.record,
            "pruners": [{"label": label, **c.record} for label, c in chosen_pruners.items()],
            "metrics": [metric_record(label, c) for label, c in chosen_metrics.items()],
            "tracked": [metric_record(label, c) for label, c in tracked.items()],
        },
        spaces=spaces,
    )
