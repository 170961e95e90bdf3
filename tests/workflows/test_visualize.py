from __future__ import annotations

import io
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import polykit
from polykit import session
from polykit.errors import DataError, RunError, UsageError
from polykit.registry import Registry
from polykit.runtime.files import write_bytes
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.pruning.masking import mask_bytes, masked
from polykit.runtime.store import RunStore
from polykit.testing.state import unchanged
from polykit.types import Mask, UnitRef
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.saved import open_clusters
from polykit.workflows.dissect.setup import Cell as PartCell
from polykit.workflows.visualize import cells
from polykit.workflows.visualize.config import VisualizeConfig
from polykit.workflows.visualize.setup import Cell, resolve

from ..report.clusters import conftest as atlases

UNIT = UnitRef("conv2", 1)


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory, registry):
    """A run of clusters over a few units of a small network, with a dissection below it."""
    config = ClustersConfig(
        model="convnet:channels=4,6", epochs=1, layers=("conv2",), units=("0-2",), nulls=19,
        resamples=2, sensitivity=False, montage=4, threads=1,
    )  # fmt: skip
    run = session.run(config, registry, out=tmp_path_factory.mktemp("clusters") / "run")
    assert not run.failures
    dissection = atlases.dissect(run.saved, "first", str(UNIT), pruners=("cs",))
    for cluster, keep in ((0, part(0.5)), (1, part(0.0))):
        cell = PartCell(UNIT, cluster, "cs", 1.0, "own", UNIT)
        place = RunStore.open(dissection.path).cell(cell.name)
        write_bytes(place / "mask.safetensors", mask_bytes(keep))
    return run.path


def part(share):
    """A mask of the first layer that keeps a share of its weights."""
    keep = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < share
    return Mask({"conv1.weight": keep})


def config(clusters, **changes):
    return VisualizeConfig(
        **{"run": str(clusters), "units": (str(UNIT),), "steps": 6, "pictures": 2, "examples": 2,
           "threads": 1, **changes}
    )  # fmt: skip


def shown(clusters, registry, tmp_path, **changes):
    return session.run(config(clusters, **changes), registry, out=tmp_path / "run")


def test_the_dense_unit_and_its_parts_are_shown(clusters, registry, tmp_path):
    run = shown(clusters, registry, tmp_path, dissection="first")
    assert run.status == "complete"
    images = run.saved.tables["images"]
    assert list(dict.fromkeys(images["variant"])) == [
        "dense", "the pictures", "cluster 0 by cs", "cluster 1 by cs",
    ]  # fmt: skip
    grown = images[images["kind"] == "features"].groupby("variant")["number"].count()
    assert grown.to_dict() == {"dense": 2, "cluster 0 by cs": 2}
    assert set(images["unit"]) == {str(UNIT)}
    for image in images.to_dict("records"):
        with Image.open(io.BytesIO((run.path / image["file"]).read_bytes())) as opened:
            assert opened.format == "PNG"
            assert max(opened.size) <= 8
    # nothing is left of the second part: no picture can raise it, and no pixel does anything
    (notice,) = run.notices
    assert "cluster 1 by cs" in notice
    assert "nothing of the picture reaches the unit" in notice


def test_grown_pictures_are_those_of_the_masked_network(clusters, registry):
    setup = resolve(config(clusters, dissection="first", examples=0), registry)
    dense, half = setup.cells[:2]
    found = {cell: cells.visualize(setup, cell).tables["rows"] for cell in (dense, half)}
    values = {c: t.set_index("statistic")["value"] for c, t in found.items()}
    assert values[dense]["value"] != values[half]["value"]
    saved = open_clusters(clusters, registry)
    network = saved.network()
    reader = make_reader(network, saved.trace, UNIT.layer)
    with masked(network, part(0.5)), torch.no_grad():
        real = reader(network, setup.sample)[:, UNIT.index]
    assert values[half]["real"] == pytest.approx(float(real.max()))


