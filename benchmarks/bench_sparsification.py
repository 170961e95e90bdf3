"""Continuous sparsification on a unit of a small CIFAR-10 convnet: separation, density and time.

The network and the pictures are not part of the project: `--reference` is a folder with
`cifar_convnet.safetensors`, `--pictures` a tar of JPEG pictures `cifar10/train/<class>/*.jpg`. The
unit's top 600 pictures are those of some classes (the cluster) against those of others; a fifth of
them is held out. Prints a markdown table.

    python benchmarks/bench_sparsification.py --reference DIR --pictures cifar10.tar
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from polykit.api import Pruner
from polykit.runtime.clusters.objectives import UnitValue, contrast, preservation
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.progress import watching
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import generator
from polykit.types import Granularity, UnitRef
from polykit_builtins.pruners.actgrad import ActGrad
from polykit_builtins.pruners.continuous_sparsification import ContinuousSparsification
from polykit_builtins.pruners.force import Force
from polykit_builtins.pruners.random import Random
from polykit_builtins.pruners.snip import Snip

CLUSTERS = {49: (("frog",), ("deer", "horse")), 0: (("automobile",), ("bird", "frog"))}
"""Unit of layer 10 → the classes of one cluster, and those of the other."""


def convnet(path: Path) -> nn.Module:
    def block(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]

    model = nn.Sequential(
        *block(3, 32, 5),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 96),
        *block(96, 96),
        *block(96, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )
    model.load_state_dict(load_file(path))
    return model.eval()


def pictures(path: Path) -> tuple[Tensor, list[str]]:
    """Read the training pictures `[n, 3, 32, 32]` as bytes, and their classes, in order of name."""
    found: dict[str, np.ndarray] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if "/train/" in member.name and member.isfile():
                content = archive.extractfile(member)
                if content is not None:
                    image = Image.open(io.BytesIO(content.read())).convert("RGB")
                    found[member.name] = np.asarray(image)
    names = sorted(found)
    stack = torch.from_numpy(np.stack([found[name] for name in names]))
    return stack.permute(0, 3, 1, 2), [name.split("/")[-2] for name in names]


def normalised(x: Tensor) -> Tensor:
    return (x / 255 - 0.45) / 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of the convnet")
    parser.add_argument("--pictures", type=Path, required=True, help="tar of CIFAR-10 as pictures")
    parser.add_argument("--unit", type=int, choices=list(CLUSTERS), default=49)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--densities", type=float, nargs="*", default=[0.1, 0.02])
    parser.add_argument("--granularity", choices=["weight", "kernel", "unit"], default="weight")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = convnet(options.reference / "cifar_convnet.safetensors")
    raw, classes = pictures(options.pictures)
    compare(model, raw, classes, options.unit, options.densities, options.granularity)


def compare(
    model: nn.Module,
    raw: Tensor,
    classes: list[str],
    unit: int,
    densities: list[float],
    granularity: Granularity,
) -> None:
    target, path = UnitRef("10", unit), trace(model, normalised(raw[:1]))
    read = make_reader(model, path, target.layer)
    with torch.no_grad():
        values = torch.cat([read(model, normalised(x))[:, unit] for x in raw.split(500)])
    top = values.topk(600).indices
    held, x, y = [], [], []
    for label, names in ((1, CLUSTERS[unit][0]), (0, CLUSTERS[unit][1])):
        rows = top[[classes[i] in names for i in top.tolist()]]
        rows = rows[torch.randperm(len(rows), generator=generator(0, "held out", label))]
        x.append(normalised(raw[rows]))
        y.append(torch.full((len(rows),), label))
        held.append(torch.arange(len(rows)) < len(rows) // 5)
    x, y, held = torch.cat(x), torch.cat(y), torch.cat(held)
    order = torch.randperm(len(x), generator=generator(0, "order"))
    x, y, held = x[order], y[order], held[order]
    seen = list(zip(x[~held].split(64), y[~held].split(64), strict=True))
    cluster = [(a[b > 0], b[b > 0]) for a, b in seen if bool((b > 0).any())]
    cut = candidates(model, path, granularity, target=target)
    print(
        f"unit {target} ({', '.join(CLUSTERS[unit][0])} against {', '.join(CLUSTERS[unit][1])}), "
        f"{int((y[~held] > 0).sum())} + {int((y[~held] == 0).sum())} pictures, "
        f"{int((y[held] > 0).sum())} + {int((y[held] == 0).sum())} held out; {cut.full().total} "
        f"weights by {granularity}; {torch.get_num_threads()} thread(s); read by {read.way}\n"
    )
    print("| pruner | density | AUC held out | mean on the cluster | descents | CPU s | wall s |")
    print("|---|---:|---:|---:|---:|---:|---:|")

    def row(name: str, pruner: Pruner | None, density: float, aim: object = None) -> None:
        told: dict[str, float] = {}

        def hear(*, step: int, steps: int, numbers: Mapping[str, float]) -> None:
            told.update(numbers)

        mask, cpu, wall = cut.full(), time.process_time(), time.perf_counter()
        if pruner is not None:
            objective = UnitValue(target, read) if aim is None else aim
            with watching(hear):
                mask = pruner.prune(
                    model,
                    objective,  # type: ignore[arg-type]
                    cluster if aim is None else seen,
                    density=density,
                    candidates=cut,
                    generator=generator(0, name, density),
                )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        with masked(model, mask), torch.no_grad():
            after = read(model, x[held])[:, unit]
        auc = roc_auc_score(y[held], after)
        print(
            f"| {name} | {mask.density:.4f} | {auc:.3f} | {after[y[held] > 0].mean():.2f} | "
            f"{told.get('descents', 0):.0f} | {cpu:.1f} | {wall:.1f} |",
            flush=True,
        )

    tell_apart = contrast(model, target, read, seen)
    keep = preservation(model, target, read, seen)
    row("dense", None, 1)
    row("cs, contrast, own density", ContinuousSparsification(), 1, tell_apart)
    row("cs, preserve, own density", ContinuousSparsification(), 1, keep)
    for density in densities:
        row("cs, contrast", ContinuousSparsification(), density, tell_apart)
        row("force", Force(), density)
        row("snip", Snip(), density)
        row("actgrad", ActGrad(), density)
        row("random", Random(), density)


if __name__ == "__main__":
    main()
