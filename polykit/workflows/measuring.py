"""Lets a run's metrics look at one network, and gives what they say as tidy rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from polykit.entries import Chosen
from polykit.runtime.blame import blaming
from polykit.runtime.measuring import measure_all
from polykit.types import Subject


@dataclass(frozen=True)
class Measured:
    """Rows (metric, layer, statistic, value), long tables of units, arrays by metric, remarks."""

    rows: list[dict[str, Any]]
    units: list[pd.DataFrame]
    arrays: dict[str, Tensor]
    notices: list[str]


def check(metrics: Mapping[str, Chosen], subject: Subject) -> None:
    """Raise what a metric has against a network or its data, before anything is trained."""
    for chosen in metrics.values():
        with blaming(chosen.instance):
            chosen.instance.check(subject)


def measure(metrics: Mapping[str, Chosen], subject: Subject) -> Measured:
    """Measure a network with every metric; what is undefined is left out and named."""
    results = measure_all([chosen.instance for chosen in metrics.values()], subject)
    found = Measured([], [], {}, [])
    for label, result in zip(metrics, results, strict=True):
        for layer, statistic, value in result.rows():
            if math.isnan(value):
                found.notices.append(f"{label}: {statistic} of {layer} is undefined; left out")
                continue
            place = {"metric": label, "layer": layer, "statistic": statistic, "value": value}
            found.rows.append(place)
        if result.units is not None and len(result.units):
            found.units.append(_long(result.units, label))
        found.arrays.update({f"{label}/{name}": array for name, array in result.arrays.items()})
    return found


def headlines(metrics: Mapping[str, Chosen], subject: Subject) -> list[dict[str, Any]]:
    """Measure a network and keep each metric's headline only, of all layers, where defined."""
    plugins = [chosen.instance for chosen in metrics.values()]
    results = zip(metrics, plugins, measure_all(plugins, subject), strict=True)
    return [
        {"metric": label, "layer": layer, "statistic": statistic, "value": value}
        for label, metric, result in results
        for layer, statistic, value in result.rows(metric.headline)
        if not math.isnan(value)
    ]


def _long(units: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row per unit and statistic; undefined values are left out."""
    table = units.melt(["layer", "unit"], var_name="statistic", value_name="value")
    table = table.dropna(subset=["value"]).astype({"value": "float64", "unit": "int64"})
    return table.assign(metric=metric)
