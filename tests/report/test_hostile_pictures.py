"""Classes and files with names that want to be code, through the workflows that read a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from polykit import session
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.dissect.config import DissectConfig
from polykit.workflows.laboratory.config import LaboratoryConfig
from polykit.workflows.map.config import MapConfig

from .test_hostile_names import BREAKING, CODE, REGISTRY, check, outside

__all__ = ["outside"]

FOLDER = f"{CODE} {BREAKING} ,a=1:b".replace("/", "∕")
"""What no part of a path may hold taken away."""


@pytest.fixture
def pictures(outside: Path) -> dict[str, Any]:
    """Digits as picture files, in class folders of bad names; the options of their dataset."""
    digits = load_digits()
    place = outside / "data" / FOLDER
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = place / f"{label}{FOLDER[:60]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{number}{FOLDER[:40]}.png")
    return {"imagefolder": {"path": str(place), "size": 8, "crop": 8}}


def run(config: Any, outside: Path) -> session.Run:
    made = session.run(config, REGISTRY, runs_dir=outside / "runs")
    assert (made.status, made.failures) == ("complete", {})
    return made


def test_dissections(outside: Path, pictures: dict[str, Any]) -> None:
    found = run(
        ClustersConfig(
            dataset="imagefolder", options=pictures, epochs=4, top=160, units=("0-9",), nulls=19,
            resamples=2, sensitivity=False, montage=2, threads=1,
        ),
        outside,
    )  # fmt: skip
    counts = found.rows[(found.rows["statistic"] == "clusters") & (found.rows["value"] == 2)]
    unit = f"{counts['layer'].iloc[0]}:{counts['unit'].iloc[0]}"
    config = DissectConfig(
        run=str(found.path), units=(unit,), pruners=("snip",), others=1, randoms=2, neither=20,
        enough=5, threads=1,
    )  # fmt: skip
    parts = session.run(config, REGISTRY, runs_dir=found.path / "dissections")
    assert (parts.status, parts.failures) == ("complete", {})
    check(parts.report(), FOLDER[:20])


def test_density_studies(outside: Path, pictures: dict[str, Any]) -> None:
    config = DensityConfig(
        model="mlp:widths=8", dataset="imagefolder", options=pictures, scales=(1.0,),
        seeds=(0,), epochs=1, step=0.25, metrics=("hoyer",), class_pruner="snip", threads=1,
    )  # fmt: skip
    check(run(config, outside).report(), FOLDER[:20])


def test_maps(outside: Path, pictures: dict[str, Any]) -> None:
    analysis = {
        "model": "mlp:widths=8", "dataset": "imagefolder", "options": pictures, "seeds": (0,),
        "epochs": 1, "retrain_epochs": 1, "pruners": ("magnitude",), "densities": (0.3,),
        "control": False, "metrics": ("hoyer",),
    }  # fmt: skip
    config = MapConfig(analysis=analysis, vary={"lr": (0.01, 0.02)}, threads=1)
    check(run(config, outside).report())


def test_laboratories(outside: Path) -> None:
    config = LaboratoryConfig(
        scenarios=(
            {
                "name": "A", "dataset": "feature-model:N1,samples=200",
                "model": "mlp:widths=64x16x16", "description": f"{CODE} {BREAKING}",
            },
        ),
        seeds=(0, 1), dropouts=(0.0,), ratios=(0.3,), arms=("unpruned", "pruned"),
        metrics=("hoyer",), epochs=1, retrain_epochs=1,
    )  # fmt: skip
    check(run(config, outside).report(), CODE)
