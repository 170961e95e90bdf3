"""What stands beside a figure: its seeds and sizes, and its content for those who listen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from polykit.report import words
from polykit.report.analyze import numbers
from polykit.report.analyze.numbers import Network, stage_words
from polykit.report.numbers import Quantity
from polykit.report.style import CONTROL
from polykit.runtime.store import SavedRun


def spread(table: pd.DataFrame) -> str:
    """Say over how many seeds the points of `table` are means, and what the lines are."""
    per_point = table.groupby(["layer", "pruner", "density", "stage"])["seed"].nunique()
    low, high = int(per_point.min()), int(per_point.max())
    if high == 1:
        text = "One seed: no interval can be given."
    else:
        over = words.seeds(high) if low == high else f"{low} to {high} seeds (some are missing)"
        text = (
            f"Mean over {over}; bars and grey band are 95\u00a0% t-intervals, cut off at the frame."
        )
    control = " Dashed: random pruning, the control." if CONTROL in set(table["pruner"]) else ""
    return f"{text} Grey: the dense network.{control}"


def size(run: SavedRun, quantity: Quantity) -> str:
    """Say how many samples or units one value of a quantity comes from, where that is known."""
    if quantity.metric in ("accuracy", "loss"):
        tested = (run.meta.get("data") or {}).get("test")
        return f"n = {tested} test samples." if tested else ""
    units = run.tables["units"]
    units = units[units["metric"] == quantity.metric]
    return f"n = {units_per_network(units)} units in each network." if len(units) else ""


def units_per_network(units: pd.DataFrame) -> int:
    """Count the units of one network in a table of units, which must not be empty."""
    return int(units.groupby(["seed", "pruner", "density", "stage", "statistic"]).size().max())


def both_ends(run: SavedRun, quantity: Quantity) -> str:
    """Tell a chart against density by its values at the highest and the lowest density."""
    found, titles = numbers.compare(run, quantity), stage_words(run.meta)
    asked = numbers.densities(run)
    parts = []
    for stage in numbers.stages(run):
        for density in dict.fromkeys([asked[0], asked[-1]]):
            values = [
                f"{c.pruner} {words.number(c.value.mean)}"
                for c in found
                if c.stage == stage and c.density == density
            ]
            if values:
                parts.append(f"{titles[stage]} at density {density:g}: {words.listed(values)}")
    dense = numbers.network_mean(run, quantity.metric, quantity.statistic, numbers.DENSE_NETWORK)
    start = f" Dense: {words.number(dense)}." if dense is not None else ""
    return f"Line chart of {quantity.axis} against density.{start} {_sentence(parts)}"


def layers(
    found: Mapping[str, Mapping[Network, pd.Series[float]]],
    names: Sequence[str],
    density: float,
    stage: str,
) -> str:
    """Tell a chart of layers by the layer that each pruner changed most."""
    parts = []
    for name in names:
        changes = []
        for layer, values in found.items():
            before, after = values.get(numbers.DENSE_NETWORK), values.get((name, density, stage))
            if before is not None and after is not None:
                start, end = float(before.mean()), float(after.mean())
                changes.append((abs(end - start), layer, start, end))
        if changes:
            _, layer, start, end = max(changes)
            moved = f"{words.number(start)} dense, {words.number(end)} pruned"
            parts.append(f"{name} changed layer {layer} most ({moved})")
    return f"Line chart of {len(found)} layers. At density {density:g}, {_sentence(parts, False)}"


def units(
    dense: np.ndarray, pruned: pd.DataFrame, names: Sequence[str], titles: Mapping[str, str]
) -> str:
    """Tell a histogram of units by its medians."""
    parts = [f"dense {words.number(float(np.median(dense)))}"] if len(dense) else []
    for name in names:
        for stage in numbers.STAGES:
            values = pruned[(pruned["pruner"] == name) & (pruned["stage"] == stage)]["value"]
            if len(values):
                parts.append(f"{name} {titles[stage]} {words.number(float(values.median()))}")
    return f"Histogram over units. Medians: {'; '.join(parts)}."


def _sentence(parts: Sequence[str], capital: bool = True) -> str:
    text = "; ".join(parts) or "no values"
    return f"{words.capital(text) if capital else text}."
