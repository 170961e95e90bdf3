"""Where a change of a network's mean comes from: within its layers, or from their shares.

A network's mean over units is P = Σ_l w_l·m_l, w_l the share of layer l among the units that count
and m_l their mean. Layers differ in m_l, so removing units of one of them moves P although no unit
has changed. With the means of both states, ΔP = Σ w̄_l·Δm_l (within layers) + Σ m̄_l·Δw_l
(composition of layers), exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from polykit.report.laboratory.effects import (
    NETWORK,
    PRUNED,
    UNPRUNED,
    WORLD,
    Setting,
    balanced,
    dense_values,
    percent,
    settings,
)
from polykit.report.numbers import Estimate, estimate, finite
from polykit.report.style import DENSE
from polykit.types.measurement import ALL_LAYERS

_TOLERANCE = 1e-3  # relative; the parts of a network must add up to its mean
_RESPONDING = "_responding"
Array = npt.NDArray[np.float64]
Apart = tuple["pd.Series[float]", "pd.Series[float]"]
"""Each world's change within layers, and its change by composition."""


@dataclass(frozen=True)
class Parts:
    """A difference between two arms and its two parts, over the same worlds and ratios."""

    total: Estimate
    within: Estimate
    composition: Estimate


def contributions(
    weight: Array, mean: Array, new_weight: Array, new_mean: Array
) -> tuple[Array, Array]:
    """Return what each layer gives to the change within layers and to that of composition.

    Weights and means are arrays of one shape, layers along any axis; the weights of each network
    sum to 1. A layer that is missing from one state has weight 0 and mean NaN there: all that it
    gives is composition.

    >>> old, new = np.array([[0.5, 0.5], [5.0, 7.0]]), np.array([[1.0, 0.0], [5.0, np.nan]])
    >>> within, composition = contributions(*old, *new)  # 6 → 5, since layer 2 went
    >>> within.tolist(), composition.tolist()
    ([0.0, 0.0], [2.5, -3.5])
    """
    old = np.where(np.isnan(mean), new_mean, mean)
    new = np.where(np.isnan(new_mean), mean, new_mean)
    within = (weight + new_weight) / 2 * (new - old)
    return within, (old + new) / 2 * (new_weight - weight)


def states(rows: pd.DataFrame, networks: pd.DataFrame, metric: str, statistic: str) -> pd.DataFrame:
    """Return weight and mean of each layer of each network, indexed by network and layer.

    A mean over responding units counts those only. Networks whose layers do not add up to their
    mean (a measured layer of unknown width) are left out.
    """
    here = finite(rows[rows["metric"] == metric])
    value = here[here["statistic"] == statistic].drop_duplicates([*NETWORK, "layer"])
    whole = value[value["layer"] == ALL_LAYERS].set_index(NETWORK)["value"]
    value = value[value["layer"] != ALL_LAYERS]
    table = value[[*NETWORK, "layer", "value"]].rename(columns={"value": "mean"})
    widths = networks.drop_duplicates([*NETWORK, "layer"])[[*NETWORK, "layer", "kept"]]
    full = networks.groupby(["scenario", "layer"], as_index=False)["units"].max()
    table = table.merge(widths, how="left").merge(full, how="left")
    uncut = table["arm"].isin([DENSE, UNPRUNED])
    table["weight"] = table["kept"].where(table["kept"].notna() | ~uncut, table["units"])
    if statistic.endswith(_RESPONDING):
        silent = here[here["statistic"] == "silent"].drop_duplicates([*NETWORK, "layer"])
        silent = silent[[*NETWORK, "layer", "value"]].rename(columns={"value": "silent"})
        table = table.merge(silent, how="left")
        table["weight"] *= 1 - table["silent"].fillna(0.0)
    table = table[table["weight"] > 0].set_index([*NETWORK, "layer"])[["weight", "mean"]]
    table["weight"] /= table.groupby(level=NETWORK)["weight"].transform("sum")
    sums = (table["weight"] * table["mean"]).groupby(level=NETWORK).transform("sum")
    told = whole.reindex(pd.MultiIndex.from_frame(table.reset_index()[NETWORK])).to_numpy()
    add_up = np.abs(sums.to_numpy() - told) <= _TOLERANCE * np.abs(sums.to_numpy())
    return pd.DataFrame(table.loc[add_up])


def split(table: pd.DataFrame, base: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return pruned − base within layers and by composition: worlds down, ratios across.

    `table` is as `states` gives it; `base` is dense or unpruned.
    """
    flat = table.reset_index()
    after = flat[flat["arm"] == PRUNED].drop(columns="arm")
    before = flat[flat["arm"] == base].drop(columns=["arm", "ratio"])
    pairs = after[[*WORLD, "ratio"]].drop_duplicates().merge(before[WORLD].drop_duplicates())
    key = [*WORLD, "ratio", "layer"]
    joined = pairs.merge(before).merge(
        pairs.merge(after), how="outer", on=key, suffixes=("", "_new")
    )
    within, composition = contributions(
        joined["weight"].fillna(0.0).to_numpy(dtype=float),
        joined["mean"].to_numpy(dtype=float),
        joined["weight_new"].fillna(0.0).to_numpy(dtype=float),
        joined["mean_new"].to_numpy(dtype=float),
    )
    made = joined.assign(within=within, composition=composition)
    sums = made.groupby([*WORLD, "ratio"])[["within", "composition"]].sum()
    return sums["within"].unstack("ratio"), sums["composition"].unstack("ratio")


def by_setting(table: pd.DataFrame, base: str) -> dict[Setting, Apart]:
    """Return `split` of each setting, averaged over ratios: one value for each world."""
    found: dict[Setting, Apart] = {}
    both = split(table, base)
    for setting, part in settings(both[0]):
        within = balanced(part)
        composition = both[1].loc[within.index, within.columns]
        if len(within):
            found[setting] = within.mean(axis=1), composition.mean(axis=1)
    return found


def in_percent(found: Mapping[Setting, Apart], values: pd.DataFrame) -> dict[Setting, Apart]:
    """Return the same in percent of the dense network's value; `values` as of `by_world`."""
    dense = dense_values(values)
    shares = {
        setting: (percent(within, dense), percent(composition, dense))
        for setting, (within, composition) in found.items()
    }
    return {setting: both for setting, both in shares.items() if len(both[0])}


def parts(found: Mapping[Setting, Apart]) -> dict[Setting, Parts]:
    """Return the estimates over worlds of each setting."""
    return {
        setting: Parts(estimate(within + composition), estimate(within), estimate(composition))
        for setting, (within, composition) in found.items()
    }
