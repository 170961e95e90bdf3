"""Synthetic runs of `clusters`, `dissect` and `visualize`, as their directories hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from polykit.runtime.files import write_bytes
from polykit.runtime.samples import pictures
from polykit.runtime.store import RunStore, SavedRun, tensor_bytes
from polykit.runtime.tables import TABLES, empty

Builder = Callable[..., SavedRun]

PRUNERS = ("cs", "force", "random")
LAYERS = {"conv1": 144, "conv2": 4608, "conv3": 288}


def saved(path: Path, workflow: str, meta: Mapping[str, Any], **tables: pd.DataFrame) -> SavedRun:
    """Write a run directory with these tables, and read it."""
    record = {
        "polykit": "0",
        "workflow": workflow,
        "status": "complete",
        "config": {},
        "plugins": {},
        "environment": {"python": "3.11"},
        "cells": [],
        "failures": {},
        "notices": [],
        "command": f"polykit {workflow}",
        **meta,
    }
    write_bytes(path / "run.json", json.dumps(record).encode())
    for name, columns in TABLES[workflow].items():
        table = tables.get(name, empty(workflow, name))[list(columns)]
        table.to_parquet(path / f"{name}.parquet", index=False)
    return read(path)


def read(path: Path) -> SavedRun:
    """Read a run directory as any run is read."""
    return RunStore.open(path).load()


def thumbnails(path: Path, numbers: Sequence[int], size: tuple[int, int], noise: float) -> None:
    """Write one picture for each number: a smooth one of its own, with noise on top."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    made = {}
    for number in numbers:
        waves = [np.sin(6 * (a * x + b * y) + number) for a, b in rng.normal(size=(3, 2))]
        picture = 127 + 80 * np.stack(waves) + noise * rng.normal(size=(3, *size))
        made[str(number)] = torch.tensor(picture.clip(0, 255), dtype=torch.uint8)
    write_bytes(path / "cells" / "pictures" / "thumbnails.safetensors", tensor_bytes(made))


def build(
    path: Path,
    *,
    units: Sequence[int] = (3, 2, 2, 1, 0),
    layer: str = "conv3",
    size: tuple[int, int] = (8, 8),
    top: int = 60,
    shown: int = 12,
    noise: float = 10.0,
    classes: Sequence[str] = ("zebra", "piano", "beach"),
    source: str = "",
    meta: Mapping[str, Any] | None = None,
) -> SavedRun:
    """Make a run whose unit number i has `units[i]` clusters."""
    rng = np.random.default_rng(1)
    rows, clusters, members, sensitivity, wanted = [], [], [], [], set()
    for unit, count in enumerate(units):
        place = {"layer": layer, "unit": unit}
        numbers = rng.permutation(max(120, 2 * top))[:top]
        known = {"clusters": count, "pictures": 0, "fires": 0, "top_activation": 0, "score": 0}
        if count:
            known |= {"fires": 0.4, "class_purity": 0.7, "top_activation": 9.5, "pictures": top}
            known |= {"hdbscan_clusters": count, "hdbscan_noise_share": 0.2, "noise_share": 0.15}
            known |= {"p": 0.025, "score": 0.2 * (count > 1) * (count - 0.1 * unit)}
        if count > 1:
            known |= {"silhouette": 0.1 + 0.2 * count, "stability": 0.5 + 0.1 * count}
        rows += [{**place, "statistic": name, "value": value} for name, value in known.items()]
        groups = rng.permutation(np.arange(top) % (count + 1) - 1) if count else []
        for rank, cluster in enumerate(groups):
            activation = 9.5 - 0.1 * rank
            members.append(
                {**place, "rank": rank, "picture": numbers[rank], "activation": activation,
                 "cluster": cluster, "probability": 0.9}
            )  # fmt: skip
        for cluster in sorted(set(groups)):
            mine = numbers[groups == cluster]
            wanted.update(mine[:shown])
            name = classes[cluster % len(classes)]
            clusters.append(
                {**place, "cluster": cluster, "size": len(mine), "medoid": mine[0],
                 "activation": 6.5, "stability": 0.8, "purity": 0.7, "class": name,
                 "name_purity": 0.8, "name": name}
            )  # fmt: skip
        for setting in ("pca=10", "min_cluster_size × 2"):
            sensitivity.append(
                {**place, "setting": setting, "clusters": count, "noise_share": 0.1,
                 "agreement": 0.8}
            )  # fmt: skip
    told = [
        {"picture": n, "label": n % len(classes), "class": classes[n % len(classes)],
         "source": source and f"{source}/{n}"}
        for n in sorted(wanted)
    ]  # fmt: skip
    thumbnails(path, sorted(wanted), size, noise)
    record = {
        "config": {"model": "convnet", "dataset": "digits", "layers": [layer], "montage": shown,
                   "position": "center", "at": "post"},
        "clustering": {"top": top, "min_cluster_size": 5},
        "data": {"name": "digits", "split": "train", "pictures": 1078},
    }  # fmt: skip
    tables = {"rows": rows, "clusters": clusters, "members": members,
              "sensitivity": sensitivity, "pictures": told}  # fmt: skip
    frames = {name: frame("clusters", name, records) for name, records in tables.items()}
    return saved(path, "clusters", {**record, **(meta or {})}, **frames)


