"""What polykit asks of a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from polykit.api import AnyMetric
from polykit.runtime.measuring import measure_all
from polykit.testing.plugin import Plugin, answer_all, expect
from polykit.testing.samples import datasets, networks, subject
from polykit.testing.state import unchanged
from polykit.types import Measurement, Subject
from polykit.types.measurement import ALL_LAYERS

CHUNKS = (3, 100)
"""Batch sizes whose results must agree; one divides no number of samples, one holds them all."""
TOLERANCE = 1e-6


def values(plugin: Plugin, folder: Path) -> None:
    """What is reported is declared, finite and in range, for every choice an option offers."""
    answer_all(
        (f"{label}, {where}", partial(_check_values, metric, found))
        for label, metric in plugin.variants(folder)
        for where, found in _subjects(plugin)
    )


def chunks(plugin: Plugin, folder: Path) -> None:
    """The size of the chunks does not change the result."""
    metric = plugin.create(folder)
    pairs = zip(*(_subjects(plugin, batch_size) for batch_size in CHUNKS), strict=True)
    answer_all(
        (where, partial(_check_alike, metric, small, large, TOLERANCE))
        for (where, small), (_, large) in pairs
    )


def deterministic(plugin: Plugin, folder: Path) -> None:
    """Measuring twice gives the same numbers, to the bit."""
    metric = plugin.create(folder)
    answer_all(
        (where, partial(_check_alike, metric, found, found, 0.0))
        for where, found in _subjects(plugin)
    )


def _subjects(plugin: Plugin, batch_size: int = 10) -> Iterable[tuple[str, Subject]]:
    for data_name, data in datasets().items():
        for name, model in networks().items():
            found = subject(plugin.registry, model, data, batch_size)
            yield f"{name} on {data_name} in chunks of {batch_size}", found


def _measure(metric: AnyMetric, found: Subject) -> Measurement:
    with unchanged(found.model):
        metric.check(found)
        return measure_all([metric], found)[0]


def _check_values(metric: AnyMetric, found: Subject) -> None:
    measurement = _measure(metric, found)
    rows = list(measurement.rows())
    expect(bool(rows), "it reports nothing")
    if metric.headline:
        expect(metric.headline in metric.columns, f"headline {metric.headline!r} is no column")
    for basis, statistic in metric.bases.items():
        expect(statistic in metric.columns, f"{statistic!r}, of basis {basis!r}, is no column")
    places = {ALL_LAYERS, *(call.layer for call in found.trace.calls)}
    for layer, statistic, value in rows:
        expect(layer in places, f"there is no layer {layer!r}")
        _expect_value(metric, statistic, value, f"{statistic} of {layer}")
    for name, tensor in measurement.arrays.items():
        expect(isinstance(tensor, torch.Tensor), f"array {name!r} is no tensor")
    if measurement.units is not None:
        table = measurement.units
        expect(list(table.columns[:2]) == ["layer", "unit"], "units must open with layer, unit")
        for _, row in table.iterrows():
            for statistic in table.columns[2:]:
                where = f"{statistic} of unit {row['layer']}:{row['unit']}"
                _expect_value(metric, statistic, float(row[statistic]), where)


def _expect_value(metric: AnyMetric, statistic: str, value: float, where: str) -> None:
    expect(statistic in metric.columns, f"{statistic!r} is not among the metric's columns")
    column = metric.columns[statistic]
    slack = TOLERANCE * max(1.0, abs(value))
    expect(bool(np.isfinite(value)), f"{where} is {value}")
    inside = column.low - slack <= value <= column.high + slack
    expect(inside, f"{where} is {value}, outside the declared {column.range}")


def _check_alike(metric: AnyMetric, one: Subject, other: Subject, tolerance: float) -> None:
    first, second = _measure(metric, one), _measure(metric, other)
    _expect_alike(_tidy(first), _tidy(second), tolerance)
    expect((first.units is None) == (second.units is None), "only one result has units")
    if first.units is not None and second.units is not None:
        _expect_alike(first.units, second.units, tolerance)
    expect(list(first.arrays) == list(second.arrays), "arrays differ in name")
    for name, array in first.arrays.items():
        expect(array.shape == second.arrays[name].shape, f"array {name!r} differs in shape")
        left, right = (tensor.detach().cpu().flatten() for tensor in (array, second.arrays[name]))
        _expect_alike(pd.DataFrame({name: left}), pd.DataFrame({name: right}), tolerance)


def _tidy(measurement: Measurement) -> pd.DataFrame:
    """One column a statistic, so that each is judged by its own size."""
    rows = pd.DataFrame(list(measurement.rows()), columns=["layer", "statistic", "value"])
    return rows.pivot_table(index="layer", columns="statistic", values="value", sort=False)


def _expect_alike(one: pd.DataFrame, other: pd.DataFrame, tolerance: float) -> None:
    """Numbers may differ by `tolerance` × the largest of their column, all else not at all."""
    expect(one.shape == other.shape and list(one) == list(other), "tables differ in shape")
    for name in one:
        left, right = one[name], other[name]
        if not pd.api.types.is_float_dtype(left):
            expect(left.equals(right), f"column {name} differs")
            continue
        allowed = tolerance * max(1e-30, float(left.abs().max()))
        gap = float((left - right).abs().max())
        expect(gap <= allowed, f"column {name} differs by {gap:.3g}, more than {allowed:.3g}")


CHECKS: tuple[Callable[[Plugin, Path], None], ...] = (values, chunks, deterministic)
