"""From names to plugin instances, as every workflow needs it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from polykit.api import AnyMetric, Kind, Options
from polykit.entries import Chosen
from polykit.errors import DataError, PluginError, UsageError
from polykit.registry import Registry
from polykit.runtime.blame import blaming
from polykit.types import Data, FeatureSpace, Subject
from polykit.workflows.config import PluginsConfig


def create(
    kind: Kind, spec: str, registry: Registry, options: Mapping[str, Mapping[str, Any]]
) -> Chosen:
    """Make a plugin with its options from the spec and from the table of options."""
    found, _ = registry.locate(kind, spec)
    return registry.create(kind, spec, options.get(found.entry.name))


def choose(
    kind: Kind,
    specs: Sequence[str],
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Options] | None = None,
) -> dict[str, Chosen]:
    """Make the plugins, labelled by name, or by what was written where a name comes twice."""
    made, own = [], own or {}
    for spec in dict.fromkeys(specs):
        if spec in own:
            made.append(Chosen(kind, spec, "this process", spec, own[spec]))
        else:
            made.append(create(kind, spec, registry, options))
    names = [chosen.name for chosen in made]
    return {c.name if names.count(c.name) == 1 else c.spec: c for c in made}


def check_options_used(config: PluginsConfig, names: set[str], chosen: Sequence[Chosen]) -> None:
    """Refuse options of plugins that take no part, since they would do nothing.

    `names` are those that do, as does the engine; feature spaces do where one of `chosen` asks for
    them.
    """
    spaces = {str(getattr(c.instance, "features", "")).partition(":")[0] for c in chosen}
    for name in config.options:
        if name not in names | spaces | config.engine_names:
            raise UsageError(
                f"option -o {name}.…: no plugin {name!r} takes part in this analysis; "
                f"those that do: {', '.join(sorted(names))}"
            )


def metric_record(label: str, chosen: Chosen) -> dict[str, Any]:
    """Return what a run keeps of a metric: options, headline, bases and columns."""
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
    told = {"headline": metric.headline, "bases": dict(metric.bases), "columns": columns}
    return {"label": label, **chosen.record, **told}


def load_data(chosen: Chosen) -> Data:
    """Let a dataset plugin load its data."""
    return _as_data(chosen, chosen.instance.load)


def restore_data(chosen: Chosen, truth: Mapping[str, Tensor]) -> Data:
    """Let a dataset plugin load its data again from their ground truth."""
    return _as_data(chosen, partial(chosen.instance.restore, truth))


def _as_data(chosen: Chosen, load: Callable[[], Any]) -> Data:
    with blaming(chosen.instance):
        loaded = load()
    if not isinstance(loaded, Data):
        raise PluginError(f"dataset {chosen.name!r} gave {type(loaded).__name__} instead of Data")
    return loaded


def build_model(chosen: Chosen, data: Data) -> nn.Module:
    """Let a model plugin build its network for a dataset's shapes."""
    with blaming(chosen.instance):
        model = chosen.instance.build(data.input_shape, data.outputs)
    if not isinstance(model, nn.Module):
        raise PluginError(f"model {chosen.name!r} gave {type(model).__name__}, no nn.Module")
    return model


KEPT = 16
"""Feature spaces that are kept, with their data: as many as the worlds of a scenario need."""


class Spaces:
    """Builds feature spaces by name; once for all networks on the same data, where that is right.

    `auto` is the ground truth, else the class prototypes.
    """

    def __init__(self, registry: Registry, options: Mapping[str, Mapping[str, Any]]) -> None:
        self._registry, self._options = registry, options
        self._built: dict[tuple[str, int], tuple[Data, FeatureSpace]] = {}
        self._learned: dict[str, FeatureSpace] = {}
        self._subject: Subject | None = None

    def __call__(self, name: str, subject: Subject) -> FeatureSpace:
        """Return the feature space of a network."""
        data = subject.data
        if name == "auto":
            if data.features is None and data.task != "classification":
                raise DataError(
                    f"{data.name} has neither ground-truth features nor classes; choose a "
                    f"feature space (`polykit plugins list --kind feature-space`) or another "
                    f"dataset, such as toy"
                )
            name = "classes" if data.features is None else "truth"
        key = name, id(data)  # `data` is kept beside the space, so its id stays its own
        if key in self._built:
            return self._built[key][1]
        if subject is not self._subject:  # what was learned from a network serves all its metrics
            self._subject, self._learned = subject, {}
        if name in self._learned:
            return self._learned[name]
        plugin = create("feature-space", name, self._registry, self._options).instance
        space: FeatureSpace = plugin.build(subject)
        if plugin.depends_on_model:
            self._learned[name] = space
        else:
            self._built[key] = data, space
            if len(self._built) > KEPT:
                self._built.pop(next(iter(self._built)))
        return space


def slug(label: str) -> str:
    """Make a label fit for a file name, without letting two labels meet.

    >>> slug("force"), slug("force:rounds=5")
    ('force', 'force_rounds=5-7ccf')
    """
    clean = re.sub(r"[^A-Za-z0-9._=+-]", "_", label)
    return clean if clean == label else f"{clean}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"
