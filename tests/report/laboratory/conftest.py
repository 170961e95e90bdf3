"""Synthetic laboratory runs whose true effects are known, with the tables as a run holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polykit.runtime.store import SavedRun
from polykit.runtime.tables import TABLES, empty

UNITS = {"net.0": 64, "net.2": 16}
MEANS = {"net.0": 5.0, "net.2": 7.0}


@dataclass(frozen=True)
class Truth:
    """What is true of a scenario.

    `retraining` moves every layer of every retrained network; `within` those of pruned networks;
    `chosen` those of pruned but not of random ones. `first` and `second` say how hard each layer is
    pruned, relative to the ratio: alike, there is no composition effect.
    """

    retraining: float = 0.0
    within: float = 0.0
    chosen: float = 0.0
    first: float = 1.0
    second: float = 1.0
    noise: float = 0.03
    ceiling: float | None = 0.95
    silent: float = 0.0
    seeds: int = 5
    dropouts: Sequence[float] = (0.0, 0.5)
    ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7)


COMPOSITION = Truth(first=1.2, second=0.0)
RETRAINING = Truth(retraining=-0.6)
NOTHING = Truth()
NOISY = Truth(within=0.5, ceiling=0.2)
WITHIN = Truth(within=0.5)

Builder = Callable[..., SavedRun]


def build(path: Path, meta: Mapping[str, Any] | None = None, **truths: Truth) -> SavedRun:
    """Make a run with these scenarios."""
    made = {table: [] for table in TABLES["laboratory"]}
    rng = np.random.default_rng(7)
    for name, truth in truths.items():
        for seed in range(truth.seeds):
            if truth.ceiling is not None:
                facts = {"label_ceiling": truth.ceiling, "label_learnable": truth.ceiling - 0.1}
                made["worlds"] += [
                    (name, seed, fact, value + rng.normal(0, 0.01)) for fact, value in facts.items()
                ]
            for dropout in truth.dropouts:
                _world(made, rng, (name, dropout, seed), truth)
    tables = {
        table: pd.DataFrame(made[table], columns=list(columns)).astype(
            empty("laboratory", table).dtypes
        )
        for table, columns in TABLES["laboratory"].items()
    }
    return SavedRun(path, {**default_meta(truths), **(meta or {})}, tables)


def _world(made: dict[str, list[Any]], rng: np.random.Generator, world: Any, truth: Truth) -> None:
    shift = rng.normal(0, 0.3)
    kept = dict(UNITS)
    _network(made, rng, (*world, "dense", 0.0), kept, shift, truth)
    _network(made, rng, (*world, "unpruned", 0.0), kept, shift + truth.retraining, truth)
    for ratio in truth.ratios:
        shares = _shares(truth, ratio)
        kept = {layer: round(n * (1 - shares[layer])) for layer, n in UNITS.items()}
        moved = shift + truth.retraining + truth.within
        for arm, more in (("pruned", truth.chosen), ("random", 0.0), ("scratch", 0.0)):
            _network(made, rng, (*world, arm, ratio), kept, moved + more, truth)


def _shares(truth: Truth, ratio: float) -> dict[str, float]:
    return {"net.0": truth.first * ratio, "net.2": truth.second * ratio}


def _network(
    made: dict[str, list[Any]],
    rng: np.random.Generator,
    network: Any,
    kept: Mapping[str, int],
    shift: float,
    truth: Truth,
) -> None:
    parameters, whole = sum(kept.values()), sum(UNITS.values())
    made["networks"] += [
        (*network, 1 - parameters / whole, layer, units, kept[layer])
        for layer, units in UNITS.items()
    ]
    values = {layer: m + shift + rng.normal(0, truth.noise) for layer, m in MEANS.items()}
    silent = dict.fromkeys(UNITS, truth.silent)
    weights = {layer: kept[layer] * (1 - silent[layer]) for layer in UNITS}
    there = [layer for layer in UNITS if weights[layer]]
    total = sum(weights.values())
    mean = sum(weights[layer] * values[layer] for layer in there) / total
    told = {layer: (values[layer], silent[layer]) for layer in there}
    told["all"] = (mean, truth.silent)
    for layer, (value, quiet) in told.items():
        made["rows"] += [
            (*network, "ig", layer, "ratio_responding", value),
            (*network, "ig", layer, "ratio", value * (1 - quiet)),
            (*network, "ig", layer, "silent", quiet),
        ]
    made["rows"] += [
        (*network, "feature-dimensionality", "all", "total_feature_dimensionality", 0.97),
        (*network, "loss", "all", "loss", 0.4 + rng.normal(0, 0.01)),
    ]
    for epoch in range(4):
        value = mean + (3 - epoch) * 0.1
        made["epochs"].append((*network, epoch, "ig", "all", "ratio_responding", value))
        made["history"].append((*network, epoch, 0.5 / (epoch + 1), 0.6 / (epoch + 1)))


def default_meta(names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    record = {
        "label": "ig",
        "name": "ig",
        "distribution": "polykit",
        "options": {},
        "headline": "ratio_responding",
        "columns": {
            "ratio_responding": {
                "summary": "polysemanticity of responding units",
                "unit": "features per unit",
                "low": 1.0,
                "high": None,
            }
        },
    }
    return {
        "polykit": "0.1.0",
        "workflow": "laboratory",
        "status": "complete",
        "command": "polykit run recipe.toml",
        "config": {"seeds": [0, 1], "scenarios": [{"name": name} for name in names]},
        "plugins": {"metrics": [record]},
        "scenarios": [
            {
                "name": name,
                "dataset": f"feature-model:preset={name}",
                "model": "mlp:widths=64,16",
                "layers": list(UNITS),
                "description": f"the {name} world",
            }
            for name in names
        ],
        "headline": {
            "metric": "ig",
            "statistic": "ratio_responding",
            "summary": "polysemanticity of responding units",
            "unit": "features per unit",
        },
        "threshold": {"label_ceiling": 0.75},
        "failures": {},
        "notices": [],
    }


@pytest.fixture(scope="session")
def make_laboratory(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Build a run from scenarios with known truths, each in an empty directory of its own."""

    def make(meta: Mapping[str, Any] | None = None, **truths: Truth) -> SavedRun:
        return build(tmp_path_factory.mktemp("laboratory"), meta, **truths)

    return make


SMALL = {"seeds": 3, "dropouts": (0.0,), "ratios": (0.3, 0.6)}
"""Few enough networks to draw often."""


@pytest.fixture(scope="session")
def known(make_laboratory: Builder) -> SavedRun:
    """Five scenarios, one for each thing that may be true."""
    return make_laboratory(
        composition=COMPOSITION,
        retraining=RETRAINING,
        nothing=NOTHING,
        noisy=NOISY,
        within=WITHIN,
    )
