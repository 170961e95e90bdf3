"""The tables of a laboratory run: a scenario's effects and networks, pooled effects, data cards."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from polykit.report import words
from polykit.report.laboratory.decomposition import Parts
from polykit.report.laboratory.effects import CONTRASTS, Size, standardised
from polykit.report.laboratory.findings import (
    CEILING,
    TOTAL_DIMENSIONALITY,
    Findings,
    actual_ratios,
    cell,
    facts,
    ratios,
    spread,
    total_dimensionality,
)
from polykit.report.laboratory.pooling import Pooled
from polykit.report.laboratory.verdict import ORIGINS
from polykit.report.numbers import Estimate
from polykit.report.style import ARM_LOOKS
from polykit.report.tables import Cell, Table, difference, exact
from polykit.report.tables import spread as spread_cell
from polykit.runtime.store import SavedRun

_NOTHING = Cell("–")
_PARTS = {"composition": ORIGINS["composition"], "within": ORIGINS["within"]}


def overall_tables(run: SavedRun, found: Findings) -> list[Table]:
    """Return the tables over all scenarios that have rows."""
    made = [pooled(found), data_card(run, found)]
    return [table for table in made if table.rows]


def scenario_tables(run: SavedRun, found: Findings, scenario: str, place: int) -> list[Table]:
    """Return the tables of one scenario that have rows; `place` keeps their names apart."""
    made = [effect_table(found, scenario, place), network_table(run, found, scenario, place)]
    return [table for table in made if table.rows]


def effect_table(found: Findings, scenario: str, place: int) -> Table:
    """One row per contrast, and per part of a contrast, for each share of dropout."""
    rows: list[tuple[Cell, ...]] = []
    for dropout in found.dropouts:
        for contrast in CONTRASTS:
            effect = found.effect(scenario, dropout, contrast)
            if effect is None:
                continue
            name = " − ".join(CONTRASTS[contrast])
            rows.append(
                (
                    exact(dropout),
                    Cell(name),
                    difference(effect.estimate),
                    difference(effect.percent),
                    _chance(effect.p),
                    _chance(effect.corrected),
                    _size(standardised(effect.estimate)),
                    exact(effect.estimate.n),
                )
            )
            parts = {
                "pruning": found.against_unpruned.get((scenario, dropout)),
                "total": found.against_dense.get((scenario, dropout)),
            }.get(contrast)
            if parts is not None:
                rows += _part_rows(dropout, name, parts)
        for arm, slopes in found.trends.items():
            slope = slopes.get((scenario, dropout))
            if slope is not None:
                title = f"{arm}, per tenth removed"
                rows.append((exact(dropout), Cell(title), *_plain(slope)))
    unit = f" ({found.quantity.unit})" if found.quantity.unit else ""
    heads = ("dropout", "contrast", f"difference{unit}", "% of dense", "p", "corrected p")
    return Table(
        f"effects-{place}",
        f"{scenario}: effects",
        f"Differences in {found.quantity.summary}, paired by seed, averaged over pruning ratios. "
        "In brackets: 95\u00a0% intervals, not corrected. Corrected p: Holm, over all scenarios "
        "and shares of dropout of the contrast. d: mean over standard deviation of the paired "
        "differences. Per tenth removed: slope over the ratios that were reached, per tenth of the "
        "parameters.",
        (*heads, "d", "seeds"),
        (True, False, True, True, True, True, True, True),
        tuple(rows),
    )


def _part_rows(dropout: float, name: str, parts: Parts) -> list[tuple[Cell, ...]]:
    return [
        (exact(dropout), Cell(f"{name}: {title}"), *_plain(value, like=parts.total))
        for value, title in (
            (parts.composition, _PARTS["composition"]),
            (parts.within, _PARTS["within"]),
        )
    ]


def _plain(value: Estimate, like: Estimate | None = None) -> tuple[Cell, ...]:
    """A row's numbers where no test belongs to them."""
    number = Cell(words.interval(value, like=like), value.mean)
    return (number, _NOTHING, _NOTHING, _NOTHING, _NOTHING, exact(value.n))


def _chance(p: float | None) -> Cell:
    return _NOTHING if p is None else Cell(words.chance_alone(p), p)


