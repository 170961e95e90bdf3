"""Dissection of a unit of a small convnet on digits, from a run of clusters to tables and files."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import polykit
from polykit.errors import DataError, RunError, UsageError
from polykit.registry import Registry
from polykit.runtime.clusters.separation import auc
from polykit.runtime.pruning.masking import load_mask, masked
from polykit.runtime.pruning.subnetworks import load_subnetwork
from polykit.runtime.store import RunStore
from polykit.testing import unchanged
from polykit.testing.planted import LAYER, planted
from polykit.types import UnitRef
from polykit.workflows.clusters.saved import open_clusters
from polykit.workflows.dissect.cells import MASK, SUBNETWORK
from polykit.workflows.dissect.config import DissectConfig
from polykit.workflows.dissect.parts import NEITHER, Pictures, held_out_rows
from polykit.workflows.dissect.plan import make_plan
from polykit.workflows.dissect.saved import own_masks
from polykit.workflows.dissect.setup import resolve

SMALL = {
    "pruners": ("cs:epochs=4,steps=2", "snip"),
    "others": 2,
    "randoms": 3,
    "neither": 40,
    "enough": 5,
}
PLACE = ["pruner", "control", "read_unit", "cluster"]


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dissect") / "clusters"
    polykit.clusters(
        "convnet",
        "digits",
        epochs=4,
        top=160,
        units=("0-9",),
        resamples=2,
        nulls=19,
        sensitivity=False,
        montage=0,
        out=folder,
    )
    return folder


def units_with(clusters, test):
    rows = RunStore.open(clusters).load().rows
    counts = rows[rows["statistic"] == "clusters"]
    found = counts[counts["value"].map(test)]
    return [f"{row.layer}:{row.unit}" for row in found.itertuples()]


@pytest.fixture(scope="module")
def run(clusters):
    unit = units_with(clusters, lambda n: n == 2)[0]
    return polykit.dissect(clusters, units=(unit,), **SMALL)


@pytest.fixture(scope="module")
def wide(run):
    table = run.rows.pivot_table(index=PLACE, columns="statistic", values="value")
    return table.rename_axis(columns=None)


def test_every_part_has_every_control(run, wide):
    assert run.status == "complete"
    unit = run.rows["unit"].iloc[0]
    for (pruner, cluster), _ in wide.groupby(["pruner", "cluster"]):
        controls = wide.xs((pruner, cluster), level=("pruner", "cluster")).reset_index()
        counts = controls["control"].value_counts().to_dict()
        assert counts == {"own": 1, "unit": 2, "weights": 2, "labels": 1}
        assert unit not in set(controls.loc[controls["control"] == "unit", "read_unit"])
        assert unit in set(controls.loc[controls["control"] == "weights", "read_unit"])
    assert run.path.parent.name == "dissections"


def test_statistics_are_in_their_ranges(wide):
    shares = ["auc", "auc_before", "auc_seen", "auc_neither", "overlap", "achieved_density"]
    assert ((wide[shares] >= 0) & (wide[shares] <= 1)).all(axis=None)
    for name in ("fidelity", "specificity"):
        assert (wide[name].abs() <= 1).all()
        assert (wide[f"{name}_low"] <= wide[f"{name}_high"]).all()
    assert (wide["effective_density"] <= wide["achieved_density"]).all()
    assert (wide["bce"] > 0).all()
    expected = np.minimum(wide["fidelity"], 2 * wide["auc"] - 1)
    np.testing.assert_allclose(wide["specificity"], expected)
    own = wide.xs("own", level="control")
    assert own["auc_random"].between(0, 1).all()
    assert (own["auc_random_low"] <= own["auc_random_high"]).all()
    assert wide.drop("own", level="control")["auc_random"].isna().all()


def test_statistics_are_those_of_the_values_kept(run, wide):
    table = run.saved.tables["activations"]
    for place, values in table.groupby(PLACE):
        out = values[values["held_out"]]
        groups = {
            (name, when): part[when].to_numpy()
            for name, part in out.groupby("group")
            for when in ("before", "after")
        }
        row = wide.loc[place]
        assert row["auc"] == pytest.approx(
            auc(groups["cluster", "after"], groups["other", "after"])
        )
        assert row["auc_before"] == pytest.approx(
            auc(groups["cluster", "before"], groups["other", "before"])
        )
        assert row["mean"] == pytest.approx(groups["cluster", "after"].mean())
        fidelity = np.corrcoef(groups["cluster", "before"], groups["cluster", "after"])[0, 1]
        assert row["fidelity"] == pytest.approx(fidelity, abs=1e-9)
        assert set(values.loc[values["group"] == "neither", "held_out"]) == {True}
        assert row["pictures_held_out"] == len(groups["cluster", "after"])


def test_values_are_the_units_own_before_its_nonlinearity(run, clusters, registry):
    saved = open_clusters(clusters, registry)
    unit = UnitRef.parse(run.rows["unit"].iloc[0])
    network, read = saved.network(), saved.reader(unit.layer, at="pre")
    members = saved.members(unit).set_index("picture")["cluster"]
    table = run.saved.tables["activations"]
    for own in own_masks(run.path, unit):
        mine = table[(table["control"] == "own") & (table["pruner"] == own.pruner)]
        mine = mine[mine["cluster"] == own.cluster]
        x = saved.split.x[torch.tensor(mine["picture"].to_numpy())]
        with torch.no_grad():
            before = read(network, x)[:, unit.index]
            with masked(network, own.mask):
                after = read(network, x)[:, unit.index]
        np.testing.assert_allclose(mine["before"], before, atol=1e-5)
        np.testing.assert_allclose(mine["after"], after, atol=1e-5)
        labels = members.reindex(mine["picture"]).fillna(NEITHER).to_numpy()
        assert ((labels == own.cluster) == (mine["group"] == "cluster")).all()
        assert set(labels[mine["group"] == "neither"]) == {NEITHER}
        assert not set(mine.loc[mine["group"] == "neither", "picture"]) & set(members.index)


def test_small_networks_do_what_the_masked_unit_does(run, clusters, registry):
    split, found = open_clusters(clusters, registry).split, 0
    for cell in sorted((run.path / "cells").glob("*-own")):
        small = load_subnetwork(cell / SUBNETWORK)
        assert small.target == UnitRef.parse(run.rows["unit"].iloc[0])
        assert small.parameters < small.original
        values = pd.read_parquet(cell / "activations.parquet")
        with torch.no_grad():
            maps = small.model(split.x[torch.tensor(values["picture"].to_numpy())])
        middle = maps[:, 0, maps.shape[2] // 2, maps.shape[3] // 2]
        np.testing.assert_allclose(values["after"], middle, atol=1e-5)
        found += 1
    assert found == 4


def test_layers_add_up_to_the_mask(run):
    layers = run.saved.tables["layers"]
    unit = UnitRef.parse(run.rows["unit"].iloc[0])
    for own in own_masks(run.path, unit):
        mine = layers[(layers["control"] == "own") & (layers["pruner"] == own.pruner)]
        mine = mine[mine["cluster"] == own.cluster]
        assert mine["kept"].sum() == own.mask.kept
        assert mine["parameters"].sum() == own.mask.total
        assert (mine["effective"] <= mine["kept"]).all()


def test_the_pruner_sees_no_picture_that_is_held_out(clusters, registry):
    unit = units_with(clusters, lambda n: n == 2)[0]
    setup = resolve(DissectConfig(run=str(clusters), units=(unit,), **SMALL), registry)
    surgery = setup.surgery(setup.part_cells[0])
    for others in (True, False):
        seen = {tuple(x.flatten().tolist()) for x in surgery.seen(others=others).x}
        hidden = surgery.pictures.x[surgery.pictures.held_out]
        assert not seen & {tuple(x.flatten().tolist()) for x in hidden}
        assert len(seen) > 0
    alone = surgery.seen(others=False)
    assert bool((alone.y == 1).all())
    assert len(alone.x) == surgery.pictures.count(surgery.cluster, held_out=False)


def test_a_resumed_run_has_the_same_bytes(run, clusters, registry):
    from polykit import session

    copy = run.path.with_name("copy")
    shutil.copytree(run.path, copy)
    store = RunStore.open(copy)
    cells = store.meta["cells"]
    for name in (cells[1], cells[5], cells[-1]):
        shutil.rmtree(store.cell(name))
    (copy / "rows.parquet").unlink()
    session.resume(copy, registry)
    for path in sorted(run.path.rglob("*")):
        if path.is_file() and path.name != "run.json":
            assert path.read_bytes() == (copy / path.relative_to(run.path)).read_bytes(), path


def planted_clusters(made, folder, top):
    data = dict.fromkeys(("train", "validation", "test"), (made.x, made.y))
    found = polykit.clusters(
        made.model,
        data,
        layers=(LAYER,),
        units=("0",),
        top=top,
        at="pre",
        resamples=2,
        nulls=19,
        sensitivity=False,
        montage=0,
        out=folder,
    )
    return found.path, data


def test_a_callers_own_network_is_left_as_it_was(tmp_path):
    made = planted(0, pictures=40)
    path, data = planted_clusters(made, tmp_path / "c", 80)
    with pytest.raises(RunError, match="made in Python"):
        polykit.dissect(path)
    with unchanged(made.model):
        found = polykit.dissect(
            path, model=made.model, dataset=data, **{**SMALL, "pruners": ("force",)}
        )
    assert found.status == "complete"
    assert found.rows["unit"].unique().tolist() == [f"{LAYER}:0"]


def test_pictures_of_no_cluster_are_needed(tmp_path):
    made = planted(0, pictures=20)
    path, data = planted_clusters(made, tmp_path / "c", len(made.x))
    found = polykit.dissect(path, model=made.model, dataset=data, **SMALL)
    assert set(found.failures) == set(found.meta["cells"])
    assert "--top" in next(iter(found.failures.values()))


def test_bad_input_is_refused_with_a_remedy(run, clusters, tmp_path):
    one = units_with(clusters, lambda n: n < 2)[0]
    for options, message in (
        ({"units": (one,)}, "has (no|1) cluster"),
        ({"units": ("conv3:99",)}, "99"),
        ({"units": ("conv1:0",)}, "did not look at"),
        ({"units": ("nowhere:0",)}, "nowhere"),
        ({"pruners": ("structured",)}, "no mask"),
        ({"pruners": ("sc",)}, "sc"),
        ({"options": {"magnitude": {"rounds": 3}}}, "takes part"),
        ({"densities": (1.5,)}, "outside"),
        ({"held_out": 1.0}, "held_out"),
    ):
        with pytest.raises(UsageError, match=message):
            polykit.dissect(clusters, out=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
    with pytest.raises(RunError, match="is not a run"):
        polykit.dissect(tmp_path)
    with pytest.raises(RunError, match="'dissect'"):
        polykit.dissect(run.path)


def test_without_a_unit_the_first_in_rank_is_cut_apart(clusters, registry):
    setup = resolve(DissectConfig(run=str(clusters), **SMALL), registry)
    rows = setup.clusters.run.rows
    best = rows[rows["statistic"] == "score"].sort_values("value").iloc[-1]
    assert setup.units == (UnitRef(best["layer"], int(best["unit"])),)
    plan = make_plan(setup)
    assert json.dumps(plan.to_dict())
    assert plan.lines()[0] == f"{len(setup.cells)} cells"
    assert len(set(plan.cells)) == len(plan.cells)


def test_densities_are_met_by_every_pruner(clusters, registry):
    unit = units_with(clusters, lambda n: n == 2)[0]
    config = DissectConfig(run=str(clusters), units=(unit,), densities=(0.1, 0.02), **SMALL)
    setup = resolve(config, registry)
    assert {(c.pruner, c.density) for c in setup.part_cells} == {
        (pruner, density) for pruner in ("cs", "snip") for density in (0.1, 0.02)
    }
    cell = next(c for c in setup.part_cells if c.pruner == "snip" and c.density == 0.02)
    mask = setup.surgery(cell).find(
        setup.pruners["snip"].instance, cell.density, "contrast", torch.Generator()
    )
    assert mask.density == pytest.approx(0.02, abs=1 / mask.total)


def test_pictures_are_held_out_of_every_cluster():
    labels = torch.tensor([0] * 10 + [1] * 5 + [NEITHER] * 4)
    out = held_out_rows(labels, 0.4, torch.Generator().manual_seed(0))
    assert [int(out[:10].sum()), int(out[10:15].sum()), int(out[15:].sum())] == [4, 2, 4]
    for share in (0.01, 0.99):
        out = held_out_rows(torch.tensor([0, 0, 1, 1, 1]), share, torch.Generator())
        assert 1 <= int(out[:2].sum()) <= 1
        assert 1 <= int(out[2:].sum()) <= 2
    with pytest.raises(DataError, match="cluster 1 has 1 picture"):
        held_out_rows(torch.tensor([0, 0, 1]), 0.5, torch.Generator())


def test_shuffled_labels_keep_the_sizes_and_the_split():
    labels = torch.tensor([0] * 30 + [1] * 20 + [NEITHER] * 10)
    out = held_out_rows(labels, 0.5, torch.Generator().manual_seed(0))
    x = torch.arange(60.0).unsqueeze(1)
    pictures = Pictures(x, torch.arange(60), labels, out)
    dealt = pictures.shuffled(torch.Generator().manual_seed(1))
    assert not torch.equal(dealt.cluster, labels)
    assert torch.equal(dealt.cluster == NEITHER, labels == NEITHER)
    for cluster in (0, 1):
        for held_out in (True, False):
            assert dealt.count(cluster, held_out=held_out) == pictures.count(
                cluster, held_out=held_out
            )


def test_what_is_not_the_part_is_everything_else(run, clusters, registry):
    unit = UnitRef.parse(run.rows["unit"].iloc[0])
    setup = resolve(DissectConfig(run=str(clusters), units=(str(unit),), **SMALL), registry)
    cell = setup.part_cells[0]
    mask = load_mask(run.path / "cells" / cell.name / MASK)
    rest = setup.surgery(cell).without(mask)
    assert rest.kept + mask.kept == mask.total
    for name in mask:
        eligible = mask.eligible(name)
        assert torch.equal((mask[name] ^ rest[name])[eligible], torch.ones_like(eligible)[eligible])
        assert bool(rest[name][~eligible].all())
