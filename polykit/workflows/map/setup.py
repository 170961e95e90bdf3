"""From a recipe to the analyses of a map's points, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polykit.entries import Chosen
from polykit.errors import RunError, UsageError
from polykit.registry import Registry
from polykit.types import Data
from polykit.workflows.analyze import setup as analyze
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.config import value_text
from polykit.workflows.map.config import MapConfig
from polykit.workflows.plugins import load_data, slug


@dataclass(frozen=True)
class Cell:
    """One cell of the analysis at one point."""

    point: str
    inner: analyze.Cell

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        return joined(self.point, self.inner.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the analysis's cell needs, at the same point."""
        return tuple(joined(self.point, need) for need in self.inner.needs)


def joined(point: str, cell: str) -> str:
    """Name a cell of one point.

    >>> joined("lr=0.1", "seed-0-dense")
    'lr=0.1+seed-0-dense'
    """
    return f"{point}+{cell}"


def point_name(values: Mapping[str, Any]) -> str:
    """Name a point by the values of its options; fit for a directory.

    >>> point_name({"lr": 0.03, "mlp.widths": "64,64"})
    'lr=0.03-widths=64x64'
    """
    parts = (f"{name.rpartition('.')[2]}={value_text(value)}" for name, value in values.items())
    return slug("-".join(parts).replace(",", "x"))


def point_of(cell: str) -> str:
    """Return the point of a cell by its name.

    >>> point_of("lr=0.1+seed-0-dense")
    'lr=0.1'
    """
    return cell.partition("+seed-")[0]


def analysis_at(config: MapConfig, point: str) -> AnalyzeConfig:
    """Return the analysis of a point by its name; raise RunError where there is no such point."""
    for values in config.grid():
        if point_name(values) == point:
            return config.at(values)
    raise RunError(f"the map has no point {point!r}")


@dataclass
class Setup:
    """A resolved `MapConfig`: the analysis of every point. Points with the same data share them."""

    config: MapConfig
    registry: Registry
    points: Mapping[str, Mapping[str, Any]]
    analyses: Mapping[str, analyze.Setup]
    plugins: dict[str, Any]

    @property
    def first(self) -> analyze.Setup:
        """The analysis of the first point."""
        return next(iter(self.analyses.values()))

    @property
    def cells(self) -> list[Cell]:
        """All cells of all points."""
        return [
            Cell(point, cell)
            for point, analysis in self.analyses.items()
            for cell in [*analysis.dense_cells, *analysis.pruned_cells]
        ]

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.first.about

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.first.device

    @property
    def threads(self) -> int:
        """CPU threads to compute with: the most that a point asks for."""
        return max(analysis.threads for analysis in self.analyses.values())


def resolve(config: MapConfig, registry: Registry) -> Setup:
    """Make the objects of every point's analysis.

    Raises PolykitError with what does not fit and why: a plugin or an option that does not exist,
    a statistic to map that no metric has.
    """
    loaded: dict[str, Data] = {}

    def load(dataset: Chosen) -> Data:
        key = json.dumps(dataset.record, sort_keys=True)
        if key not in loaded:
            loaded[key] = load_data(dataset)
        return loaded[key]

    points: dict[str, Mapping[str, Any]] = {}
    analyses: dict[str, analyze.Setup] = {}
    for values in config.grid():
        place = point_name(values)
        points[place] = values
        analyses[place] = analyze.resolve(config.at(values), registry, load=load)
    if len(points) < sum(1 for _ in config.grid()):
        raise UsageError("two of the options that vary end in one name, so points cannot be named")
    first = next(iter(analyses.values()))
    _check_shown(config, first)
    return Setup(config, registry, points, analyses, first.plugins)


def _check_shown(config: MapConfig, analysis: analyze.Setup) -> None:
    """Raise UsageError for a statistic to map that no metric of the analysis has."""
    for text in config.show:
        metric, _, statistic = text.rpartition(".")
        if metric not in analysis.metrics:
            raise UsageError(
                f"show {text}: no metric {metric!r} is measured; those that are: "
                f"{', '.join(analysis.metrics)}"
            )
        columns = analysis.metrics[metric].instance.columns
        if statistic not in columns:
            raise UsageError(
                f"show {text}: {metric} has no statistic {statistic!r}; it has {', '.join(columns)}"
            )
