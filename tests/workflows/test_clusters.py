"""Clusters from end to end: numbers against a look at the whole, resuming, and what goes wrong."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import polykit
from polykit import session
from polykit.api import hookimpl
from polykit.errors import DataError, ModelError, RunError, UsageError
from polykit.registry import Registry
from polykit.report.clusters.verdict import verdict as in_words
from polykit.runtime.clusters.clustering import Recipe, distances, partition
from polykit.runtime.passes.capture import collect, unit_values
from polykit.runtime.store import RunStore
from polykit.testing.state import unchanged
from polykit.types import Site, UnitRef
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.saved import open_clusters
from polykit.workflows.clusters.setup import resolve

REGISTRY = Registry.discover()
QUICK = {
    "model": "convnet:channels=6x8,pools=1,hidden=16",
    "epochs": 3,
    "lr": 0.01,
    "shard_size": 300,
    "resamples": 5,
    "nulls": 19,
    "sensitivity": False,
    "montage": 3,
    "threads": 1,
}


def config(**changes):
    return ClustersConfig(**{**QUICK, **changes})


def go(out, registry=REGISTRY, **changes):
    return session.run(config(**changes), registry, out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return go(tmp_path_factory.mktemp("runs") / "clusters", sensitivity=True)


@pytest.fixture(scope="module")
def opened(run):
    return open_clusters(run.path, REGISTRY)


def content(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


def statistic(run, name):
    rows = run.rows[run.rows["statistic"] == name]
    return rows.set_index("unit")["value"]


def test_the_run_holds_what_a_look_at_all_pictures_says(run, opened):
    """Top pictures, moments and members, against one pass that keeps everything in memory."""
    assert (run.status, run.failures) == ("complete", {})
    model = opened.network()
    site = Site("conv2", "post")
    batches = [(x, y) for x, y in opened.split.batches(200)]
    values = collect(model, batches, [site], opened.trace, reduce="center")[site]
    kept = torch.cat([chunk.values for chunk in opened.activations("conv2")])
    assert torch.allclose(kept, values, atol=1e-6)
    assert statistic(run, "fires").to_dict() == pytest.approx(
        dict(enumerate((kept > 0).double().mean(0).tolist()))
    )
    assert statistic(run, "top_activation").to_dict() == pytest.approx(
        dict(enumerate(kept.amax(0).tolist()))
    )
    top = run.meta["clustering"]["top"]
    assert top == 108  # a tenth of 1,078
    for unit in range(8):
        members = opened.members(UnitRef("conv2", unit))
        order = sorted(range(len(kept)), key=lambda i, u=unit: (-float(kept[i, u]), i))
        expected = [i for i in order[:top] if kept[i, unit] > 0]
        assert members["picture"].tolist() == expected
        assert members["rank"].tolist() == list(range(len(expected)))
        assert members["activation"].tolist() == kept[expected, unit].tolist()
        vectors = kept[expected].double().numpy()
        found = partition(distances(vectors), Recipe())
        assert statistic(run, "hdbscan_clusters")[unit] == found.clusters
        assert statistic(run, "hdbscan_noise_share")[unit] == pytest.approx(found.noise_share)


def test_tables_agree_with_each_other(run, opened):
    tables = run.saved.tables
    members, clusters = tables["members"], tables["clusters"]
    assert np.isfinite(run.rows["value"]).all()
    assert not run.rows.duplicated(["layer", "unit", "statistic"]).any()
    sizes = members.groupby(["unit", "cluster"]).size()
    assert sizes.to_dict() == clusters.set_index(["unit", "cluster"])["size"].to_dict()
    means = members.groupby(["unit", "cluster"])["activation"].mean()
    own = clusters.set_index(["unit", "cluster"])["activation"]
    assert np.allclose(means.sort_index(), own.sort_index())
    confirmed = clusters[clusters["cluster"] >= 0].groupby("unit").size()
    assert confirmed.to_dict() == statistic(run, "clusters").to_dict()
    assert (statistic(run, "clusters") > 1).any()
    several = clusters[clusters["unit"].isin(confirmed[confirmed > 1].index)]
    assert several[several["cluster"] >= 0]["stability"].between(0.5, 1).all()
    assert clusters[clusters["cluster"] == -1]["stability"].isna().all()
    for row in clusters[clusters["cluster"] >= 0].to_dict("records"):
        here = members[(members["unit"] == row["unit"]) & (members["cluster"] == row["cluster"])]
        assert row["medoid"] in set(here["picture"])
        pictures = tables["pictures"].set_index("picture").loc[here["picture"]]
        assert row["purity"] == pytest.approx((pictures["class"] == row["class"]).mean())
    score, several = statistic(run, "score"), statistic(run, "clusters") > 1
    assert ((score > 0) == several).all()
    assert (score <= statistic(run, "clusters") + 1e-9).all()
    pictures = tables["pictures"]
    assert not pictures["picture"].duplicated().any()
    assert set(pictures["picture"]) == set(members["picture"])
    labels = torch.cat([chunk.label for chunk in opened.activations("conv2")])
    assert pictures["label"].tolist() == labels[pictures["picture"].tolist()].tolist()
    sensitivity = tables["sensitivity"]
    assert set(sensitivity["setting"]) >= {"length 1", "standardised", "clusters of 10"}
    assert sensitivity.groupby("unit").size().nunique() == 1


def test_thumbnails_are_of_the_strongest_and_the_middle_of_each_cluster(run, opened):
    kept = RunStore(run.path).read_tensors("pictures", "thumbnails.safetensors")
    members = run.saved.tables["members"]
    shown = members.groupby(["unit", "cluster"]).head(3)["picture"]
    clusters = run.saved.tables["clusters"]
    middle = clusters[clusters["cluster"] >= 0]["medoid"]
    assert set(kept) == {str(picture) for picture in (*shown, *middle)}
    picture = next(iter(kept))
    x, _ = next(opened.split.batches(1, order=torch.tensor([int(picture)])))
    expected = (opened.data.picture(x)[0] * 255).round().to(torch.uint8)
    assert torch.equal(kept[picture], expected)  # 8×8 is small enough as it is


def test_a_run_goes_on_with_the_same_bytes(run, tmp_path):
    """Whatever was lost: the network, a shard, the units or the thumbnails."""
    for lost in (
        ["pictures"],
        ["units-conv2-0000-0007", "pictures"],
        ["activations-00001", "units-conv2-0000-0007", "pictures"],
        sorted(p.name for p in (run.path / "cells").iterdir()),
    ):
        path = tmp_path / lost[0]
        shutil.copytree(run.path, path)
        for cell in lost:
            shutil.rmtree(path / "cells" / cell)
        meta = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps({**meta, "status": "interrupted"}))
        assert session.resume(path, REGISTRY).status == "complete"
        assert content(path) == content(run.path)


def test_an_interrupted_pass_keeps_its_shards(tmp_path):
    class Interrupt:
        @hookimpl
        def polykit_measured(self, cell, stage, rows):
            if cell == "activations-00001":
                raise KeyboardInterrupt

    registry = Registry.discover()
    registry.register(Interrupt(), "interrupt")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "a", registry)
    kept = sorted(p.name for p in (tmp_path / "a" / "cells").iterdir())
    assert kept == ["activations-00000", "activations-00001", "model"]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "interrupted"
    assert session.resume(tmp_path / "a", REGISTRY).status == "complete"
    assert content(tmp_path / "a") == content(go(tmp_path / "b").path)


def test_shards_and_chunks_change_nothing_but_rounding(run, tmp_path):
    other = go(tmp_path / "a", shard_size=1000, eval_batch_size=17, sensitivity=True)
    for name in ("rows", "clusters", "members", "sensitivity", "pictures"):
        pd.testing.assert_frame_equal(
            run.saved.tables[name], other.saved.tables[name], rtol=1e-4, atol=1e-5
        )


def test_half_precision_halves_the_shards(tmp_path, run):
    half = go(tmp_path / "a", precision="float16")
    shard = "cells/activations-00000/activations.safetensors"
    ours, theirs = ((r.path / shard).stat().st_size for r in (half, run))
    assert theirs - ours == pytest.approx(270 * 8 * 2, abs=64)
    values = statistic(half, "top_activation")
    assert np.allclose(values, statistic(run, "top_activation"), rtol=1e-3)


def test_a_saved_run_gives_its_network_and_fresh_ones(run, opened):
    one, two = opened.network(), opened.network()
    assert one is not two
    assert not one.training
    fresh = opened.fresh(1)
    assert torch.equal(fresh.conv2.weight, opened.fresh(1).conv2.weight)
    assert not torch.equal(fresh.conv2.weight, opened.fresh(2).conv2.weight)
    assert not torch.equal(fresh.conv2.weight, one.conv2.weight)
    x, _ = next(opened.split.batches(4))
    at_post, at_pre = opened.reader("conv2"), opened.reader("conv2", "pre")
    assert torch.allclose(at_pre(one, x).clamp(min=0), at_post(one, x))
    with pytest.raises(UsageError, match=r"did not look at layer 'conv3'\. Did you mean 'conv2'"):
        opened.activations("conv3")
    with pytest.raises(UsageError, match="did not look at conv2:8; of conv2 it has 0-7"):
        opened.members(UnitRef("conv2", 8))


def test_only_runs_of_clusters_can_be_opened(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"workflow": "analyze", "status": "", "config": {}}))
    with pytest.raises(RunError, match="a run of 'analyze'; give one of clusters"):
        open_clusters(path, REGISTRY)
    (path / "run.json").write_text(
        json.dumps({"workflow": "clusters", "status": "", "config": {"top": "many"}})
    )
    with pytest.raises(RunError, match="configuration that this polykit cannot read"):
        open_clusters(path, REGISTRY)


def test_own_network_and_data_are_left_as_they_are(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 2)).train()
    data = torch.rand(150, 1, 8, 8), torch.arange(150) % 2
    with unchanged(net):
        found = polykit.clusters(net, data, out=tmp_path / "a", nulls=19, threads=1)
    assert (found.status, found.meta["epochs"]) == ("complete", 0)
    assert found.meta["reading"]["0"]["way"] == "cone"
    with pytest.raises(RunError, match="model made in Python \\(Sequential\\)"):
        open_clusters(found.path, REGISTRY)
    from polykit.runtime.samples.data import as_data

    again = open_clusters(found.path, REGISTRY, model=net, data=as_data(data, name="tuple"))
    assert torch.equal(again.network()[0].weight, net[0].weight)
    assert not torch.equal(again.fresh(0)[0].weight, net[0].weight)


def test_regression_has_no_purity(tmp_path):
    data = torch.rand(120, 1, 6, 6), torch.rand(120)
    found = polykit.clusters(
        "convnet:channels=4,pools=,hidden=4", data, epochs=1, out=tmp_path / "a", nulls=19
    )
    assert found.status == "complete"
    assert "class_purity" not in set(found.rows["statistic"])
    assert set(found.saved.tables["pictures"]["label"]) == {-1}
    assert found.saved.tables["clusters"]["purity"].isna().all()


def folder_of_pictures(root, count=24):
    draw = np.random.default_rng(0)
    for label in ("n01", "n02"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return f"imagefolder:{root},size=12,crop=12"


def test_unreadable_pictures_are_counted_and_named(tmp_path):
    data = folder_of_pictures(tmp_path / "pictures")
    broken = sorted((tmp_path / "pictures").rglob("*.png"))[:3]
    for path in broken:
        path.write_bytes(b"no picture")
    (tmp_path / "names.txt").write_text("n01 Persian cat\nn02 Siamese cat, Siamese\n")
    data += f",names={tmp_path / 'names.txt'},validation=0.1,test=0.1"
    found = go(tmp_path / "a", dataset=data, model="convnet:channels=4,pools=", epochs=1)
    assert found.status == "complete"
    notices = [line for line in found.notices if "could not be read" in line]
    assert len(notices) == 1
    lost = int(notices[0].split()[1])
    assert 1 <= lost <= 3
    assert "n01/" in notices[0]
    shards = open_clusters(found.path, REGISTRY).activations("conv1")
    kept = sum(len(chunk.index) for chunk in shards)
    assert kept == found.meta["data"]["pictures"] - lost
    tables = found.saved.tables
    assert set(tables["clusters"]["name"]) == {"cat"}
    assert (tables["clusters"]["name_purity"] == 1.0).all()
    sources = {tmp_path / "pictures" / source for source in tables["pictures"]["source"]}
    assert all(source.is_file() for source in sources)
    assert sources.isdisjoint(broken)


def test_a_network_that_gives_no_numbers_is_named(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(18, 2))
    net[0].weight.data.fill_(torch.inf)
    data = torch.rand(60, 1, 3, 3), torch.arange(60) % 2
    found = polykit.clusters(net, data, out=tmp_path / "a")
    assert found.status == "failed"
    assert "0 gives activations that are NaN or infinite" in found.failures["activations-00000"]
    assert set(found.failures) == {"activations-00000", "units-0-0000-0001", "pictures"}
    assert "not run" in found.failures["pictures"]


def test_units_that_never_fire_are_said_so(tmp_path):
    class Half(nn.Module):
        """Unit 0 never fires; unit 1 on few pictures; unit 2 on all."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 1)
            self.conv.weight.data = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1)
            self.conv.bias.data = torch.tensor([-1.0, -0.9, 0.5])
            self.output = nn.Linear(3, 2)

        def forward(self, x):
            return self.output(self.conv(x).relu().mean((2, 3)))

    values = torch.linspace(0, 1, 200).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    found = polykit.clusters(
        Half(), (values, torch.arange(200) % 2), out=tmp_path / "a", layers=("conv",), nulls=19
    )
    assert found.status == "complete"
    assert statistic(found, "pictures").to_dict()[0] == 0
    assert statistic(found, "clusters").to_dict() == {0: 0.0, 1: 1.0, 2: 1.0}
    assert statistic(found, "pictures")[1] < statistic(found, "pictures")[2] == 100
    assert [line for line in found.notices if "unit 0 fires on none of the 140 pictures" in line]
    verdict = in_words(found.saved)
    assert "Unit conv:0 never fired." in verdict.answer
    assert dict(verdict.parts)["conv:0"] == ("It fires on none of the pictures.",)
    assert 0 not in set(found.saved.tables["members"]["unit"])