def test_examples_are_the_strongest_of_each_cluster(clusters, registry, tmp_path):
    run = shown(clusters, registry, tmp_path, pictures=0, examples=3)
    saved = open_clusters(clusters, registry)
    members = saved.members(UNIT)
    best = members[members["cluster"] >= 0].sort_values("rank").groupby("cluster").head(3)
    table = run.saved.tables["images"].query("variant == 'the pictures'")
    told = [f"picture {p} of cluster {c}" for p, c in zip(best.picture, best.cluster, strict=True)]
    assert sorted(table["text"]) == sorted(told)
    first = table.iloc[0]
    number = int(first["text"].split()[1])
    x, _ = next(saved.split.batches(1, order=torch.tensor([number])))
    expected = (saved.data.picture(x)[0] * 255).round().permute(1, 2, 0).numpy()
    with Image.open(run.path / first["file"]) as opened:
        assert np.array_equal(np.asarray(opened), expected)
    gaps = run.rows.query("statistic == 'gap'")["value"]
    assert float(gaps.abs().max()) < 0.1


def test_the_same_seed_gives_the_same_bytes_and_a_resumed_run_too(clusters, registry, tmp_path):
    def files(run):
        return {
            str(p.relative_to(run.path)): p.read_bytes()
            for p in run.path.rglob("*")
            if p.suffix in (".png", ".parquet")
        }

    first = shown(clusters, registry, tmp_path / "a", units=("conv2:0-1",))
    second = shown(clusters, registry, tmp_path / "b", units=("conv2:0-1",))
    assert files(first) == files(second)
    shutil.rmtree(second.path / "cells" / "conv2-1-dense")
    resumed = session.resume(second.path, registry)
    assert files(resumed) == files(first)
    other = shown(clusters, registry, tmp_path / "c", units=("conv2:0-1",), seed=1)
    assert files(other).keys() == files(first).keys()
    assert files(other) != files(first)


def test_cells_leave_the_process_as_it_was(clusters, registry):
    setup = resolve(config(clusters), registry)
    with unchanged():
        cells.visualize(setup, Cell(UNIT))


def test_without_a_unit_the_first_of_the_ranking_is_shown(clusters, registry):
    setup = resolve(config(clusters, units=()), registry)
    (cell,) = setup.cells
    assert cell.unit == open_clusters(clusters, registry).ranked()[0]


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"units": ("conv9:0",)}, UsageError, "conv9"),
        ({"units": ("conv2:77",)}, UsageError, "0 to 5, not 77"),
        ({"units": ("conv1:0",)}, UsageError, "did not look at layer 'conv1'"),
        ({"units": ("conv2:5",)}, UsageError, "did not look at conv2:5"),
        ({"units": ("conv2",)}, UsageError, "names no units"),
        ({"dissection": "frist"}, UsageError, "Did you mean 'first'"),
        ({"pictures": 0, "examples": 0}, UsageError, "nothing to show"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_a_run_begins(
    clusters, registry, changes, error, why
):
    with pytest.raises(error, match=why):
        resolve(config(clusters, **changes), registry)


def test_a_run_of_another_workflow_is_refused(clusters, registry):
    with pytest.raises(RunError, match="give one of clusters"):
        resolve(config(clusters / "dissections" / "first"), registry)


def test_inputs_that_are_no_pictures_are_refused(registry, tmp_path):
    made = ClustersConfig(
        model="mlp:widths=6", layers=("hidden1",), units=("0",), epochs=0, nulls=19, resamples=2,
        sensitivity=False, dataset="toy", threads=1,
    )  # fmt: skip
    run = session.run(made, registry, out=tmp_path / "run")
    with pytest.raises(DataError, match="no pictures"):
        resolve(config(run.path, units=()), registry)


def test_a_callers_own_network_is_shown_and_left_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    )
    data = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 2)
    found = polykit.clusters(
        model, data, layers=("conv",), nulls=19, resamples=2, montage=0, sensitivity=False,
        threads=1, out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(RunError, match="made in Python"):
        polykit.visualize(found.path)
    with unchanged(model):
        run = polykit.visualize(
            found.path, model=model, dataset=data, pictures=1, steps=2, out=str(tmp_path / "seen")
        )
    assert run.status == "complete"
    assert run.path == tmp_path / "seen"
    assert set(run.saved.tables["images"]["variant"]) >= {"dense"}
