"""From names to objects: everything a sweep needs, checked before anything is written."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polykit.api import AnyMetric, Kind, Options, Pruner
from polykit.entries import Chosen
from polykit.errors import DataError, PluginError, UsageError
from polykit.registry import Registry
from polykit.runtime.addressing import select_layers
from polykit.runtime.checkpoints import load_weights
from polykit.runtime.devices import pick_device
from polykit.runtime.masking import candidates
from polykit.runtime.objectives import parse_objective
from polykit.runtime.seeds import seeded
from polykit.runtime.trace import trace
from polykit.types import Candidates, Data, FeatureSpace, Objective, Trace
from polykit.workflows.config import AnalyzeConfig

PLAIN_METRICS = ("loss", "accuracy", "density", "parameters", "flops")
"""What every row of results needs; accuracy only where there are classes."""

CONTROL = "random"
DENSE = "dense"

SMALL_STEP = 2**28
"""FLOPs of a training step below which a second thread costs more than it brings."""


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


@dataclass
class Setup:
    """A resolved analysis: the objects behind the names of an `AnalyzeConfig`."""

    config: AnalyzeConfig
    registry: Registry
    data: Data
    pruners: Mapping[str, Chosen]
    metrics: Mapping[str, Chosen]
    model: Chosen | nn.Module
    device: torch.device
    trace: Trace
    layers: tuple[str, ...]
    objective: Objective
    candidates: Candidates
    plugins: dict[str, Any]
    _spaces: dict[str, FeatureSpace] = field(default_factory=dict)

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
    def trained(self) -> bool:
        """Whether the network comes with weights that are worth measuring."""
        given = self.config.checkpoint is not None or isinstance(self.model, nn.Module)
        return given or (isinstance(self.model, Chosen) and self.model.instance.pretrained)

    @property
    def epochs(self) -> int:
        """Training epochs of the dense network."""
        if self.config.epochs is not None:
            return self.config.epochs
        return 0 if self.trained else 30

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
        step = 3 * self.config.batch_size * self.trace.flops
        return 1 if step < SMALL_STEP else torch.get_num_threads()

    def build(self, seed: int) -> nn.Module:
        """Make the network anew, as it is before any training."""
        if isinstance(self.model, nn.Module):
            return copy.deepcopy(self.model).to(self.device)
        with seeded(seed, "init"):
            model = build_model(self.model, self.data)
        if self.config.checkpoint is not None:
            load_weights(model, Path(self.config.checkpoint))
        return model.to(self.device)

    def feature_space(self, name: str) -> FeatureSpace:
        """Build a feature space by plugin name, once. `auto`: ground truth, else classes."""
        if name == "auto":
            if self.data.features is None and self.data.task != "classification":
                raise DataError(
                    f"{self.data.name} has neither ground-truth features nor classes; choose a "
                    f"feature space (`polykit plugins list --kind feature-space`) or another "
                    f"dataset, such as toy"
                )
            name = "classes" if self.data.features is None else "truth"
        if name not in self._spaces:
            plugin = self.registry.create("feature-space", name, self.config.options.get(name))
            self._spaces[name] = plugin.instance.build(self.data, self.device)
        return self._spaces[name]


def resolve(
    config: AnalyzeConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    pruners: Mapping[str, Pruner] | None = None,
    metrics: Mapping[str, AnyMetric] | None = None,
) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    `model`, `data`, `pruners` and `metrics` are a Python caller's own objects. Raises
    PolykitError with what does not fit and why.
    """
    device = pick_device(config.device)
    data, dataset_record = _dataset(config, registry, data)
    chosen_model: Chosen | nn.Module
    if model is None:
        chosen_model = _create("model", config.model, registry, config)
        model_record = chosen_model.record
        with seeded(config.seeds[0], "init"):
            probe = build_model(chosen_model, data)
    else:
        chosen_model, probe = model, copy.deepcopy(model)
        model_record = {"name": config.model, "distribution": "", "weights": _digest(model)}
    if config.checkpoint is not None:
        load_weights(probe, Path(config.checkpoint))
    names = config.pruners
    if config.control and CONTROL not in names:
        names = (*names, CONTROL)
    plain = [m for m in PLAIN_METRICS if m != "accuracy" or data.task == "classification"]
    wanted = [*plain, *(metric for metric in config.metrics if metric not in plain)]
    chosen_pruners = _choose("pruner", names, registry, config, pruners or {})
    chosen_metrics = _choose("metric", wanted, registry, config, metrics or {})
    _check_options_used(
        config,
        {dataset_record["name"], model_record["name"]},
        [*chosen_pruners.values(), *chosen_metrics.values()],
    )
    x, _ = next(data.test.batches(1))
    path = trace(probe, x)
    objective = parse_objective(config.objective, data.task, path)
    return Setup(
        config=config,
        registry=registry,
        data=data,
        pruners=chosen_pruners,
        metrics=chosen_metrics,
        model=chosen_model,
        device=device,
        trace=path,
        layers=select_layers(path, config.layers),
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
            "model": model_record,
            "pruners": [{"label": label, **c.record} for label, c in chosen_pruners.items()],
            "metrics": [_metric_record(label, c) for label, c in chosen_metrics.items()],
        },
    )


