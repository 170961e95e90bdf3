"""Every reader of files that may come from anywhere: a sound file, and what reads it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from polykit import session
from polykit.cli import settings
from polykit.cli.run import read_recipe
from polykit.registry import Registry
from polykit.runtime.degeneracy.bases import bases_bytes, interaction_basis, load_bases
from polykit.runtime.pruning.extraction import extract
from polykit.runtime.pruning.subnetworks import load_subnetwork, subnetwork_bytes
from polykit.runtime.samples.shards import Shards, to_tensors
from polykit.runtime.samples.splits import SPLITS
from polykit.runtime.store import RunStore, tensor_bytes
from polykit.runtime.tables import TABLES
from polykit.runtime.training.checkpoints import load_weights
from polykit.runtime.training.state import State, read_state, write_state
from polykit.types import Mask
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.catalogue import saved_config
from polykit_builtins.datasets.class_names import class_names
from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.datasets.imagefolder import ImageFolder
from polykit_builtins.datasets.webdataset import WebDataset


@dataclass(frozen=True)
class Reader:
    """`sound` gives the content of a file called `file`, `read` reads it, from a folder of its own.

    `kind` says how the content can be damaged below the bytes: json, safetensors, or not.
    """

    file: str
    sound: Callable[[], bytes]
    read: Callable[[Path], Any]
    kind: str = ""


RECIPE = b"""
workflow = "analyze"
model = "mlp:widths=4x4"
dataset = "digits"
pruners = ["force:rounds=5", "magnitude"]
metrics = ["ig"]
densities = [0.5, 0.1]
seeds = [0, 1]
epochs = 3
lr = 0.01