def frame(workflow: str, table: str, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a table of a workflow from records, with the workflow's types."""
    made = pd.DataFrame(list(records), columns=list(TABLES[workflow][table]))
    return made.astype(TABLES[workflow][table])


def dissect(run: SavedRun, name: str, unit: str, *, pruners: Sequence[str] = PRUNERS) -> SavedRun:
    """Put a dissection of one unit of two clusters below a run."""
    rng = np.random.default_rng(2)
    rows, activations, layers = [], [], []
    for cluster in (0, 1):
        for place, pruner in enumerate(pruners):
            key = {"unit": unit, "cluster": cluster, "pruner": pruner, "density": 1.0,
                   "control": "own", "read_unit": unit}  # fmt: skip
            for control, read, share in (("own", unit, 0.0), ("unit", "conv3:9", 0.3)):
                told = {"unit": unit, "cluster": cluster, "objective": "contrast", "seed": 0,
                        "control": control, "read_unit": read, "pruner": pruner,
                        "density": 1.0}  # fmt: skip
                auc = 0.98 - 0.1 * place - share
                for statistic, value in _statistics(auc).items():
                    rows.append({**told, "statistic": statistic, "value": value})
            for picture in range(120):
                group = ("cluster", "other", "neither")[picture % 3]
                before = {"cluster": 5.0, "other": 4.5, "neither": 0.5}[group] + rng.normal()
                move = {"cluster": 0.0, "other": -4.0 / (1 + place), "neither": 0.3}[group]
                activations.append(
                    {**key, "picture": picture, "group": group, "held_out": picture % 2 == 0,
                     "before": before, "after": before + move}
                )  # fmt: skip
            for depth, (layer, size) in enumerate(LAYERS.items()):
                kept = int(size * 0.3 / (1 + depth + place + cluster))
                layers.append(
                    {**key, "layer": layer, "kept": kept, "effective": kept * 3 // 4,
                     "parameters": size}
                )  # fmt: skip
    overlaps = [
        {"unit": unit, "pruner": pruner, "density": 1.0, "cluster_a": 0, "cluster_b": 1,
         "iou": 0.1, "chance": 0.05, "chance_low": 0.03, "chance_high": 0.07}
        for pruner in pruners
    ]  # fmt: skip
    config = {"run": str(run.path), "units": [unit], "pruners": list(pruners)}
    meta = {"config": config, "enough": 20, "held_out": 0.5}
    return saved(
        run.path / "dissections" / name,
        "dissect",
        meta,
        rows=frame("dissect", "rows", rows),
        activations=frame("dissect", "activations", activations),
        layers=frame("dissect", "layers", layers),
        overlaps=frame("dissect", "overlaps", overlaps),
    )


def _statistics(auc: float) -> dict[str, float]:
    """The statistics of one part, as far as a report asks for them."""
    spread = {"auc": auc, "fidelity": auc - 0.1, "specificity": 2 * auc - 1, "auc_random": 0.5}
    ends = {
        f"{n}{e}": v + s for n, v in spread.items() for e, s in (("_low", -0.05), ("_high", 0.02))
    }
    return {
        **spread,
        **ends,
        "dissociation": 0.3,
        "achieved_density": 0.04,
        "effective_density": 0.03,
        "pictures_held_out": 20.0,
        "auc_before": 0.6,
        "drift_rms": 0.4,
    }


def visualize(run: SavedRun, name: str, unit: str, variants: Sequence[str] = ()) -> SavedRun:
    """Put pictures of one unit below a run: grown ones, and pixels over two pictures."""
    path = run.path / "visualizations" / name
    rows, images = [], []
    for variant in ("dense", *variants):
        place = {"unit": unit, "variant": variant, "kind": "features"}
        told = {"value": 12.5, "start": 0.5, "real": 9.25}
        rows += [{**place, "statistic": name, "value": value} for name, value in told.items()]
        for kind in ("features", "attribution"):
            for number in range(2):
                file = f"cells/{kind}-{len(images)}/{number}.png"
                picture = torch.full((3, 8, 8), 20 * len(images) % 255, dtype=torch.uint8)
                write_bytes(path / file, pictures.png(picture))
                images.append(
                    {"unit": unit, "variant": variant, "kind": kind, "number": number,
                     "file": file, "text": f"{kind} {number} of {unit}, {variant}"}
                )  # fmt: skip
    return saved(
        path,
        "visualize",
        {"config": {"run": str(run.path), "units": [unit]}},
        rows=frame("visualize", "rows", rows),
        images=frame("visualize", "images", images),
    )


def make_atlas(folder: Path, **changes: Any) -> SavedRun:
    """Make a run of five units with a dissection and a visualisation of the second one."""
    run = build(folder / "atlas", **changes)
    dissect(run, "first", "conv3:1")
    visualize(run, "first", "conv3:1", ["cluster 0 by cs"])
    return run


@pytest.fixture
def atlas(tmp_path: Path) -> SavedRun:
    """A run of clusters with what lies below it."""
    return make_atlas(tmp_path)
