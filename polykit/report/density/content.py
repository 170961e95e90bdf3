"""What the page of a density study says beside its verdict and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report import words
from polykit.report.density import extra_tables, numbers
from polykit.report.density.verdict import percent
from polykit.report.numbers import finite
from polykit.report.tables import Cell, Table, exact, spread, spread_note
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS


@dataclass(frozen=True)
class DensityContent:
    """Title, facts and tables of the page."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]


def content(run: SavedRun) -> DensityContent:
    """Return what the template of a density study needs."""
    config: dict[str, Any] = dict(run.meta.get("config") or {})
    facts = [
        ("widths", _listed(config.get("scales"))),
        ("starts", _listed(config.get("inits"))),
        ("optimisers", ", ".join(sorted(map(str, run.rows["optimizer"].unique())))),
        ("batch size", str(config.get("batch_size", ""))),
        ("seeds", _listed(config.get("seeds"))),
        ("splits", _listed(config.get("data_seeds"))),
        ("stop", _stop(config)),
        ("pruning", f"{config.get('step')} a step, {config.get('scope')}"),
        ("threshold", _threshold(run.meta)),
    ]
    beyond = (extra_tables.correlations, extra_tables.classes, extra_tables.tickets)
    made = [counts(run), densities(run), overlaps(run)]
    made += [table(run) for table in (*beyond, extra_tables.alike)]
    made += [statistics(run)]
    return DensityContent(
        f"How dense {config.get('model', 'networks')} wants to be on {config.get('dataset')}",
        [(name, text) for name, text in facts if text],
        [table for table in made if table.rows],
    )


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values or ())


def _stop(config: dict[str, Any]) -> str:
    if config.get("stop") == "loss":
        return f"at validation loss {config.get('stop_loss')}, or {config.get('epochs')} epochs"
    kept = ", best validation epoch kept" if config.get("stop") == "best" else ""
    return f"after {config.get('epochs')} epochs{kept}"


def _threshold(meta: Mapping[str, Any]) -> str:
    threshold = meta.get("threshold") or {}
    if threshold.get("drop") is not None:
        return f"accuracy falls by more than {threshold['drop']}"
    return f"loss rises by more than {threshold['rise']}" if threshold else ""


def counts(run: SavedRun) -> Table:
    """Weights by width: the paper's Table 1."""
    table = run.tables["effective"].groupby("scale")["parameters"].first()
    return Table(
        "counts",
        "Weights by width (Table 1 of the paper)",
        "Weights that may be pruned: linear and convolutional layers, biases apart.",
        ("scale", "weights"),
        (True, True),
        tuple(
            (exact(float(str(scale))), Cell(f"{count:,}", float(count)))
            for scale, count in table.items()
        ),
    )


def densities(run: SavedRun) -> Table:
    """Effective densities beside the null hypothesis: the paper's Table 2."""
    anova = {
        (pruner, optimizer): numbers.anova(part) for pruner, optimizer, part in numbers.studies(run)
    }
    rows = []
    for w in numbers.widths(run):
        overall = anova[w.pruner, w.optimizer]
        rows.append(
            (
                Cell(w.pruner),
                Cell(w.optimizer),
                exact(w.scale),
                Cell(str(w.density.n), w.density.n),
                _mean_sd(w.null, w.null_sd),
                _mean_sd(w.density.mean, w.sd),
                _chance(w.p),
                Cell(f"{w.core.mean:,.0f}", w.core.mean),
                _chance(overall),
            )
        )
    return Table(
        "densities",
        "Effective densities (Table 2 of the paper)",
        "Means ± standard deviations over networks. t-test: unpaired, two-sided, against the "
        "densities expected by the null hypothesis. ANOVA: one-way, of core sizes over widths. Not "
        "corrected for their number.",
        (
            "pruner",
            "optimiser",
            "scale",
            "networks",
            "null hypothesis",
            "found",
            "t-test p",
            "core (weights)",
            "ANOVA p",
        ),
        (False, False, *(True,) * 7),
        tuple(rows),
    )


def _mean_sd(mean: float | None, sd: float) -> Cell:
    return Cell("–") if mean is None else Cell(f"{100 * mean:.1f} ± {percent(sd)}", mean)


def _chance(p: float | None) -> Cell:
    return Cell("–") if p is None else Cell(words.chance_alone(p), p)


def overlaps(run: SavedRun) -> Table:
    """Smallest weights at initialisation and after training: the paper's Tables 3 and 4."""
    table = numbers.overlaps(run)
    layers = list(dict.fromkeys(table["layer"]))
    share = float((run.meta.get("config") or {}).get("small") or 0)
    rows = []
    for (optimizer, init, _), part in table.groupby(["optimizer", "init", "scale"]):
        scale = float(part["scale"].iloc[0])
        cells = [_mean_percent(part[part["layer"] == layer]["value"]) for layer in layers]
        rows.append((Cell(str(optimizer)), Cell(str(init)), exact(scale), *cells))
    return Table(
        "overlaps",
        "Overlap of the smallest weights at first and after training (Tables 3 and 4 of the paper)",
        f"Share of a layer's weights that are among its smallest {percent(share)} both times; "
        f"chance is {percent(share * share)}, and {percent(share)} the most there can be.",
        ("optimiser", "start", "scale", *layers),
        (False, False, *(True,) * (1 + len(layers))),
        tuple(rows),
    )


def _mean_percent(values: pd.Series[float]) -> Cell:
    return Cell(percent(float(values.mean())), float(values.mean())) if len(values) else Cell("–")


def statistics(run: SavedRun) -> Table:
    """Every statistic of the whole networks, by width."""
    rows = finite(run.rows[run.rows["layer"] == ALL_LAYERS])
    keys = ["metric", "statistic", "optimizer", "init", "scale"]
    made = []
    for key, part in rows.groupby(keys, sort=False):
        cells = [Cell(str(name)) for name in key[:-1]]
        made.append((*cells, exact(float(part["scale"].iloc[0])), spread(part["value"])))
    return Table(
        "statistics",
        "All statistics",
        f"Whole network, on the test samples. Means over networks{spread_note(run.rows)}.",
        ("metric", "statistic", "optimiser", "start", "scale", "value"),
        (False, False, False, False, True, True),
        tuple(made),
    )
