"""Compare a finished laboratory run with the values that the thesis reports, scenario by scenario.

    polykit run examples/thesis/all.toml --out runs/thesis
    python benchmarks/check_reference_points.py runs/thesis

The published values are of one seed. A value counts as met if it lies in the 95 % prediction
interval of one more world, from the mean and spread over this run's worlds. Polysemanticity is the
mean over responding units of the dense networks, after the first and after the last epoch; R² is
the test loss as a share of the test labels' variance, which differs from world to world as much as
the loss itself does. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from polykit.runtime.store import RunStore, SavedRun

PUBLISHED = {
    "L1": (6.19, 6.07, 0.954, 0.561, 0.30, 6.07),
    "L2": (8.65, 8.55, 0.992, 0.161, 0.02, 8.53),
    "N1": (3.87, 3.36, 0.985, 0.024, 0.74, 3.11),
    "N2": (5.07, 5.70, 0.982, 0.425, 0.52, 6.52),
    "N3": (7.40, 7.90, 0.978, 0.161, 0.06, 6.16),
    "N4": (9.69, 9.89, 0.984, 0.661, -0.21, 9.73),
}
"""Polysemanticity after epochs 1 and 50, total feature dimensionality, test loss, R²; then
polysemanticity after epoch 50 with dropout."""

QUANTITIES = (
    "polysemanticity, epoch 1",
    "polysemanticity, last epoch",
    "total feature dimensionality",
    "test loss",
    "R²",
    "polysemanticity with dropout",
)


@dataclass(frozen=True)
class Point:
    """One published value beside the values of this run's worlds."""

    scenario: str
    quantity: str
    published: float
    found: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Standard deviation over worlds; not a number with one world."""
        return float(np.std(self.found, ddof=1)) if len(self.found) > 1 else math.nan

    @property
    def half(self) -> float:
        """Half the width of the 95 % prediction interval of one more world."""
        n = len(self.found)
        return float(student.ppf(0.975, n - 1)) * self.spread * math.sqrt(1 + 1 / n) if n > 1 else 0

    @property
    def met(self) -> bool:
        """Whether the published value could be one more world's."""
        return abs(self.published - float(np.mean(self.found))) <= self.half

    def line(self) -> str:
        """One row of the table."""
        mean = float(np.mean(self.found))
        return (
            f"| {self.scenario} | {self.quantity} | {self.published:g} | {mean:.3g} ± "
            f"{self.spread:.2g} | {mean - self.half:.3g} … {mean + self.half:.3g} | "
            f"{'yes' if self.met else 'no'} |"
        )


def points(run: SavedRun, store: RunStore) -> Iterator[Point]:
    """Yield every published value that this run has something to say about."""
    epochs = _dense(run.tables["epochs"])
    poly = epochs[epochs["statistic"] == "ratio_responding"]
    rows = _dense(run.rows)
    last = rows[rows["statistic"] == "ratio_responding"]
    for scenario, values in PUBLISHED.items():
        plain = [_of(table, scenario, 0.0) for table in (poly[poly["epoch"] == 1], last)]
        total = _of(rows[rows["statistic"] == "total_feature_dimensionality"], scenario, 0.0)
        loss = _of(rows[rows["statistic"] == "loss"], scenario, 0.0)
        explained = {
            seed: 1 - value / _variance(store, scenario, seed) for seed, value in loss.items()
        }
        dropped = _of(last, scenario, 0.5)
        found = (*plain, total, loss, explained, dropped)
        for quantity, published, worlds in zip(QUANTITIES, values, found, strict=True):
            if worlds:
                yield Point(scenario, quantity, published, tuple(worlds.values()))


def _dense(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["arm"] == "dense") & (table["layer"] == "all")]


def _of(table: pd.DataFrame, scenario: str, dropout: float) -> dict[int, float]:
    """One value for each world of a scenario."""
    here = table[(table["scenario"] == scenario) & (table["dropout"] == dropout)]
    return {
        int(seed): float(value) for seed, value in zip(here["seed"], here["value"], strict=True)
    }


def _variance(store: RunStore, scenario: str, seed: int) -> float:
    """Mean variance of the test labels: the loss of who always answers their mean."""
    world = store.read_tensors(f"{scenario}-world-{seed}", "world.safetensors")
    return float(world["labels"][world["test"]].var(dim=0, correction=0).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run of all.toml")
    options = parser.parse_args(arguments)
    store = RunStore.open(options.run)
    found = list(points(store.load(), store))
    print("| scenario | quantity | published | mean ± SD over worlds | one more world | met |")
    print("|---|---|---:|---:|---:|---|")
    for point in found:
        print(point.line())
    print(f"\n{sum(point.met for point in found)} of {len(found)} met")


if __name__ == "__main__":
    main()
