"""All that a laboratory run comes to: read once from its tables, told by verdict, figures, tables.

Everything holds with cells missing: what cannot be told is not there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report.laboratory import decomposition
from polykit.report.laboratory.decomposition import Parts
from polykit.report.laboratory.effects import (
    CONTRASTS,
    NETWORK,
    PRUNED,
    UNPRUNED,
    Effect,
    Setting,
    by_world,
    effects,
    holm,
    p_value,
    trends,
    world_percents,
)
from polykit.report.laboratory.pooling import Pooled, pool
from polykit.report.numbers import Estimate, Quantity, describe, estimate, select
from polykit.report.style import ARM_LOOKS, CONTROL, DENSE
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

CEILING = "label_ceiling"
TOTAL_DIMENSIONALITY = "total_feature_dimensionality"
_NO_VALUES = pd.DataFrame(
    columns=pd.MultiIndex.from_arrays([[], []], names=["arm", "ratio"]),
    index=pd.MultiIndex.from_arrays([[], [], []], names=["scenario", "dropout", "seed"]),
    dtype=float,
)


@dataclass(frozen=True)
class Findings:
    """What a run holds and what it comes to.

    `values` are the headline's, worlds down and (arm, ratio) across. `against_unpruned` and
    `against_dense` take differences to the pruned networks apart. `pooled` is by contrast and
    dropout, over the scenarios whose labels can be read; `pooled_all` over all of them. `chances`
    are the pooled p-values after correction for the number of shares of dropout, `trend_chances`
    those of the pruned networks' trends after correction for the number of settings.
    """

    quantity: Quantity
    scenarios: tuple[str, ...]
    dropouts: tuple[float, ...]
    values: pd.DataFrame
    effects: Mapping[tuple[str, float, str], Effect]
    against_unpruned: Mapping[Setting, Parts]
    against_dense: Mapping[Setting, Parts]
    parts_percent: Mapping[Setting, Parts]
    trends: Mapping[str, Mapping[Setting, Estimate]]
    trend_chances: Mapping[Setting, float]
    ceilings: Mapping[str, Estimate]
    threshold: float | None
    pooled: Mapping[tuple[str, float], Pooled]
    pooled_all: Mapping[tuple[str, float], Pooled]
    chances: Mapping[tuple[str, float], float]

    def noisy(self, scenario: str) -> bool:
        """Whether the features explain too little of a scenario's labels to say anything."""
        ceiling = self.ceilings.get(scenario)
        return ceiling is not None and self.threshold is not None and ceiling.mean < self.threshold

    def effect(self, scenario: str, dropout: float, contrast: str) -> Effect | None:
        """Return a contrast in a setting; None where no world has both arms."""
        return self.effects.get((scenario, dropout, contrast))

    def dense(self, scenario: str, dropout: float) -> float | None:
        """Return the mean of the dense networks; None where there are none."""
        return arm_mean(self.values, scenario, dropout, DENSE, 0.0)


def findings(run: SavedRun) -> Findings:
    """Work out all effects of a run."""
    quantity, rows = headline(run), run.rows
    values = spread(rows, quantity.metric, quantity.statistic)
    found = effects(values)
    states = decomposition.states(rows, run.tables["networks"], quantity.metric, quantity.statistic)
    apart = decomposition.by_setting(states, UNPRUNED)
    shared_out = decomposition.in_percent(apart, values)
    ceilings, threshold = facts(run, CEILING), _threshold(run.meta)
    names, shares = scenarios(run), dropouts(run)
    actual = actual_ratios(run)
    slopes = {arm: trends(values, actual, arm) for arm in (PRUNED, CONTROL)}
    lowest = -math.inf if threshold is None else threshold
    known = [name for name in names if name not in ceilings or ceilings[name].mean >= lowest]
    each = {contrast: world_percents(values, contrast) for contrast in CONTRASTS}
    if shared_out:
        for place, part in enumerate(("within", "composition")):
            each[part] = pd.concat([made[place] for made in shared_out.values()])
    pooled = _pooled(each, shares, known)
    return Findings(
        quantity,
        names,
        shares,
        values,
        {(e.scenario, e.dropout, e.contrast): e for e in found},
        decomposition.parts(apart),
        decomposition.parts(decomposition.by_setting(states, DENSE)),
        decomposition.parts(shared_out),
        slopes,
        _corrected({setting: p_value(slope) for setting, slope in slopes[PRUNED].items()}),
        ceilings,
        threshold,
        pooled,
        pooled if len(known) == len(names) else _pooled(each, shares, names),
        _chances(pooled),
    )


