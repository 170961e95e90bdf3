"""What a study says of classes' subnetworks and of lottery tickets: numbers over networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from polykit.report.density import numbers
from polykit.report.density.relations import quantities
from polykit.report.numbers import Estimate, Quantity, estimate, finite, paired
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

WHOLE, RANDOM = "whole", "random"
DENSE, TICKET = "dense", "ticket"


@dataclass(frozen=True)
class Classes:
    """Classes' subnetworks of all networks of one width: means over networks.

    `iou` of two classes' subnetworks, and what `chance` would give. The AUC of a class's logit in
    its own subnetwork, in other classes', in random ones, and in the whole network.
    """

    scale: float
    iou: Estimate
    chance: Estimate
    own: Estimate
    others: Estimate
    random: Estimate
    whole: Estimate
    edge: Estimate
    """Own AUC minus that in others', paired by network."""


def classes(run: SavedRun) -> list[Classes]:
    """Return what classes' subnetworks came to, by width; nothing where there are none."""
    table = run.tables["classes"].dropna(subset=["auc"])
    found = []
    for scale, part in table.groupby("scale"):
        own = part["mask"] == part["class"].astype(str)
        pair = ~own & part["iou"].notna()
        if not (own.any() and pair.any()):
            continue

        def mean(rows: pd.DataFrame, column: str) -> pd.Series[float]:
            return rows.groupby(list(numbers.NETWORK))[column].mean()

        mine, theirs = mean(part[own], "auc"), mean(part[pair], "auc")
        found.append(
            Classes(
                float(str(scale)),
                estimate(mean(part[pair], "iou")),
                estimate(mean(part[pair], "chance")),
                estimate(mine),
                estimate(theirs),
                estimate(mean(part[part["mask"] == RANDOM], "auc")),
                estimate(mean(part[part["mask"] == WHOLE], "auc")),
                estimate(mine - theirs),
            )
        )
    return found


def overlap(run: SavedRun, scale: float) -> pd.DataFrame:
    """Return the mean IoU of two classes' subnetworks of one width; missing for one with itself."""
    table = run.tables["classes"]
    part = table[(table["scale"] == scale) & table["iou"].notna()]
    part = part[part["mask"] != part["class"].astype(str)]
    return part.assign(mask=part["mask"].astype(int)).pivot_table(
        index="mask", columns="class", values="iou"
    )


@dataclass(frozen=True)
class Ticket:
    """A quantity in dense networks, tickets and random tickets of one width, paired by network."""

    scale: float
    quantity: Quantity
    dense: Estimate
    ticket: Estimate
    random: Estimate
    change: Estimate | None
    control: Estimate | None
    difference: Estimate | None
    """Ticket − dense, random − dense, ticket − random."""


def lottery(run: SavedRun) -> Iterator[Ticket]:
    """Yield what tickets came to: accuracy or loss first, then every metric's headline."""
    table = finite(run.tables["tickets"])
    table = table[table["layer"] == ALL_LAYERS]
    known = set(table["metric"])
    task = [Quantity(n, n, f"test {n}") for n in ("accuracy", "loss") if n in known][:1]
    for scale, part in table.groupby("scale"):
        for quantity in [*task, *quantities(run)]:
            rows = part[
                (part["metric"] == quantity.metric) & (part["statistic"] == quantity.statistic)
            ]
            by = {
                str(name): one.set_index(list(numbers.NETWORK))["value"]
                for name, one in rows.groupby("network")
            }
            if set(by) != {DENSE, TICKET, RANDOM}:
                continue
            yield Ticket(
                float(str(scale)),
                quantity,
                estimate(by[DENSE]),
                estimate(by[TICKET]),
                estimate(by[RANDOM]),
                paired(by[TICKET], by[DENSE]),
                paired(by[RANDOM], by[DENSE]),
                paired(by[TICKET], by[RANDOM]),
            )


@dataclass(frozen=True)
class Alike:
    """Spearman's correlation of units' values with the same units' in the dense network."""

    scale: float
    metric: str
    statistic: str
    ticket: Estimate
    random: Estimate
    difference: Estimate | None


def alike(run: SavedRun) -> Iterator[Alike]:
    """Yield how alike units stay, of each metric by the first of its columns that units have."""
    table = run.tables["alike"]
    table = table[table["layer"] == ALL_LAYERS]
    for (scale, metric), part in table.groupby(["scale", "metric"], sort=False):
        statistic = str(part["statistic"].iloc[0])
        by = {
            str(name): one.set_index(list(numbers.NETWORK))["value"]
            for name, one in part[part["statistic"] == statistic].groupby("network")
        }
        if set(by) == {TICKET, RANDOM}:
            yield Alike(
                float(str(scale)),
                str(metric),
                statistic,
                estimate(by[TICKET]),
                estimate(by[RANDOM]),
                paired(by[TICKET], by[RANDOM]),
            )
