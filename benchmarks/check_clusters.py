"""How often one blob is taken for several clusters, how well planted ones are found, a reference.

Blobs of several kinds, `--trials` of each size and dimension: the share that HDBSCAN alone splits,
the share whose split comes again in subsamples, and the share that polykit confirms, which must not
exceed 5 %. Planted clusters: the adjusted Rand index with the truth, by distance between them.

With `--reference DIR` (`cifar_convnet.safetensors`, a small convnet) and `--pictures DIR` (CIFAR-10
as `train/CLASS/…`): the units of layer 10 that split with PCA-10 of standardised activations, top
600, HDBSCAN(30, 5); those are 49 (horse and deer, frog) and 0 (car, frog and bird). Leaves with 1
where a number is out of bounds.

    python benchmarks/check_clusters.py --trials 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polykit import session
from polykit.registry import Registry
from polykit.runtime.clusters.clustering import Recipe, agreement
from polykit.runtime.clusters.evidence import Confirmed, find_clusters
from polykit.runtime.training.checkpoints import load_weights
from polykit.types import Data, Denormalise

Vectors = NDArray[np.float64]
Draw = np.random.Generator


def _loadings(draw: Draw, d: int, power: float) -> Vectors:
    axes, _ = np.linalg.qr(draw.normal(size=(d, d)))
    found: Vectors = axes * np.arange(1, d + 1) ** (-power / 2)
    return found


def round_blob(draw: Draw, n: int, d: int) -> Vectors:
    return draw.normal(size=(n, d))


def long_blob(draw: Draw, n: int, d: int) -> Vectors:
    return draw.normal(size=(n, d)) @ _loadings(draw, d, 1.0).T


def heavy_blob(draw: Draw, n: int, d: int) -> Vectors:
    normal = draw.normal(size=(n, d)) @ _loadings(draw, d, 0.5).T
    return normal / np.sqrt(draw.chisquare(3, size=(n, 1)) / 3)


def skewed_blob(draw: Draw, n: int, d: int) -> Vectors:
    return draw.exponential(size=(n, d)) * np.arange(1, d + 1) ** -0.5


def rectified_blob(draw: Draw, n: int, d: int) -> Vectors:
    behind = long_blob(draw, n, d)
    return np.maximum(0.0, behind / behind.std(0) + 0.7 * draw.normal(size=d) - 0.5)


def rectified_heavy_blob(draw: Draw, n: int, d: int) -> Vectors:
    behind = long_blob(draw, n, d)
    behind = behind / behind.std(0) * draw.lognormal(0, 0.5, size=(n, 1))
    return np.maximum(0.0, behind + 0.7 * draw.normal(size=d) - 0.5)


BLOBS: dict[str, Callable[[Draw, int, int], Vectors]] = {
    "normal, round": round_blob,
    "normal, long": long_blob,
    "Student t, 3 d.f.": heavy_blob,
    "exponential": skewed_blob,
    "behind a ReLU": rectified_blob,
    "heavy, behind a ReLU": rectified_heavy_blob,
}


def look(x: Vectors, seed: int) -> Confirmed:
    recipe = Recipe(min_cluster_size=max(5, len(x) // 20))
    return find_clusters(x, x.mean(0), x.std(0), recipe, np.random.default_rng(seed))


def blobs(trials: int, sizes: list[int], widths: list[int]) -> bool:
    """Print the shares of split blobs; return whether all are within 5 %."""
    print("| blob | points | dimensions | HDBSCAN | comes again | confirmed |")
    print("|---|---:|---:|---:|---:|---:|")
    fine = True
    for name, kind in BLOBS.items():
        for n in sizes:
            for d in widths:
                draw = np.random.default_rng(2)
                found = [look(kind(draw, n, d), trial) for trial in range(trials)]
                split = sum(one.found.clusters > 1 for one in found)
                stable = sum(one.p < 1 for one in found)
                taken = sum(one.clusters > 1 for one in found)
                shares = (f"{100 * count / trials:.0f} %" for count in (split, stable, taken))
                print(f"| {name} | {n} | {d} | {' | '.join(shares)} |", flush=True)
                fine &= taken <= 0.05 * trials
    return fine


def planted(trials: int) -> bool:
    """Print how well three clusters are found; return whether it is well enough at distance 16."""
    print(
        "\n| points | dimensions | distance (sd) | HDBSCAN: three | confirmed: three | Rand index |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    fine = True
    for n, d in ((100, 8), (300, 64), (600, 256)):
        for apart in (6.0, 8.0, 12.0, 16.0):
            indices, alone, three = [], 0, 0
            for trial in range(trials):
                draw = np.random.default_rng(trial)
                truth = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
                axes, _ = np.linalg.qr(draw.normal(size=(d, 3)))
                x = draw.normal(size=(n, d)) + apart / np.sqrt(2) * axes.T[truth]
                found = look(x, trial)
                alone += found.found.clusters == 3
                three += found.clusters == 3
                indices.append(agreement(truth, found.labels))
            mean = float(np.mean(indices))
            shares = " | ".join(f"{100 * count / trials:.0f} %" for count in (alone, three))
            print(f"| {n} | {d} | {apart:g} | {shares} | {mean:.3f} |", flush=True)
            fine &= apart < 16 or mean >= 0.95
    return fine


class Net(nn.Sequential):
    """The reference network, for pictures as `imagefolder` gives them."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(64, 96, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(96, 96, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(96, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(1024, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        found: Tensor = super().forward((Denormalise(mean, std)(x) - 0.45) / 0.25)
        return found


def reference(folder: Path, pictures: Path) -> bool:
    """Print the units of the reference network that split; return whether they are 0 and 49."""
    model = Net()
    load_weights(model, folder / "cifar_convnet.safetensors")
    registry = Registry.discover()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        root.mkdir()
        for part, source in (("train", "train"), ("val", "test"), ("test", "test")):
            (root / part).symlink_to((pictures / source).resolve())
        dataset = f"imagefolder:{root},size=32,crop=32,workers=2"
        data: Data = session.load_data(dataset, registry)
        options = {"top": 600, "min_cluster_size": 30, "scale": "standardise", "pca": 10}
        run = session.clusters(
            model, data, layers=("10",), eval_batch_size=500, out=Path(place) / "run", **options
        )
        several = run.rows.query("statistic == 'clusters' and value > 1")["unit"].tolist()
        table = run.saved.tables["clusters"]
    print(f"\n{run.verdict().answer}")
    print(table[table["unit"].isin(several)].to_string(index=False))
    return several == [0, 49]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--points", type=int, nargs="*", default=[50, 100, 300])
    parser.add_argument("--dimensions", type=int, nargs="*", default=[8, 32, 256])
    parser.add_argument("--reference", type=Path, help="holds cifar_convnet.safetensors")
    parser.add_argument("--pictures", type=Path, help="holds CIFAR-10 as train/CLASS/…, test/…")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fine = True
    if options.reference and options.pictures:
        fine &= reference(options.reference, options.pictures)
    if options.trials:
        fine &= blobs(options.trials, options.points, options.dimensions)
        fine &= planted(max(1, options.trials // 5))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
