"""The laboratory from end to end, in a world small enough to check by hand."""

import json
import shutil

import pandas as pd
import pytest
import torch

from polykit import session
from polykit.api import hookimpl
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.training.loop import train
from polykit.workflows.laboratory.config import LaboratoryConfig
from polykit.workflows.laboratory.setup import resolve
from polykit_builtins.metrics.ig import attribution_matrix, polysemanticity

REGISTRY = Registry.discover()
TINY = {
    "name": "tiny",
    "dataset": "feature-model:hidden=6x4,inputs=4,samples=150,encoder_epochs=2",
    "model": "mlp:widths=10x6,init=torch",
}
QUICK = {
    "scenarios": [TINY],
    "seeds": (0, 1),
    "ratios": (0.2, 0.5),
    "epochs": 2,
    "retrain_epochs": 2,
    "device": "cpu",
    "threads": 1,
}
NETWORK = ["scenario", "dropout", "seed", "arm", "ratio"]


def config(**changes):
    return LaboratoryConfig(**{**QUICK, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return session.run(config(), REGISTRY, out=tmp_path_factory.mktemp("runs") / "lab")


def content(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


def test_every_network_is_there(run):
    assert (run.status, run.failures) == ("complete", {})
    tables = run.saved.tables
    networks = tables["networks"][NETWORK].drop_duplicates()
    arms = networks.groupby(["dropout", "seed"])["arm"].value_counts().unstack()
    assert dict(arms.iloc[0]) == {
        "dense": 1,
        "unpruned": 1,
        "pruned": 2,
        "random": 2,
        "scratch": 2,
    }
    assert len(arms) == 4
    epochs = tables["epochs"].groupby(NETWORK)["epoch"].unique()
    assert all(list(found) == [0, 1, 2] for found in epochs)
    assert set(tables["history"]["epoch"]) == {1, 2}
    assert {"label_ceiling", "label_learnable"} <= set(tables["worlds"]["fact"])


def test_arms_of_a_ratio_have_equal_widths(run):
    table = run.saved.tables["networks"]
    cut = table[table["ratio"] > 0]
    widths = cut.groupby(["dropout", "seed", "ratio", "layer"])["kept"].nunique()
    assert (widths == 1).all()
    assert (cut["kept"] <= cut["units"]).all()
    assert set(cut["units"]) == {10, 6}
    dense = table[table["ratio"] == 0]
    assert (dense["kept"] == dense["units"]).all()
    assert (dense["actual_ratio"] == 0).all()


def test_an_arm_goes_on_from_the_dense_network(run):
    """What is measured before the first epoch of `unpruned` is the dense network's last epoch."""
    table = run.saved.tables["epochs"]
    key = ["dropout", "seed", "metric", "layer", "statistic"]
    first = table[(table["arm"] == "unpruned") & (table["epoch"] == 0)].set_index(key)["value"]
    last = table[(table["arm"] == "dense") & (table["epoch"] == 2)].set_index(key)["value"]
    pd.testing.assert_series_equal(first.sort_index(), last.sort_index(), check_names=False)


def test_numbers_are_those_of_the_network_made_by_hand(run):
    """World, dense network and measurement of seed 1, written out."""
    laboratory = resolve(config(), REGISTRY)
    data = laboratory.make("tiny", 1)
    model = laboratory.build("tiny", 0.0, 1, data)
    train(model, data, config().training, 2, seed=1, device=torch.device("cpu"))
    M = attribution_matrix(model, data.features.encode, data.features.n_features)
    expected = polysemanticity(M)["ratio"].mean()
    rows = run.rows[(run.rows["arm"] == "dense") & (run.rows["seed"] == 1)]
    rows = rows[(rows["dropout"] == 0) & (rows["layer"] == "all") & (rows["metric"] == "ig")]
    found = rows.set_index("statistic")["value"]
    assert found["ratio"] == pytest.approx(expected, abs=1e-4)


def test_dropout_starts_from_the_same_weights(run):
    table = run.saved.tables["epochs"]
    start = table[(table["arm"] == "dense") & (table["epoch"] == 0) & (table["metric"] == "ig")]
    values = start.pivot_table(index=["seed", "layer"], columns="dropout", values="value")
    assert (values[0.0] == values[0.5]).all()


def test_scratch_starts_afresh_and_random_keeps_other_units(run):
    table = run.saved.tables["epochs"]
    start = table[(table["epoch"] == 0) & (table["metric"] == "ig") & (table["ratio"] == 0.5)]
    start = start[start["layer"] == "all"]
    values = start.pivot_table(index=["dropout", "seed"], columns="arm", values="value")
    assert (values["pruned"] != values["random"]).all()
    assert (values["pruned"] != values["scratch"]).all()


def test_same_seeds_give_the_same_bytes_and_worlds_can_be_loaded(run, tmp_path):
    again = session.rerun(run.path, REGISTRY, out=tmp_path / "again")
    assert content(again.path) == content(run.path)
    file = run.path / "cells" / "tiny-world-1" / "world.safetensors"
    loaded = session.load_data(f"feature-model:file={file}", REGISTRY)
    made = resolve(config(), REGISTRY).make("tiny", 1)
    assert torch.equal(loaded.train.x, made.train.x)
    assert torch.equal(loaded.test.y, made.test.y)


def test_resuming_gives_the_same_bytes(run, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(run.path, path)
    for cell in ("tiny-dropout-0.5-pruned", "tiny-dropout-0-scratch"):
        shutil.rmtree(path / "cells" / cell)
    meta = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**meta, "status": "interrupted"}))
    (path / "rows.parquet").unlink()
    resumed = session.resume(path, REGISTRY)
    assert resumed.status == "complete"
    assert content(path) == content(run.path)


def test_a_failing_world_takes_only_its_scenario_along(tmp_path):
    broken = {**TINY, "name": "broken", "dataset": "imagefolder:nowhere"}
    changes = {"scenarios": [broken, TINY], "arms": ("unpruned",), "dropouts": (0.0,)}
    found = session.run(config(**changes), REGISTRY, out=tmp_path / "lab")
    assert found.status == "failed"
    assert set(found.failures) == {
        "broken-world-0",
        "broken-world-1",
        "broken-dropout-0-dense",
        "broken-dropout-0-unpruned",
    }
    assert "nowhere" in found.failures["broken-world-0"]
    assert "broken-world-0" in found.failures["broken-dropout-0-dense"]
    assert set(found.rows["scenario"]) == {"tiny"}


def test_hooks_hear_of_cells_and_epochs(tmp_path):
    heard = []

    class Listener:
        @hookimpl
        def polykit_measured(self, cell, stage):
            heard.append((cell, stage))

        @hookimpl
        def polykit_epoch(self, cell, phase, epoch, epochs):
            heard.append((cell, f"{phase} {epoch}/{epochs}"))

    registry = Registry.discover()
    registry.register(Listener(), "listener")
    changes = {"arms": ("unpruned",), "dropouts": (0.0,), "seeds": (0,)}
    session.run(config(**changes), registry, out=tmp_path / "lab")
    assert heard == [
        ("tiny-world-0", "world"),
        ("tiny-dropout-0-dense", "train 1/2"),
        ("tiny-dropout-0-dense", "train 2/2"),
        ("tiny-dropout-0-dense", "dense"),
        ("tiny-dropout-0-unpruned", "retrain 1/2"),
        ("tiny-dropout-0-unpruned", "retrain 2/2"),
        ("tiny-dropout-0-unpruned", "unpruned"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruner": "magnitude"}, "gives a mask.*structured"),
        ({"scenarios": [{**TINY, "dataset": "toy:seed=3"}]}, "seed of 'toy:seed=3' is set by"),
        ({"scenarios": [{**TINY, "model": "mlp:dropout=0.2"}]}, "takes no dropout"),
        ({"options": {"force": {"rounds": 2}}}, "no plugin 'force' takes part"),
        ({"metrics": ("lettercount",)}, "no metric is called"),
        ({"metrics": ("igg",)}, "no metric is called 'igg'.*'ig'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        session.run(config(**changes), REGISTRY, out=tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_learned_features_follow_the_network_as_it_trains(tmp_path):
    """Each epoch is measured with the dictionary of that epoch's network, alone or in company."""
    changes = {
        "metrics": ("ig:features=dictionary",),
        "options": {"dictionary": {"epochs": 2, "size": 8}},
        "arms": ("unpruned",),
        "dropouts": (0.0,),
    }
    tables = []
    for ensemble in (1, 4):
        out = tmp_path / str(ensemble)
        found = session.run(config(**changes, ensemble=ensemble), REGISTRY, out=out)
        tables.append(found.epochs.set_index([*NETWORK, "epoch", "layer"])["value"])
    pd.testing.assert_series_equal(tables[0], tables[1], rtol=1e-2)
    assert tables[0].groupby(level="epoch").mean().nunique() == 3


def test_the_network_at_fault_is_named(tmp_path):
    changes = {"pruner": "structured:at_least=6", "arms": ("pruned",), "dropouts": (0.0,)}
    found = session.run(config(**changes), REGISTRY, out=tmp_path / "lab")
    (message,) = found.failures.values()
    assert message.startswith("seed 0, ratio 0.5: ")


def test_arms_named_twice_are_one():
    assert config(arms=("pruned", "pruned")).arms == ("pruned",)


@pytest.mark.parametrize(
    "changes",
    [
        {"ratios": (0.0,)},
        {"ratios": (1.0,)},
        {"dropouts": (1.0,)},
        {"scenarios": []},
        {"scenarios": [TINY, TINY]},
        {"scenarios": [{**TINY, "name": "../up"}]},
        {"seeds": (-1,)},
        {"epochs": 0},
    ],
)
def test_values_out_of_bounds(changes):
    with pytest.raises(ValueError, match=r"ratio|dropout|scenario|seed|epochs|name"):
        config(**changes)


def test_a_world_that_is_there_is_not_made_again(run, tmp_path, monkeypatch):
    from polykit_builtins.datasets.feature_model import FeatureModel

    path = tmp_path / "copy"
    shutil.copytree(run.path, path)
    shutil.rmtree(path / "cells" / "tiny-dropout-0-unpruned")

    def make(self):
        raise AssertionError("made again")

    monkeypatch.setattr(FeatureModel, "make", make)
    session.resume(path, REGISTRY)
    assert content(path) == content(run.path)


def test_as_many_threads_compute_as_are_asked_for(tmp_path):
    seen = []

    class Listener:
        @hookimpl
        def polykit_epoch(self):
            seen.append(torch.get_num_threads())

    registry, before = Registry.discover(), torch.get_num_threads()
    registry.register(Listener(), "listener")
    changes = {"arms": ("unpruned",), "dropouts": (0.0,), "seeds": (0,), "threads": before + 1}
    session.run(config(**changes), registry, out=tmp_path / "lab")
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