def headline(run: SavedRun) -> Quantity:
    """Return the statistic that the run is about."""
    told = run.meta.get("headline") or {}
    metric, statistic = str(told.get("metric", "ig")), str(told.get("statistic", "ratio"))
    known = describe(run, metric, statistic)
    summary, unit = str(told.get("summary") or known.summary), str(told.get("unit") or known.unit)
    return Quantity(metric, statistic, summary, unit, known.low, known.high)


def scenarios(run: SavedRun) -> tuple[str, ...]:
    """Return the scenarios that have rows, in the order of the run's record."""
    there = [str(name) for name in run.rows["scenario"].unique()]
    told = [str(record.get("name")) for record in run.meta.get("scenarios") or []]
    return tuple(sorted(there, key=lambda name: told.index(name) if name in told else len(told)))


def dropouts(run: SavedRun) -> tuple[float, ...]:
    """Return the shares of dropout that have rows, from none up."""
    return tuple(sorted(float(share) for share in run.rows["dropout"].unique()))


def arms(run: SavedRun) -> list[str]:
    """Return the arms that have rows, in the order of the legend."""
    there = {str(arm) for arm in run.rows["arm"].unique()}
    return [arm for arm in ARM_LOOKS if arm in there]


def layers(run: SavedRun, scenario: str, quantity: Quantity) -> list[str]:
    """Return the layers that a statistic was measured in, from input to output."""
    rows = run.rows[(run.rows["scenario"] == scenario) & (run.rows["metric"] == quantity.metric)]
    rows = rows[rows["statistic"] == quantity.statistic]
    return [str(layer) for layer in rows["layer"].unique() if layer != ALL_LAYERS]


def units(run: SavedRun, scenario: str, names: Collection[str]) -> int:
    """Return how many units these layers have before pruning; 0 if that is not known."""
    networks = run.tables["networks"]
    here = networks[(networks["scenario"] == scenario) & networks["layer"].isin(list(names))]
    return int(here.groupby("layer")["units"].max().sum())


def spread(
    rows: pd.DataFrame, metric: str, statistic: str, layer: str = ALL_LAYERS
) -> pd.DataFrame:
    """Return a statistic's finite values: worlds down, (arm, ratio) across."""
    table = select(rows, metric, statistic, layer)
    return by_world(table) if len(table) else _NO_VALUES


def actual_ratios(run: SavedRun) -> pd.DataFrame:
    """Return the pruning ratios that were reached: worlds down, (arm, ratio) across."""
    table = run.tables["networks"].drop_duplicates(NETWORK).assign(layer=ALL_LAYERS)
    if table.empty:
        return _NO_VALUES
    return by_world(table[[*NETWORK, "actual_ratio"]].rename(columns={"actual_ratio": "value"}))


def total_dimensionality(run: SavedRun) -> pd.DataFrame:
    """Return the total feature dimensionality, spread like `values`; empty if not measured."""
    there = run.rows[run.rows["statistic"] == TOTAL_DIMENSIONALITY]
    metrics = there["metric"].unique()
    own = next((name for name in metrics if name == "feature-dimensionality"), None)
    metric = own if own is not None else next(iter(metrics), "")
    return spread(run.rows, str(metric), TOTAL_DIMENSIONALITY)