def _dataset(
    config: AnalyzeConfig, registry: Registry, data: Data | None
) -> tuple[Data, dict[str, Any]]:
    if data is not None:
        return data, {"name": data.name, "distribution": ""}
    chosen = _create("dataset", config.dataset, registry, config)
    loaded = chosen.instance.load()
    if not isinstance(loaded, Data):
        raise PluginError(f"dataset {chosen.name!r} gave {type(loaded).__name__} instead of Data")
    return loaded, chosen.record


def build_model(chosen: Chosen, data: Data) -> nn.Module:
    """Let a model plugin build its network for a dataset's shapes."""
    model = chosen.instance.build(data.input_shape, data.outputs)
    if not isinstance(model, nn.Module):
        raise PluginError(f"model {chosen.name!r} gave {type(model).__name__}, no nn.Module")
    return model


def _create(kind: Kind, spec: str, registry: Registry, config: AnalyzeConfig) -> Chosen:
    """Make a plugin with its options from the spec and from the table of options."""
    found, _ = registry.locate(kind, spec)
    return registry.create(kind, spec, config.options.get(found.entry.name))


def _choose(
    kind: Kind,
    specs: Sequence[str],
    registry: Registry,
    config: AnalyzeConfig,
    own: Mapping[str, Options],
) -> dict[str, Chosen]:
    """Make the plugins, labelled by name, or by what was written where a name comes twice."""
    made = []
    for spec in dict.fromkeys(specs):
        if spec in own:
            made.append(Chosen(kind, spec, "this process", spec, own[spec]))
        else:
            made.append(_create(kind, spec, registry, config))
    names = [chosen.name for chosen in made]
    labelled = {c.name if names.count(c.name) == 1 else c.spec: c for c in made}
    if DENSE in labelled:
        raise UsageError(f"{kind} {DENSE!r}: that name stands for the unpruned network")
    return labelled


def _check_options_used(config: AnalyzeConfig, names: set[str], chosen: Sequence[Chosen]) -> None:
    """Refuse options of plugins that take no part, since they would do nothing."""
    names = names | {c.name for c in chosen}
    spaces = {str(getattr(c.instance, "features", "")).partition(":")[0] for c in chosen}
    for name in config.options:
        if name not in names | spaces:
            raise UsageError(
                f"option -o {name}.…: no plugin {name!r} takes part in this analysis; "
                f"those that do: {', '.join(sorted(names))}"
            )


def _metric_record(label: str, chosen: Chosen) -> dict[str, Any]:
    metric = chosen.instance
    if not isinstance(metric, AnyMetric):
        raise PluginError(f"metric {label!r} is a {type(metric).__name__}, which is no Metric")
    columns = {
        name: {
            "summary": column.summary,
            "unit": column.unit,
            "low": column.low if abs(column.low) != float("inf") else None,
            "high": column.high if abs(column.high) != float("inf") else None,
        }
        for name, column in metric.columns.items()
    }
    return {"label": label, **chosen.record, "headline": metric.headline, "columns": columns}


def slug(label: str) -> str:
    """Make a label fit for a file name, without letting two labels meet.

    >>> slug("force"), slug("force:rounds=5")
    ('force', 'force_rounds=5-7ccf')
    """
    clean = re.sub(r"[^A-Za-z0-9._=+-]", "_", label)
    return clean if clean == label else f"{clean}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"


def _digest(model: nn.Module) -> str:
    """A fingerprint of a caller's own network, to tell whether a resumed run has the same."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
