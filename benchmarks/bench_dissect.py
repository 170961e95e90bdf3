"""The paper's comparison of pruners on polysemantic units, with the controls it lacks, as a table.

    python benchmarks/bench_dissect.py
    python benchmarks/bench_dissect.py --unit conv3:22 --density 0.02 --density 0.1
    python benchmarks/bench_dissect.py --reference cifar_convnet.safetensors \
        --pictures cifar10/train --unit 10:49 --density 0.02 --density 0.05 --density 0.2

Without a reference a small convnet is trained on the digits. With one, it is the CIFAR-10 convnet
of that checkpoint on a folder of pictures (one folder per class), and clusters are found as they
were for it: the top 600 pictures, PCA-10 of standardised vectors, HDBSCAN(30, 5). `--out` keeps
the runs, and goes on with those that are there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import polykit
from polykit.report.dissect import numbers
from polykit.session import Run

LEARNED = ("cs:quantile=0.5", "cs", "cs:quantile=0.9")
RANKED = ("actgrad", "snip", "force", "random")


def convnet(checkpoint: Path) -> nn.Sequential:
    """Return the reference convnet."""

    def conv(inputs: int, outputs: int, size: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU()]

    model = nn.Sequential(
        *(*conv(3, 32, 5), nn.MaxPool2d(2), *conv(32, 64, 3), nn.MaxPool2d(2)),
        *(*conv(64, 96, 3), *conv(96, 96, 3), *conv(96, 64, 3), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)),
    )
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


def pictures(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read a folder of pictures, one folder per class, as the reference was trained on them."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, label) for label, c in enumerate(classes) for file in sorted(c.iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25
    y = torch.tensor([label for _, label in files])
    return {"train": (x, y), "validation": (x[:64], y[:64]), "test": (x[:64], y[:64])}


def find_clusters(asked: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return a run of clusters, and what a dissection needs beside it."""
    common: dict[str, Any] = {"out": folder / "clusters", "resume": True, "sensitivity": False}
    if asked.reference is None:
        return polykit.clusters("convnet", "digits", top=300, **common).path, {}
    own: dict[str, Any] = {"model": convnet(asked.reference), "dataset": pictures(asked.pictures)}
    units = tuple(unit.partition(":")[2] for unit in asked.unit)
    run = polykit.clusters(
        *own.values(),
        layers=("10",),
        units=units,
        montage=0,
        scale="standardise",
        pca=10,
        top=600,
        min_cluster_size=30,
        min_samples=5,
        **common,
    )
    return run.path, own


def show(run: Run, seconds: float) -> None:
    """Print one row per pruner and density."""
    for found in numbers.findings(run.saved):
        low, high = found.own.auc.low, found.own.auc.high
        means = [
            np.mean([trial.auc.value for trial in found.of(control)] or [np.nan])
            for control in numbers.CONTROLS
        ]
        best = max((trial.specificity.value for trial in found.rivals), default=np.nan)
        print(
            f"| {found.pruner} | {found.achieved:.3f} | {found.own.auc.value:.2f} "
            f"[{low:.2f}, {high:.2f}] | {' | '.join(f'{mean:.2f}' for mean in means)} | "
            f"{found.auc_random.value:.2f} | {found.own.fidelity.value:.2f} | "
            f"{found.own.specificity.value:.2f} | {best:.2f} | {found.own.dissociation:.2f} |"
        )
    print(f"{seconds / len(run.meta['cells']):.1f} s a cell, {len(run.meta['cells'])} cells")
    for unit, sentences in run.verdict().parts:
        print(f"{unit}: {sentences[0]}")


def main() -> None:
    """Print the table of learned masks, then that of the others at each density."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--unit", action="append", default=[])
    parser.add_argument("--density", action="append", type=float, default=[])
    parser.add_argument("--others", type=int, default=4)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = asked.out or Path(folder)
        path, own = find_clusters(asked, place)
        print(
            "| pruner | density | AUC | other units | random weights | shuffled labels | "
            "random masks | fidelity | specificity | best control | dissociation |"
        )
        print("|---|" + "---:|" * 10)
        for name, pruners, densities in (
            ("learned", LEARNED, ()),
            ("ranked", RANKED, tuple(asked.density) or (0.02, 0.05, 0.1, 0.2)),
        ):
            start = time.perf_counter()
            run = polykit.dissect(
                path,
                units=tuple(asked.unit),
                pruners=pruners,
                densities=densities,
                others=asked.others,
                threads=1,
                out=place / name,
                resume=True,
                **own,
            )
            show(run, time.perf_counter() - start)


if __name__ == "__main__":
    main()
