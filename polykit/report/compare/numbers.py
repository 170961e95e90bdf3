"""The numbers of a comparison: barriers, similarities, and what a pull did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.runtime.store import SavedRun

ROUTES = ("matched", "unmatched", "random")
"""The lines to another network, by the order of its units."""

POINTS, SHARE = 0.02, 0.05
"""What may stand in the way between networks that count as linearly connected: two points of
training accuracy (Frankle et al. 2020); without classes, 5 % of the training loss at the ends."""


SUMMARY = (
    "train_loss_barrier",
    "train_accuracy_barrier",
    "test_loss_barrier",
    "distance",
    "agreement",
    "correlation",
)
"""What the summary tells."""


@dataclass(frozen=True)
class Route:
    """The line to another network with its units in one order; a mean over random orders."""

    loss: float
    accuracy: float | None
    limit: float

    @property
    def connected(self) -> bool:
        """Whether nothing to speak of stands in the way."""
        height = self.loss if self.accuracy is None else self.accuracy
        return height <= self.limit


def others(run: SavedRun) -> list[str]:
    """Return the networks that the first one was compared with, in order."""
    return list(dict.fromkeys(run.rows["other"].astype(str)))


def value(
    run: SavedRun, other: str, statistic: str, *, stage: str, route: str, strength: float = 0.0
) -> float | None:
    """Return one statistic, its mean over draws; None where it was not measured."""
    rows = run.rows
    found = rows[
        (rows["other"] == other)
        & (rows["statistic"] == statistic)
        & (rows["stage"] == stage)
        & (rows["route"] == route)
        & (rows["strength"] == strength)
    ]["value"]
    return float(found.mean()) if len(found) else None


def route(
    run: SavedRun, other: str, name: str, *, stage: str = "compared", strength: float = 0.0
) -> Route | None:
    """Return what stands on one line; None where it was not looked at."""
    where: dict[str, Any] = {"stage": stage, "route": name, "strength": strength}
    loss = value(run, other, "train_loss_barrier", **where)
    if loss is None:
        return None
    accuracy = value(run, other, "train_accuracy_barrier", **where)
    return Route(loss, accuracy, POINTS if accuracy is not None else SHARE * ends(run, other))


def ends(run: SavedRun, other: str) -> float:
    """Return the mean training loss of the two networks of a pair."""
    path = run.tables["path"]
    at = path[(path["other"] == other) & (path["quantity"] == "train_loss")]
    return float(at[at["t"].isin((0.0, 1.0))]["value"].mean())


def strengths(run: SavedRun, other: str) -> list[float]:
    """Return the strengths of pull towards a network, the control (0) first."""
    rows = run.rows
    found = rows[(rows["other"] == other) & (rows["stage"] == "released")]["strength"]
    return sorted(float(strength) for strength in found.unique())


def reached(run: SavedRun, other: str) -> tuple[float, Route, Route] | None:
    """Return the smallest strength after whose release the network is connected with the other.

    With it, what stands on the lines to the other and back to the first. None where no pull was
    strong enough.
    """
    for strength in strengths(run, other)[1:]:
        there, back = (
            route(run, other, name, stage="released", strength=strength)
            for name in ("to other", "to first")
        )
        if there and back and there.connected:
            return strength, there, back
    return None


def way_left(run: SavedRun, other: str, strength: float) -> float | None:
    """Return what a pull left of the distance to the other network, as a share."""
    where: dict[str, Any] = {"stage": "pulled", "route": "to other", "strength": strength}
    left = value(run, other, "distance", **where)
    whole = value(run, other, "distance", stage="compared", route="matched")
    return left / whole if left is not None and whole else None


def layers(run: SavedRun, other: str, name: str = "functions") -> pd.DataFrame:
    """Return linear CKA, layers of the first network × layers of the other (or of the control)."""
    table = run.tables["layers"]
    part = table[(table["other"] == other) & (table["route"] == name)]
    matrix = part.pivot_table("cka", "layer_a", "layer_b", sort=False)
    return matrix.reindex(list(dict.fromkeys(part["layer_a"])))


def diagonal(matrix: pd.DataFrame) -> Mapping[str, float]:
    """Return the CKA of layers of one name."""
    return {
        str(layer): float(matrix.loc[layer, layer])
        for layer in matrix.index
        if layer in matrix.columns and math.isfinite(matrix.loc[layer, layer])
    }


def summary(run: SavedRun) -> pd.DataFrame:
    """Return one row per other network and way to it: barriers, distance, agreement."""
    keys = ["other", "stage", "strength", "route"]
    rows = run.rows[run.rows["statistic"].isin(SUMMARY)]
    if rows.empty:
        return rows.set_index(keys)[[]]
    table = rows.pivot_table("value", keys, "statistic", sort=False)
    return table[[name for name in SUMMARY if name in table]]