def _size(size: Size | None) -> Cell:
    if size is None:
        return _NOTHING
    return Cell(f"{_two(size.value)} [{_two(size.low)}, {_two(size.high)}]", size.value)


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def network_table(run: SavedRun, found: Findings, scenario: str, place: int) -> Table:
    """One row per arm and ratio for each share of dropout: widths, headline, silence, loss."""
    rows_here = run.rows[run.rows["scenario"] == scenario]
    metric, quantity = found.quantity.metric, found.quantity
    shown = {quantity.summary: found.values}
    wanted = {
        "silent units": (metric, "silent"),
        "loss": ("loss", "loss"),
        "R²": ("r2", "r2"),
    }
    for title, (name, statistic) in wanted.items():
        table = spread(rows_here, name, statistic)
        if len(table):
            shown[title] = table
    dimensionality = total_dimensionality(run)
    if len(dimensionality):
        shown[TOTAL_DIMENSIONALITY.replace("_", " ")] = dimensionality
    networks = run.tables["networks"]
    networks = networks[networks["scenario"] == scenario]
    widths = _widths(networks, [str(name) for name in networks["layer"].unique()])
    actual = actual_ratios(run)
    rows = []
    for dropout in found.dropouts:
        for arm in ARM_LOOKS:
            for ratio in ratios(found.values, arm) or [0.0]:
                values = [cell(t, scenario, dropout, arm, ratio) for t in shown.values()]
                if not any(len(value) for value in values):
                    continue
                reached = cell(actual, scenario, dropout, arm, ratio)
                rows.append(
                    (
                        exact(dropout),
                        Cell(arm),
                        exact(ratio) if ratio else _NOTHING,
                        spread_cell(reached) if ratio else _NOTHING,
                        *(_width(table, dropout, arm, ratio) for table in widths.values()),
                        *(spread_cell(value) for value in values),
                    )
                )
    heads = ("dropout", "arm", "ratio", "reached", *(f"units of {n}" for n in widths), *shown)
    return Table(
        f"networks-{place}",
        f"{scenario}: networks and their widths",
        "Whole networks after their last epoch. Means over seeds ± half the width of the 95\u00a0% "
        "t-interval. Ratio: asked; reached: the share of parameters removed. Layers and epochs are "
        "in rows.parquet and epochs.parquet beside this page.",
        heads,
        (True, False, *(True,) * (len(heads) - 2)),
        tuple(rows),
    )


def _widths(networks: pd.DataFrame, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {name: networks[networks["layer"] == name] for name in names}


def _width(table: pd.DataFrame, dropout: float, arm: str, ratio: float) -> Cell:
    """Units kept, as a mean over seeds, of how many."""
    here = table[(table["arm"] == arm) & (table["ratio"] == ratio) & (table["dropout"] == dropout)]
    if here.empty:
        return _NOTHING
    kept, units = float(here["kept"].mean()), float(here["units"].mean())
    return Cell(f"{kept:.4g} of {units:.4g}", kept)


def pooled(found: Findings) -> Table:
    """One row per contrast or part of one and share of dropout, over readable and all scenarios."""
    names = {name: " − ".join(both) for name, both in CONTRASTS.items()}
    names |= {name: f"{names['pruning']}: {part}" for name, part in _PARTS.items()}
    rows = []
    for name, title in names.items():
        for dropout in found.dropouts:
            made, everything = (t.get((name, dropout)) for t in (found.pooled, found.pooled_all))
            if made is not None and len(made.scenarios) > 1:
                p = found.chances.get((name, dropout))
                rows.append(_pooled_row(title, dropout, "labels not too noisy", made, p))
            more = made is None or everything is None or everything.scenarios != made.scenarios
            if more and everything is not None and len(everything.scenarios) > 1:
                rows.append(_pooled_row(title, dropout, "all scenarios", everything, None))
    return Table(
        "pooled",
        "Effects over scenarios",
        "In per cent of each world’s dense value. For scenarios at large: random-effects mean with "
        "95\u00a0% interval (DerSimonian–Laird, Hartung–Knapp). Over worlds: plain mean with the "
        "interval that takes them as alike, and the p of random signs, corrected for the shares "
        "of dropout.",
        (
            "contrast",
            "dropout",
            "over",
            "scenarios",
            "worlds",
            "for scenarios at large (%)",
            "over worlds (%)",
            "p",
            "corrected p",
        ),
        (False, True, False, True, True, True, True, True, True),
        tuple(rows),
    )


def _pooled_row(
    title: str, dropout: float, over: str, made: Pooled, p: float | None
) -> tuple[Cell, ...]:
    return (
        Cell(title),
        exact(dropout),
        Cell(over),
        exact(len(made.scenarios)),
        exact(made.worlds.n),
        difference(made.at_large),
        difference(made.worlds),
        _chance(made.p),
        _chance(p),
    )


def data_card(run: SavedRun, found: Findings) -> Table:
    """One row per scenario: what its data are, and every fact its worlds tell of themselves."""
    worlds = run.tables["worlds"]
    told = [str(fact) for fact in worlds["fact"].unique()]
    told.sort(key=lambda fact: fact != CEILING)
    known = {fact: facts(run, fact) for fact in told}
    told = [fact for fact in told if known[fact]]
    records = {str(r.get("name")): r for r in run.meta.get("scenarios") or []}
    rows = []
    for scenario in found.scenarios:
        record = records.get(scenario) or {}
        can = "too noisy to say" if found.noisy(scenario) else "can be read"
        can = can if scenario in found.ceilings and found.threshold is not None else "not known"
        rows.append(
            (
                Cell(scenario),
                Cell(can),
                *(_fact(known[fact].get(scenario)) for fact in told),
                Cell(str(record.get("dataset") or "–")),
                Cell(str(record.get("model") or "–")),
            )
        )
    heads = ("scenario", "labels", *(name.replace("_", " ") for name in told), "dataset", "model")
    return Table(
        "cards",
        "Data card",
        "Means over worlds ± half the width of the 95\u00a0% t-interval. Label ceiling: the share "
        "of the labels that the features explain; what is not explained is noise to any network.",
        heads,
        (False, False, *(True,) * len(told), False, False),
        tuple(rows),
    )


def _fact(value: Estimate | None) -> Cell:
    if value is None:
        return _NOTHING
    half = f" ± {words.number(value.half, value.mean)}" if value.half else ""
    return Cell(f"{words.number(value.mean)}{half}", value.mean)