def test_fewer_pictures_than_two_clusters_need_are_one(tmp_path):
    found = go(tmp_path / "a", top=8, min_cluster_size=4, sensitivity=False, split="test")
    assert found.status == "complete"
    assert not [line for line in found.notices if "fewer pictures" in line]
    found = go(tmp_path / "b", min_cluster_size=300, sensitivity=False)
    assert (statistic(found, "clusters") <= 1).all()
    assert [line for line in found.notices if "fewer pictures than two clusters of 300" in line]


def test_layers_that_are_no_convolutions(tmp_path):
    found = go(tmp_path / "a", model="mlp:widths=6", layers=(), epochs=1)
    (layer,) = found.meta["layers"]
    assert found.meta["reading"][layer]["why"] == f"{layer} has no map"
    assert set(found.rows["unit"]) == set(range(6))
    several = resolve(config(layers=("*",), units=("0-1",)), REGISTRY)
    assert several.units == {"conv1": (0, 1), "conv2": (0, 1), "hidden": (0, 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("conv9",)}, "no layer matches 'conv9'. Did you mean 'conv"),
        ({"units": ("0-8",)}, "layer 'conv2' has units 0 to 7, not 8"),
        ({"units": ("conv1:6",)}, "layer 'conv1' has units 0 to 5, not 6"),
        ({"center": "cone"}, "no cone: the field of conv2 leaves the picture"),
        ({"center": "full", "position": "max"}, "drop one of them"),
        ({"top": 9, "min_cluster_size": 5}, "9 top pictures cannot hold two clusters of 5"),
        ({"layers": ("conv1",), "units": ("conv2:0",)}, "--layer conv1: no unit of it is asked"),
        ({"options": {"mlp": {"widths": "3"}}}, "no plugin 'mlp' takes part"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_begins(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        go(tmp_path / "a", **changes)
    assert not (tmp_path / "a").exists()


def test_a_network_that_cannot_be_had_ends_the_run(tmp_path):
    with pytest.raises(ModelError, match="no checkpoint"):
        go(tmp_path / "a", checkpoint=str(tmp_path / "none.pt"))
    with pytest.raises(DataError, match="no folder"):
        go(tmp_path / "a", dataset="imagefolder")
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_may_be_gone_once_the_run_is_there(run, opened, tmp_path):
    weights = run.path / "cells/model/model.safetensors"
    place = tmp_path / "mine.safetensors"
    shutil.copy(weights, place)
    found = go(tmp_path / "a", checkpoint=str(place), epochs=None, layers=("conv1", "conv2"))
    assert found.meta["epochs"] == 0
    place.unlink()
    again = open_clusters(found.path, REGISTRY)
    assert torch.equal(again.network().conv2.weight, opened.network().conv2.weight)
    assert again.layers == ("conv1", "conv2")


@pytest.mark.parametrize("position", ["mean", "max"])
def test_other_positions(tmp_path, run, position):
    found = go(tmp_path / "a", position=position, layers=("conv2",), units=("0,2",))
    again = open_clusters(found.path, REGISTRY)
    x, _ = next(again.split.batches(5))
    maps = nn.Sequential(*list(again.network().children())[:5])(x)
    assert isinstance(maps, torch.Tensor)
    kept = next(iter(again.activations("conv2"))).values[:5]
    assert torch.allclose(kept, unit_values(maps, position), atol=1e-5)
    assert set(found.rows["unit"]) == {0, 2}
