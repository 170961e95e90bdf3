"""The contract tests that third parties run, run over every built-in plugin."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torch import nn

import polykit.testing
from polykit_builtins.datasets.vision import Cifar10, FashionMnist, Mnist


def files(*shape: int) -> type:
    """Stand in for torchvision's class, with 40 pictures and no files."""

    class Files:
        data = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
        targets = tuple(number % 10 for number in range(40))
        classes = tuple("abcdefghij")

        def __init__(self, root: Path, *, train: bool, download: bool) -> None: ...

    return Files


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin, shape in ((Mnist, (28, 28)), (FashionMnist, (28, 28)), (Cifar10, (32, 32, 3))):
        monkeypatch.setattr(plugin, "source", files(*shape))


def root(folder: Path) -> dict[str, str]:
    return {"root": str(folder)}


def pictures(folder: Path) -> dict[str, object]:
    for level, name in ((0, "cat"), (255, "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            Image.new("RGB", (20, 16), (level, number, 0)).save(folder / name / f"{number}.png")
    return {"path": str(folder), "size": 12, "crop": 8}


def shards(folder: Path) -> dict[str, object]:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for file in sorted(Path(str(pictures(folder)["path"])).rglob("*.png")):
            tar.add(file, f"{file.parent.name}-{file.name}")
            label = tarfile.TarInfo(f"{file.parent.name}-{file.stem}.txt")
            label.size = 3
            tar.addfile(label, io.BytesIO(file.parent.name.encode()))
    return {"path": str(folder / "a.tar"), "size": 12, "crop": 8}


def table(folder: Path) -> dict[str, object]:
    files = sorted(Path(str(pictures(folder / "files")["path"])).rglob("*.png"))
    columns = {"image": [str(file) for file in files], "label": [f.parent.name for f in files]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(str(folder / "table"))
    return {"path": str(folder / "table"), "size": 12, "crop": 8}


def make(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))


def short_descent(folder: Path) -> dict[str, int]:
    return {"epochs": 6, "steps": 2, "searches": 4}


def factory(folder: Path) -> dict[str, str]:
    return {"target": f"{__name__}:make"}


test_contract = polykit.testing.contract(
    "polykit",
    options={
        "mnist": root,
        "fashion-mnist": root,
        "cifar10": root,
        "imagefolder": pictures,
        "webdataset": shards,
        "huggingface": table,
        "factory": factory,
        "continuous-sparsification": short_descent,
        "cs": short_descent,
        "force": lambda folder: {"rounds": 4},
        "dictionary": lambda folder: {"epochs": 3},
        "learning-coefficient": lambda folder: {
            "steps": 20,
            "burn_in": 5,
            "chains": 2,
            "step": 1e-4,
        },
    },
)