def facts(run: SavedRun, fact: str) -> dict[str, Estimate]:
    """Return a fact of each scenario over its worlds."""
    worlds = run.tables["worlds"]
    here = worlds[(worlds["fact"] == fact) & worlds["value"].map(math.isfinite)]
    return {str(name): estimate(part["value"]) for name, part in here.groupby("scenario")}


def cell(
    values: pd.DataFrame, scenario: str, dropout: float, arm: str, ratio: float
) -> pd.Series[float]:
    """Return one arm's values at one ratio, by seed."""
    if (arm, ratio) not in values.columns:
        return pd.Series(dtype=float)
    inside = values.index.get_level_values("scenario") == scenario
    inside &= values.index.get_level_values("dropout") == dropout
    column = values[(arm, ratio)][inside].dropna()
    return pd.Series(column.to_numpy(), index=column.index.get_level_values("seed"))


def ratios(values: pd.DataFrame, arm: str) -> list[float]:
    """Return the pruning ratios that an arm has, from the mildest up; 0 is none."""
    names, found = (values.columns.get_level_values(level) for level in ("arm", "ratio"))
    there = (float(ratio) for name, ratio in zip(names, found, strict=True) if name == arm)
    return sorted(ratio for ratio in there if ratio > 0)


def arm_mean(
    values: pd.DataFrame, scenario: str, dropout: float, arm: str, ratio: float
) -> float | None:
    """Return the mean of one arm at one ratio; None where there is no value."""
    found = cell(values, scenario, dropout, arm, ratio)
    return float(found.mean()) if len(found) else None


def _threshold(meta: Mapping[str, Any]) -> float | None:
    value = (meta.get("threshold") or {}).get(CEILING)
    return None if value is None else float(value)


def _pooled(
    each: Mapping[str, pd.Series[float]], shares: Iterable[float], names: Sequence[str]
) -> dict[tuple[str, float], Pooled]:
    """Pool values of worlds by what they are and by dropout, over some scenarios."""
    found: dict[tuple[str, float], Pooled] = {}
    for name, values in each.items():
        if len(values):
            here = values.index.get_level_values("scenario").isin(list(names))
            dropout = values.index.get_level_values("dropout")
            made = {share: pool(values[here & (dropout == share)]) for share in shares}
            found |= {(name, share): p for share, p in made.items() if p is not None}
    return found


def _chances(pooled: Mapping[tuple[str, float], Pooled]) -> dict[tuple[str, float], float]:
    found: dict[tuple[str, float], float] = {}
    for name in dict.fromkeys(name for name, _ in pooled):
        found |= _corrected({key: made.p for key, made in pooled.items() if key[0] == name})
    return found


def _corrected(family: Mapping[tuple[str, float], float | None]) -> dict[tuple[str, float], float]:
    corrected = zip(family, holm(list(family.values())), strict=True)
    return {key: p for key, p in corrected if p is not None}


def summary(run: SavedRun) -> pd.DataFrame:
    """Return every effect: its mean over worlds, 95 % interval, p-values, and share of the dense.

    Index: scenario, dropout, contrast; an interval and a p-value need two worlds.
    """
    records = []
    for effect in findings(run).effects.values():
        value, share = effect.estimate, effect.percent
        none = value.half is None
        records.append(
            {
                "scenario": effect.scenario,
                "dropout": effect.dropout,
                "contrast": effect.contrast,
                "difference": value.mean,
                "low": math.nan if none else value.low,
                "high": math.nan if none else value.high,
                "percent": share.mean if share else math.nan,
                "p": math.nan if effect.p is None else effect.p,
                "corrected p": math.nan if effect.corrected is None else effect.corrected,
                "worlds": value.n,
            }
        )
    columns = ["scenario", "dropout", "contrast", "difference", "low", "high", "percent", "p"]
    table = pd.DataFrame(records, columns=[*columns, "corrected p", "worlds"])
    return table.set_index(["scenario", "dropout", "contrast"])
