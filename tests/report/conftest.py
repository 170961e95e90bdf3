"""A synthetic saved run, with the tables exactly as a run directory holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polykit.runtime.store import SavedRun
from polykit.runtime.tables import empty

Builder = Callable[..., SavedRun]

ROWS = [
    "seed", "pruner", "density", "achieved_density", "stage", "metric", "layer", "statistic",
    "value",
]  # fmt: skip
UNITS = ["seed", "pruner", "density", "stage", "metric", "layer", "unit", "statistic", "value"]
HISTORY = [
    "seed", "pruner", "density", "phase", "epoch", "loss", "validation_loss",
    "validation_accuracy",
]  # fmt: skip
IG_COLUMNS = {
    "ratio": {"summary": "polysemanticity", "unit": "features per unit", "low": 0.0, "high": None},
    "ratio_responding": {
        "summary": "polysemanticity of responding units",
        "unit": "features per unit",
        "low": 1.0,
        "high": 10.0,
    },
    "silent": {"summary": "share of silent units", "unit": "share", "low": 0.0, "high": 1.0},
}
# How polysemantic a unit is and how right the network, at density d: (ratio, pruned, retrained).
SHAPES: dict[str, Callable[[float], tuple[float, float, float]]] = {
    "magnitude": lambda d: (4.9 + 0.25 * np.log(d), 0.97 / (1 + (0.09 / d) ** 2.6), 0.97),
    "force": lambda d: (4.8 + 0.48 * np.log(d), 0.95 * d**0.3, 0.965),
    "random": lambda d: (4.8 + 0.27 * np.log(d), max(0.1, 0.97 * d**0.9), 0.93 + 0.02 * np.log(d)),
}


def metric_record(label: str = "ig", **changes: Any) -> dict[str, Any]:
    record = {
        "label": label,
        "name": label.partition(":")[0],
        "distribution": "polykit",
        "options": {"at": "pre", "steps": None},
        "headline": "ratio_responding",
        "columns": IG_COLUMNS,
    }
    return {**record, **changes}


def default_meta(pruners: Sequence[str], seeds: Sequence[int], densities: Sequence[float]) -> Any:
    chosen = [
        {"label": p, "name": p.partition(":")[0], "distribution": "polykit", "options": {}}
        for p in pruners
    ]
    return {
        "polykit": "0.1.0",
        "workflow": "analyze",
        "status": "complete",
        "config": {
            "model": "mlp", "dataset": "digits", "pruners": [p for p in pruners if p != "random"],
            "metrics": ["ig"], "densities": list(densities), "seeds": list(seeds),
            "granularity": "weight", "scope": "global", "objective": "task",
            "prune_at": "trained", "control": "random" in pruners, "lr": 0.001,
            "options": {"force": {"rounds": 5}},
        },
        "plugins": {
            "pruners": chosen,
            "metrics": [metric_record()],
            "dataset": {"label": "digits", "name": "digits", "distribution": "polykit",
                        "options": {}},
            "model": {"label": "mlp", "name": "mlp", "distribution": "polykit",
                      "options": {"widths": [64, 32]}},
        },
        "environment": {"python": "3.11.4", "torch": "2.15.0", "platform": "Linux", "device": "cpu",
                        "git": "4f2a9c1"},
        "data": {"name": "digits", "train": 1078, "validation": 180, "test": 539, "outputs": 10,
                 "task": "classification", "classes": [str(i) for i in range(10)], "skipped": []},
        "cells": [f"seed-{s}-{p}-{d:g}" for s in seeds for p in pruners for d in densities],
        "failures": {},
        "notices": [],
        "command": "polykit analyze --pruner magnitude --pruner force --metric ig",
    }  # fmt: skip


def build(
    path: Path,
    *,
    pruners: Sequence[str] = ("magnitude", "force", "random"),
    densities: Sequence[float] = (0.5, 0.2, 0.1, 0.05),
    seeds: Sequence[int] = (0, 1, 2),
    layers: Sequence[str] = ("0", "2", "4"),
    stages: Sequence[str] = ("pruned", "retrained"),
    width: int = 48,
    metric: str = "ig",
    meta: dict[str, Any] | None = None,
) -> SavedRun:
    """Make a run whose pruners differ as in `SHAPES`; unknown pruners behave like magnitude."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    units: list[tuple[Any, ...]] = []
    history: list[tuple[Any, ...]] = []

    def network(seed: int, pruner: str, density: float, stage: str, ratio: float, right: float):
        key = (seed, pruner, density)
        silent = 0.0 if pruner == "dense" else 0.4 * max(0.0, 0.15 - density) / 0.15
        everything = []
        for depth, layer in enumerate(layers):
            value = ratio + 0.35 * depth + rng.normal(0, 0.9, width)
            value = np.where(rng.random(width) < silent, 0.0, np.maximum(value, 1.0))
            everything.append(value)
            units.extend(
                (*key, stage, metric, layer, unit, "ratio", v) for unit, v in enumerate(value)
            )
            add_ratio(key, stage, layer, value)
        add_ratio(key, stage, "all", np.concatenate(everything))
        right = float(np.clip(right + rng.normal(0, 0.006), 0, 1))
        plain = {
            ("accuracy", "accuracy"): right,
            ("loss", "loss"): 2.4 * (1 - right) + 0.05,
            ("density", "density"): density,
            ("density", "effective_density"): density * (0.97 if density < 1 else 1),
            ("parameters", "parameters"): round(6500 * density),
            ("flops", "flops"): round(13000 * density),
        }
        rows.extend((*key, density, stage, m, "all", s, v) for (m, s), v in plain.items())

    def add_ratio(key: tuple[Any, ...], stage: str, layer: str, value: np.ndarray) -> None:
        responding = value[value > 0]
        found = {"ratio": value.mean(), "silent": float((value == 0).mean())}
        found["ratio_responding"] = responding.mean() if len(responding) else np.nan
        rows.extend((*key, key[2], stage, metric, layer, s, v) for s, v in found.items())

    def training(seed: int, pruner: str, density: float, phase: str, start: float) -> None:
        for epoch in range(1, 21):
            loss = 0.08 + start * np.exp(-epoch / 5) + rng.normal(0, 0.006)
            history.append((seed, pruner, density, phase, epoch, loss * 0.9, loss, 0.98 - loss / 4))

    for seed in seeds:
        shift = rng.normal(0, 0.12)
        network(seed, "dense", 1.0, "dense", 4.9 + shift, 0.974)
        training(seed, "dense", 1.0, "train", 1.9)
        for pruner in pruners:
            for density in densities:
                ratio, pruned, retrained = SHAPES.get(pruner, SHAPES["magnitude"])(density)
                right = {"pruned": pruned, "retrained": retrained}
                for stage in stages:
                    moved = ratio + shift + (0.2 if stage == "retrained" else 0)
                    network(seed, pruner, density, stage, moved, right[stage])
                if "retrained" in stages:
                    training(seed, pruner, density, "retrain", 1.4 if pruner == "random" else 0.8)
    base = default_meta(pruners, seeds, densities)
    return SavedRun(
        path,
        {**base, **(meta or {})},
        {
            "rows": pd.DataFrame(rows, columns=ROWS),
            "units": pd.DataFrame(units, columns=UNITS),
            "history": pd.DataFrame(history, columns=HISTORY),
            "epochs": empty("analyze", "epochs"),
        },
    )


def changed(run: SavedRun, meta: dict[str, Any] | None = None, **tables: pd.DataFrame) -> SavedRun:
    """Put other tables, or other metadata, in the place of a run's."""
    meta = run.meta if meta is None else meta
    return dataclasses.replace(run, meta=meta, tables={**run.tables, **tables})


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Build a synthetic run, each in an empty directory of its own."""

    def make(**changes: Any) -> SavedRun:
        return build(tmp_path_factory.mktemp("run"), **changes)

    return make


@pytest.fixture(scope="session")
def ig_record() -> dict[str, Any]:
    """What a run records about the metric `ig`."""
    return metric_record()
