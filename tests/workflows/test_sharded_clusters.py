"""Clusters over pictures in tar shards: a cell of activations follows a shard."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polykit import session
from polykit.api import hookimpl
from polykit.registry import Registry
from polykit.runtime.samples.splits import stretches
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.setup import resolve

NET = "convnet:channels=4,pools="


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Four shards of training with 12 random pictures each, one of validation, one of test."""
    rng = np.random.default_rng(0)
    paths = []
    for name in ("train-0", "train-1", "train-2", "train-3", "val-0", "test-0"):
        path = tmp_path / "shards" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number in range(12):
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                    picture, "PNG"
                )
                for ending, content in (("png", picture.getvalue()), ("cls", b"%d" % (number % 2))):
                    info = tarfile.TarInfo(f"{number:03}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            if name == "train-1":
                tar.addfile(tarfile.TarInfo("alone.cls"))
        paths.append(path)
    return paths


def config(shards: list[Path], **changes: object) -> ClustersConfig:
    fields = {
        "model": NET,
        "dataset": f"webdataset:{shards[0].parent},size=8,crop=8",
        "layers": ("conv1",),
        "epochs": 1,
        "nulls": 19,
        "resamples": 2,
        "sensitivity": False,
        "threads": 1,
    }
    return ClustersConfig(**(fields | changes))


def files(path: Path) -> dict[str, bytes]:
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if name != "run.json"}


def test_no_cell_goes_on_into_the_next_shard(shards: list[Path]) -> None:
    setup = resolve(config(shards), Registry.discover())
    ends = [(cell.first, cell.last) for cell in setup.shard_cells]
    assert ends == [(0, 12), (12, 24), (24, 36), (36, 48)]
    small = resolve(config(shards, shard_size=5), Registry.discover())
    ends = [(cell.first, cell.last) for cell in small.shard_cells]
    assert ends == [(a + b, a + b + 4) for a in (0, 12, 24, 36) for b in (0, 4, 8)]
    shared = "webdataset:" + str(shards[0].parent / "train-*.tar") + ",size=8,crop=8"
    mixed = resolve(config(shards, dataset=shared), Registry.discover())
    cells = mixed.shard_cells
    assert len(cells) == 4
    assert (cells[0].first, cells[-1].last) == (0, len(mixed.split))
    for cell in cells:
        sources = {mixed.data.source("train", i)[:7] for i in range(cell.first, cell.last)}
        assert len(sources) == 1
    assert stretches(mixed.split, 10**9) == [(cell.first, cell.last) for cell in cells]


class Damage:
    """Makes a shard unreadable once the network is there."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard

    @hookimpl
    def polykit_measured(self, cell: str) -> None:
        if cell == "model":
            self.shard.write_bytes(b"gone")


def test_a_damaged_shard_costs_its_cell_only_and_can_be_mended(
    shards: list[Path], tmp_path: Path
) -> None:
    whole = session.run(config(shards), Registry.discover(), out=tmp_path / "whole")
    assert whole.status == "complete"
    assert whole.notices == ["1 samples without a picture, left out; the first: train-1.tar:alone"]
    registry = Registry.discover()
    registry.register(Damage(shards[2]), "damage")
    content = shards[2].read_bytes()
    found = session.run(config(shards), registry, out=tmp_path / "damaged")
    assert found.status == "failed"
    missing = found.failures["activations-00002"]
    assert "none of the 12 samples could be read; the first: train-2.tar:" in missing
    assert set(found.failures) == {"activations-00002", "units-conv1-0000-0003", "pictures"}
    assert (found.path / "cells" / "activations-00003").is_dir()
    shards[2].write_bytes(content)
    again = session.resume(found.path, Registry.discover())
    assert again.status == "complete"
    assert files(again.path) == files(whole.path)
