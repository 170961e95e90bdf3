"""The main job from Python: numbers, files, interruption, failures."""

import json
import os
import shutil
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import polykit
from polykit import session
from polykit.api import Entry, Field, Metric, Pruner, hookimpl
from polykit.errors import DataError, ModelError, RunError, UsageError
from polykit.registry import Registry
from polykit.runtime.pruning.masking import load_mask, masked
from polykit.runtime.store import RunStore
from polykit.runtime.training.loop import evaluate
from polykit.types import Column, Measurement
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.analyze.setup import Cell, resolve

QUICK = {
    "pruners": ["magnitude"],
    "metrics": ["ig", "hoyer"],
    "densities": (0.3,),
    "seeds": (0, 1),
    "epochs": 2,
    "retrain_epochs": 1,
    "ensemble": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return polykit.analyze("mlp", "digits", out=tmp_path_factory.mktemp("runs") / "a", **QUICK)


def files(path):
    """Every file of a run, but the drawn report, with its bytes."""
    found = (p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def test_rows_are_tidy_and_complete(run):
    rows = run.rows
    assert run.status == "complete"
    assert run.failures == {}
    key = ["seed", "pruner", "density", "stage", "metric", "layer", "statistic"]
    assert not rows.duplicated(key).any()
    assert np.isfinite(rows["value"]).all()
    stages = rows.groupby("pruner")["stage"].unique().map(set).to_dict()
    both = {"pruned", "retrained"}
    assert stages == {"dense": {"dense"}, "magnitude": both, "random": both}
    assert set(rows["metric"]) == {
        "loss", "accuracy", "density", "parameters", "flops", "ig", "hoyer"
    }  # fmt: skip
    achieved = rows[rows["pruner"] != "dense"]["achieved_density"]
    total = resolve(AnalyzeConfig(), Registry.discover()).candidates.full().total
    assert ((achieved - 0.3).abs() <= 1 / total).all()
    units = run.units[(run.units["metric"] == "ig") & (run.units["statistic"] == "ratio")]
    assert len(units) == 2 * 5 * 128


def test_saved_weights_and_masks_give_the_rows_again(run):
    config = AnalyzeConfig(**run.meta["config"])
    setup = resolve(config, Registry.discover())
    store = RunStore.open(run.path)
    model = setup.build(1)
    model.load_state_dict(store.read_tensors("seed-1-dense", "model.safetensors"))
    dense = evaluate(model, setup.data.test, "classification", setup.device)[1]
    mask = load_mask(store.cell("seed-1-magnitude-0.3") / "mask.safetensors")
    with masked(model, mask):
        pruned = evaluate(model, setup.data.test, "classification", setup.device)[1]
    rows = run.rows.query("seed == 1 and metric == 'accuracy' and layer == 'all'")
    value = rows.set_index(["pruner", "stage"])["value"]
    assert value["dense", "dense"] == pytest.approx(dense, abs=1e-9)
    assert value["magnitude", "pruned"] == pytest.approx(pruned, abs=1e-9)


def test_one_seed_gives_the_same_bytes_on_another_day(run, tmp_path):
    torch.manual_seed(1234)  # the caller's random state has no say
    again = polykit.analyze("mlp", "digits", out=tmp_path / "b", **QUICK)
    assert files(again.path) == files(run.path)


def test_interrupted_and_resumed_equals_undisturbed(run, tmp_path):
    class Interrupt:
        @hookimpl
        def polykit_epoch(self, cell, phase, epoch):
            if cell == "seed-1-magnitude-0.3":
                raise KeyboardInterrupt

    registry = Registry.discover()
    registry.register(Interrupt(), "interrupt")
    out = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        polykit.analyze("mlp", "digits", out=out, registry=registry, **QUICK)
    half = session.open_run(out)
    assert half.status == "interrupted"
    assert not (out / "cells" / "seed-1-magnitude-0.3").exists()
    assert (out / "cells" / "seed-0-magnitude-0.3").is_dir()
    with pytest.raises(RunError, match="--resume"):
        _ = half.rows
    resumed = session.resume(out, Registry.discover())
    assert resumed.status == "complete"
    assert files(out) == files(run.path)


def test_rerun_gives_the_same_tables(run, tmp_path):
    again = session.rerun(run.path, Registry.discover(), out=tmp_path / "again")
    pd.testing.assert_frame_equal(again.rows, run.rows)


def test_resume_refuses_what_is_not_the_same(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    with pytest.raises(RunError, match="another configuration"):
        polykit.analyze("mlp", "digits", out=copy, resume=True, **{**QUICK, "epochs": 3})
    meta = json.loads((copy / "run.json").read_text())
    meta["config"]["pruners"] = ["gone"]
    (copy / "run.json").write_text(json.dumps(meta))
    with pytest.raises(UsageError, match="gone"):
        session.resume(copy, Registry.discover())
    meta["config"] = {"nonsense": 1}
    (copy / "run.json").write_text(json.dumps(meta))
    with pytest.raises(RunError, match="cannot read"):
        session.resume(copy, Registry.discover())


def test_own_module_and_data_are_left_as_they_were(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    model[1].train()
    model[0].eval()
    x = torch.randn(200, 6)
    y = x[:, :3].argmax(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    run = polykit.analyze(
        model, (x, y), pruners=["snip"], metrics=["selectivity"], densities=(0.5,), seeds=(0,),
        out=tmp_path / "own",
    )  # fmt: skip
    assert run.status == "complete"
    assert run.meta["epochs"] == {"train": 0, "retrain": 10}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_prune_at_init_prunes_the_untrained_network(tmp_path):
    run = polykit.analyze(
        "mlp", "digits", pruners=["snip"], metrics=[], densities=(0.5,), seeds=(0,), epochs=3,
        prune_at="init", out=tmp_path / "init",
    )  # fmt: skip
    accuracy = run.rows.query("metric == 'accuracy' and layer == 'all'").set_index(
        ["pruner", "stage"]
    )["value"]
    assert accuracy["snip", "pruned"] < 0.4 < accuracy["snip", "retrained"]
    assert run.meta["epochs"] == {"train": 3, "retrain": 3}


def test_toy_is_measured_against_the_ground_truth(tmp_path):
    run = polykit.analyze(
        "mlp", "toy", pruners=[], metrics=["ig"], densities=(0.5,), seeds=(0,), epochs=1,
        retrain_epochs=0, out=tmp_path / "toy",
    )  # fmt: skip
    arrays = RunStore.open(run.path).read_tensors("seed-0-dense", "arrays.safetensors")
    (matrix,) = (value for name, value in arrays.items() if "/ig/" in name)
    assert matrix.shape == (128, 16)
    assert "accuracy" not in set(run.rows["metric"])


class Broken(Pruner):
    """Raises."""

    def prune(self, model, objective, batches, *, density, **rest):
        if density < 0.2:
            raise ZeroDivisionError("inside the plugin")
        return rest["candidates"].full()


class Undefined(Metric):
    """Says NaN."""

    columns: ClassVar = {"x": Column("x")}
    headline = "x"

    def measure(self, subject):
        return Measurement(summary={"x": float("nan")})


def test_a_plugin_that_raises_is_named_and_the_others_go_on(tmp_path):
    run = polykit.analyze(
        "mlp", "digits", pruners=[Broken()], metrics=[Undefined()], densities=(0.5, 0.1),
        seeds=(0,), epochs=0, retrain_epochs=0, out=tmp_path / "r",
    )  # fmt: skip
    assert run.status == "failed"
    (message,) = run.failures.values()
    assert "Broken" in message
    assert "ZeroDivisionError: inside the plugin" in message
    assert set(run.rows["pruner"]) == {"dense", "broken", "random"}
    assert any("undefined" in notice for notice in run.notices)
    assert run.rows["value"].notna().all()


def test_a_dead_layer_is_said_and_gives_no_nan(tmp_path):
    run = polykit.analyze(
        "mlp", "digits", pruners=["magnitude"], metrics=["ig", "hoyer", "selectivity"],
        densities=(0.0005,), seeds=(0,), epochs=1, retrain_epochs=0, out=tmp_path / "dead",
    )  # fmt: skip
    assert any("keeps no weight" in notice for notice in run.notices)
    assert run.rows["value"].notna().all()
    assert run.report().is_file()


def test_stages_and_hooks_in_order(tmp_path):
    seen = []

    class Listener:
        @hookimpl
        def polykit_run_started(self, path, config, cells):
            seen.append(("started", len(cells)))

        @hookimpl
        def polykit_epoch(self, cell, phase, epoch, model):
            assert isinstance(model, nn.Module)
            seen.append((phase, epoch))

        @hookimpl
        def polykit_pruned(self, pruner, density, achieved, mask):
            assert abs(mask.density - density) < 1e-3
            seen.append(("mask", pruner))

        @hookimpl
        def polykit_measured(self, stage, rows):
            assert rows
            seen.append(("measured", stage))

        @hookimpl
        def polykit_run_finished(self, status, failures):
            seen.append((status, len(failures)))

    registry = Registry.discover()
    registry.register(Listener(), "listener")
    polykit.analyze(
        "mlp", "digits", pruners=["magnitude"], metrics=[], densities=(0.5,), seeds=(0,), epochs=2,
        retrain_epochs=1, control=False, registry=registry, out=tmp_path / "h",
    )  # fmt: skip
    assert seen == [
        ("started", 2), ("train", 1), ("train", 2), ("measured", "dense"), ("mask", "magnitude"),
        ("measured", "pruned"), ("retrain", 1), ("measured", "retrained"), ("complete", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"densities": (0.0,)}, UsageError, r"outside \(0, 1\]"),
        ({"densities": (1.5,)}, UsageError, r"outside \(0, 1\]"),
        ({"layers": ("nothing*",)}, UsageError, "no layer matches 'nothing"),
        ({"prune_layers": ("nothing*",)}, UsageError, "no layer matches"),
        ({"objective": "hidden1:9999"}, UsageError, "64 units"),
        ({"objective": "hidden9:0"}, UsageError, "layer 'hidden9'"),
        ({"pruners": ("forse",)}, UsageError, "Did you mean 'force'"),
        ({"pruners": ("force:steps=3",)}, UsageError, "no option 'steps'"),
        ({"options": {"snip": {"group": 1}}}, UsageError, "takes part"),
        ({"metrics": ("accuracy",), "dataset": "toy"}, DataError, "regression"),
        ({"track": ("selectivity",), "dataset": "toy"}, DataError, "regression"),
        ({"metrics": ("synchronisation",), "model": "convnet"}, ModelError, "other parts"),
        ({"checkpoint": "missing.pt"}, ModelError, "no checkpoint"),
        ({"device": "tpu"}, UsageError, "no device"),
        ({"seeds": (-1,)}, UsageError, "seeds"),
        ({"model": "resnet18"}, ModelError, "resnet18"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, error, words):
    dataset = options.pop("dataset", "digits")
    model = options.pop("model", "mlp")
    with pytest.raises(error, match=words):
        polykit.analyze(model, dataset, out=tmp_path / "bad", epochs=0, retrain_epochs=0, **options)
    assert not (tmp_path / "bad").exists()


def test_nan_weights_are_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 2))
    data = (torch.randn(40, 4), torch.arange(40) % 2)
    with pytest.raises(ModelError, match=r"wrap it: nn\.Sequential"):
        polykit.analyze(model[0], data, out=tmp_path / "n")
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        polykit.analyze(model, data, out=tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_force_and_magnitude_as_published(tmp_path):
    """Without retraining FORCE leads at density 0.02, magnitude at 0.2; random is behind both."""
    run = polykit.analyze(
        "mlp", "digits", pruners=["force", "magnitude"], metrics=[], densities=(0.2, 0.02),
        retrain_epochs=0, options={"mlp": {"widths": (128, 64)}}, out=tmp_path / "f",
    )  # fmt: skip
    accuracy = run.rows.query("metric == 'accuracy' and stage == 'pruned'")
    mean = accuracy.groupby(["pruner", "density"])["value"].mean()
    assert mean["force", 0.02] > 1.3 * max(mean["magnitude", 0.02], mean["random", 0.02])
    assert mean["magnitude", 0.2] > mean["force", 0.2] > mean["random", 0.2]


def test_run_shows_itself(run):
    assert set(run.summary().index.names) == {"pruner", "density", "stage"}
    page = run._repr_html_()
    assert "<table" in page
    assert str(run.path) in page
    assert run.plot()


def test_cells_have_distinct_names():
    names = {Cell(0, label, 0.5).name for label in ("a:b", "a_b", "a:c", "a b")}
    assert len(names) == 4
    assert all(os.sep not in name for name in names)


class WithOption(Metric):
    """Counts layers, times an option."""

    columns: ClassVar = {"layers": Column("layers")}
    headline = "layers"
    times: int = Field(1, ge=1, description="factor")

    def measure(self, subject):
        return Measurement(summary={"layers": float(self.times * len(subject.layers))})


def test_options_reach_the_plugin_from_spec_and_table(tmp_path):
    class Brings:
        @hookimpl
        def polykit_entries(self):
            return [Entry("metric", "count", f"{__name__}:WithOption", "counts layers")]

    registry = Registry.discover()
    registry.register(Brings(), "brings")
    run = polykit.analyze(
        "mlp", "digits", pruners=[], metrics=["count", "count:times=5"], control=False,
        options={"count": {"times": 3}}, densities=(1.0,), seeds=(0,), epochs=0,
        registry=registry, out=tmp_path / "o",
    )  # fmt: skip
    found = run.rows[run.rows["statistic"] == "layers"].set_index("metric")["value"]
    assert found.to_dict() == {"count": 6.0, "count:times=5": 10.0}
