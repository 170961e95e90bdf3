"""What an analysis may be asked for beside the main job: ensembles, tracking, smaller networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import polykit
from polykit.api import Pruner, StructuralPruner
from polykit.errors import TrainingError
from polykit.registry import Registry
from polykit.types import Smaller

QUICK = {
    "pruners": ["magnitude"],
    "metrics": ["ig"],
    "densities": (0.3,),
    "seeds": (0, 1),
    "epochs": 2,
    "retrain_epochs": 1,
}


def analyze(out, **changes):
    return polykit.analyze("mlp", "digits", out=out, **{**QUICK, **changes})


def test_together_or_one_by_one_gives_the_same_but_for_rounding(tmp_path):
    one = analyze(tmp_path / "one", ensemble=1).rows
    both = analyze(tmp_path / "both", ensemble=16).rows
    key = ["seed", "pruner", "density", "stage", "metric", "layer", "statistic"]
    pd.testing.assert_frame_equal(one[key], both[key])
    np.testing.assert_allclose(both["value"], one["value"], rtol=2e-3, atol=2e-3)


def test_a_network_that_diverges_does_not_take_its_ensemble_along(tmp_path, monkeypatch):
    from polykit.workflows.analyze import cells

    real = cells.train_together

    def train_together(jobs, *arguments, **more):
        if len(jobs) > 1:
            raise TrainingError("the loss became nan in epoch 1")
        return real(jobs, *arguments, **more)

    monkeypatch.setattr(cells, "train_together", train_together)
    run = analyze(tmp_path / "run", ensemble=4)
    assert run.failures == {}
    monkeypatch.setattr(cells, "train_together", real)


def test_tracked_metrics_are_measured_after_each_epoch(tmp_path):
    run = analyze(tmp_path / "run", track=("ig", "hoyer"))
    table = run.epochs
    assert set(table["metric"]) == {"ig", "hoyer"}
    assert set(table.loc[table["metric"] == "ig", "statistic"]) == {"ratio_responding"}
    assert set(table["layer"]) == {"all", "hidden1", "hidden2"}
    dense = table[(table["pruner"] == "dense") & (table["metric"] == "ig")]
    assert sorted(dense["epoch"].unique()) == [1, 2]
    assert set(table.loc[table["pruner"] != "dense", "phase"]) == {"retrain"}
    last = dense[(dense["epoch"] == 2) & (dense["layer"] == "all")].set_index("seed")["value"]
    rows = run.rows[(run.rows["pruner"] == "dense") & (run.rows["metric"] == "ig")]
    rows = rows[(rows["layer"] == "all") & (rows["statistic"] == "ratio_responding")]
    pd.testing.assert_series_equal(last, rows.set_index("seed")["value"])
    figures = run.plot()
    assert {"ig-training", "hoyer-training"} <= set(figures)
    panels = figures["ig-training"].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["all layers", "hidden1", "hidden2"]
    assert list(panels[0].lines[0].get_xdata()) == [1, 2]
    assert [list(line.get_xdata()) for line in panels[0].lines[1:]] == [[3], [3]]


def test_a_structural_pruner_stands_beside_the_others(tmp_path):
    run = analyze(tmp_path / "run", pruners=["structured", "magnitude"])
    assert run.failures == {}
    rows = run.rows[(run.rows["layer"] == "all") & (run.rows["pruner"] == "structured")]
    density = rows[rows["metric"] == "density"]["value"]
    assert bool((density <= 0.3).all())
    assert bool((density > 0.25).all())
    assert (rows["achieved_density"] == density.iloc[0]).any()
    parameters = rows[(rows["metric"] == "parameters") & (rows["stage"] == "pruned")]["value"]
    dense = run.rows[(run.rows["metric"] == "parameters") & (run.rows["pruner"] == "dense")]
    assert parameters.iloc[0] / dense["value"].iloc[0] == pytest.approx(density.iloc[0])
    assert set(rows["stage"]) == {"pruned", "retrained"}
    units = run.units[(run.units["pruner"] == "structured") & (run.units["stage"] == "pruned")]
    assert units.groupby(["seed", "layer"])["unit"].nunique().max() < 64
    assert run.report().is_file()
    folder = run.path / "cells" / "seed-0-structured-0.3"
    assert {file.name for file in folder.iterdir()} >= {"units.safetensors", "rows.parquet"}


def test_own_structural_pruner_and_model_are_left_alone(tmp_path):
    class FirstHalf(StructuralPruner):
        """Keeps the first half of the first layer."""

        def shrink(self, model, objective, batches, *, density, candidates, generator):
            small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
            with torch.no_grad():
                small[1].weight.copy_(model[1].weight[:4])
                small[1].bias.copy_(model[1].bias[:4])
                small[3].weight.copy_(model[3].weight[:, :4])
                small[3].bias.copy_(model[3].bias)
            units = {"1": torch.arange(4), "3": torch.arange(10)}
            return Smaller(small, units, 310, 610, ("half of it",))

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = polykit.analyze(
        model, "digits", pruners=[FirstHalf()], densities=(0.5,), out=tmp_path / "run"
    )
    assert run.failures == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rows = run.rows[(run.rows["pruner"] == "firsthalf") & (run.rows["statistic"] == "density")]
    assert rows["value"].iloc[0] == pytest.approx(310 / 610)
    assert any("half of it" in line for line in run.notices)


@pytest.mark.parametrize(
    ("seeds", "epochs", "said"), [((0, 1), 0, 1), ((0, 1), 1, 0), ((0,), 0, 0)]
)
def test_one_trained_network_under_several_seeds_is_said_to_be_one(tmp_path, seeds, epochs, said):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    run = polykit.analyze(
        model, "digits", pruners=["magnitude"], metrics=[], densities=(0.5,), seeds=seeds,
        epochs=epochs, retrain_epochs=0, control=False, out=tmp_path / "run",
    )  # fmt: skip
    assert sum("nothing of other networks" in line for line in run.notices) == said


@pytest.mark.parametrize("base", [Pruner, StructuralPruner])
def test_what_is_neither_mask_nor_network_is_the_pruners_fault(tmp_path, base):
    class Odd(base):
        """Gives nothing of use."""

        def prune(self, *arguments, **more):
            return 3

        shrink = prune

    run = analyze(tmp_path / "run", pruners=[Odd()], seeds=(0,), epochs=0, control=False)
    (message,) = run.failures.values()
    assert "gave int, no" in message


def test_data_that_is_mostly_noise_is_said(tmp_path):
    spec = "feature-model:N4,generator=faithful,samples=300,steps=3,encoder_epochs=1"
    run = polykit.analyze(
        "mlp:widths=8",
        Registry.discover().create("dataset", spec).instance.load(),
        pruners=[],
        metrics=["ig"],
        seeds=(0,),
        epochs=1,
        control=False,
        out=tmp_path / "run",
    )
    assert any("labels' variance" in line for line in run.notices)
    assert {fact["name"] for fact in run.meta["data"]["card"]} >= {"label_ceiling"}