[options.force]
rounds = 5
"""


@cache
def run_files() -> Mapping[str, bytes]:
    """The files of a small run."""
    with TemporaryDirectory() as place:
        config = AnalyzeConfig(
            model="mlp:widths=4", pruners=("magnitude",), metrics=("loss",), seeds=(0,),
            densities=(0.5,), epochs=1, retrain_epochs=1, threads=1,
        )  # fmt: skip
        run = session.run(config, Registry.discover(), out=Path(place) / "run")
        meta = json.loads((run.path / "run.json").read_text())
        (run.path / "run.json").write_text(json.dumps({**meta, "tables": {}}))
        files = (path for path in run.path.rglob("*") if path.is_file())
        return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in files}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def subnetwork() -> bytes:
    net, x = network(), torch.ones(2, 3)
    mask = Mask({"0.weight": torch.ones(4, 3).bool(), "2.weight": torch.eye(2, 4).bool()})
    return subnetwork_bytes(extract(net, mask, x))


def bases() -> bytes:
    made = interaction_basis(torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 3.0])), 9)
    return bases_bytes({"fc1": made})


def saved_with_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": network().state_dict()}, buffer)
    return buffer.getvalue()


def training_state() -> bytes:
    weights = network().state_dict()
    epochs = [{"epoch": 1, "loss": 0.5, "validation_loss": 0.5, "validation_accuracy": None}]
    with TemporaryDirectory() as place:
        file = Path(place) / "state"
        write_state(file, State(weights, {}, {0: {"step": torch.ones(())}}, epochs))
        return file.read_bytes()


def shard_of_activations() -> bytes:
    values = {"conv1": torch.rand(4, 3), "fc": torch.rand(4, 2)}
    return tensor_bytes(to_tensors(torch.arange(4), torch.zeros(4), values, "float16"))


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_shard() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(4):
            label = json.dumps({"label": number % 2}).encode()
            for ending, content in (("png", picture()), ("json", label)):
                info = tarfile.TarInfo(f"{'ü' * 60}/{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def table() -> bytes:
    return run_files()["rows.parquet"]


def whole_run(path: Path) -> None:
    """Look at everything that `polykit runs show` and `polykit report` begin with."""
    for name, content in run_files().items():
        target = path.parent / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    run = session.open_run(path.parent)
    store = RunStore.open(path.parent)
    for look in (
        lambda: (run.status, run.failures, run.notices),
        lambda: saved_config(store),
        store.load,
    ):
        look()


def one_table(path: Path) -> None:
    store = RunStore(path.parent)
    for name in TABLES["analyze"]:
        target = path.parent / f"{name}.parquet"
        if not target.exists():
            target.write_bytes(run_files()[f"{name}.parquet"])
    if not (path.parent / "run.json").exists():
        (path.parent / "run.json").write_bytes(run_files()["run.json"])
    store.load()


def all_pictures(data: Any) -> None:
    for part in SPLITS:
        for index in range(len(getattr(data, part))):
            data.source(part, index)
        for _ in getattr(data, part).batches(8):
            pass


def folder_of_pictures(path: Path) -> None:
    """Read a folder in which six of eight pictures are the file."""
    if not (path.parent / "in").exists():
        for label in ("cat", "dog"):
            folder = path.parent / "in" / label
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(picture())
            for number in (1, 2, 3):
                (folder / f"{number}.png").symlink_to(path)
    all_pictures(
        ImageFolder(path=str(path.parent / "in"), size=8, crop=8, validation=0.3, test=0.3).load()
    )


READERS: Mapping[str, Reader] = {
    "recipe": Reader("recipe.toml", lambda: RECIPE, read_recipe),
    "config-file": Reader(
        "analyze.toml",
        lambda: RECIPE.replace(b'workflow = "analyze"\n', b""),
        lambda path: settings.build(AnalyzeConfig, settings.read_file(path, AnalyzeConfig), {}),
    ),
    "run-record": Reader("run.json", lambda: run_files()["run.json"], whole_run, "json"),
    "run-table": Reader("rows.parquet", table, one_table),
    "cell-tensors": Reader(
        "cells/a/model.safetensors",
        lambda: tensor_bytes(network().state_dict()),
        lambda path: RunStore(path.parents[2]).read_tensors("a", path.name),
        "safetensors",
    ),
    "mask": Reader(
        "cells/a/mask.safetensors",
        lambda: tensor_bytes({"0.weight": torch.eye(3).bool()}),
        lambda path: Mask(RunStore(path.parents[2]).read_tensors("a", path.name)),
        "safetensors",
    ),
    "activations": Reader(
        "activations.safetensors",
        shard_of_activations,
        lambda path: [chunk.values.shape for chunk in Shards((path,), "conv1")],
        "safetensors",
    ),
    "weights": Reader(
        "weights.safetensors",
        lambda: tensor_bytes(network().state_dict()),
        lambda path: load_weights(network(), path),
        "safetensors",
    ),
    "weights-torch": Reader(
        "weights.pt", saved_with_torch, lambda path: load_weights(network(), path)
    ),
    "training-state": Reader("cells/a.checkpoint", training_state, read_state),
    "bases": Reader("bases.safetensors", bases, load_bases, "safetensors"),
    "subnetwork": Reader("part.safetensors", subnetwork, load_subnetwork, "safetensors"),
    "world": Reader(
        "world.safetensors",
        lambda: tensor_bytes(FeatureModel(samples=100).load().truth),
        lambda path: FeatureModel(file=str(path)).load(),
        "safetensors",
    ),
    "tar-shard": Reader(
        "part.tar",
        tar_shard,
        lambda path: all_pictures(
            WebDataset(path=str(path), size=8, crop=8, validation=0.3, test=0.3).load()
        ),
    ),
    "picture": Reader("picture", picture, folder_of_pictures),
    "class-names": Reader(
        "names.txt",
        lambda: b"n01\tcat, tom\nn02\tdog\n",
        lambda path: class_names(("n01", "n02"), str(path)),
    ),
}


def renamed(content: bytes, column: str, name: str) -> bytes:
    """A table with another name for a column, even that of another one, which pandas refuses."""
    found = pq.read_table(io.BytesIO(content))
    buffer = io.BytesIO()
    names = [name if own == column else own for own in found.column_names]
    pq.write_table(found.rename_columns(names), buffer)
    return buffer.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
