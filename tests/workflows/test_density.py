"""The density study end to end, on small networks and the digits."""

import copy
import tomllib
from pathlib import Path

import pytest
import torch

import polykit
from polykit import session
from polykit.errors import ModelError, TrainingError, UsageError
from polykit.registry import Registry
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import apply_mask, candidates
from polykit.runtime.pruning.overlap import smallest_overlap
from polykit.runtime.seeds import seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import evaluate, train
from polykit.types import Scores
from polykit.workflows.density import cells as density_cells
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.setup import resolve

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = {
    "model": "mlp:widths=12,8",
    "scales": (0.5, 1.0),
    "seeds": (0, 1),
    "epochs": 6,
    "lr": 0.01,
    "stop": "epochs",
    "step": 0.1,
    "metrics": ("hoyer",),
    "options": {"mlp": {"activation": "tanh"}},
}


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def start(registry, out, **changes):
    return session.run(
        DensityConfig(**{**SMALL, **changes}), registry, out=out, runs_dir=out.parent
    )


@pytest.fixture(scope="module")
def saved(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("density") / "run"
    return start(registry, folder, ensemble=1, pruners=("magnitude", "random")).saved


def one(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_a_network_equals_training_and_pruning_by_hand(saved, registry):
    """Every step of one network's trajectory, its effective density and its overlaps."""
    data = registry.create("dataset", "digits").instance.load()
    plugin = registry.create("model", "mlp:widths=12,8", {"scale": 0.5, "activation": "tanh"})
    with seeded(1, "init"):
        model = plugin.instance.build(data.input_shape, 10)
    first = copy.deepcopy(model)
    train(model, data, TrainingConfig(lr=0.01), 6, seed=1, device=CPU)
    cut = candidates(model, trace(model, data.train.x[:1]), competition="layer")
    scores = Scores({n: model.get_parameter(n).detach().abs() for n in cut.shapes}, cut)
    place = {"scale": 0.5, "seed": 1}
    path = one(saved.tables["trajectory"], pruner="magnitude", **place)
    assert path["step"].tolist() == list(range(11))
    expected = None
    _, dense = evaluate(model, data.validation, data.task, CPU, 512)
    for step in range(10):
        pruned = copy.deepcopy(model)
        mask = scores.keep(1 - 0.1 * step)
        apply_mask(pruned, mask)
        loss, accuracy = evaluate(pruned, data.validation, data.task, CPU, 512)
        row = path.iloc[step]
        assert row["kept"] == mask.kept
        assert row["loss"] == pytest.approx(loss, rel=1e-6)
        assert row["accuracy"] == accuracy
        if expected is None and dense - accuracy > 0.05:
            expected = mask
    found = one(saved.tables["effective"], pruner="magnitude", **place).iloc[0]
    assert (found["core"], found["parameters"]) == (expected.kept, expected.total)
    assert found["density"] == expected.density
    for name in cut.shapes:
        layer = name.removesuffix(".weight")
        row = one(saved.rows, metric="small-weights", layer=layer, **place)
        before, after = first.get_parameter(name), model.get_parameter(name)
        assert row["value"].item() == smallest_overlap(before, after, 0.4)
    right = one(saved.tables["correct"], **place)["correct"]
    assert right.mean() == dense
    assert one(saved.rows, statistic="validation_accuracy", **place)["value"].item() == dense


def test_every_network_leaves_its_rows(saved):
    keys = ["scale", "seed", "pruner"]
    assert (
        len(saved.tables["effective"])
        == len(saved.tables["effective"][keys].drop_duplicates())
        == 8
    )
    assert set(saved.rows["metric"]) == {"training", "small-weights", "hoyer"}
    assert set(saved.tables["history"].groupby(["scale", "seed"])["epoch"].max()) == {6}
    assert saved.meta["status"] == "complete"
    magnitude = one(saved.tables["effective"], pruner="magnitude")["density"].mean()
    assert magnitude < one(saved.tables["effective"], pruner="random")["density"].mean()


def test_networks_of_a_width_train_together(registry, tmp_path, saved):
    together = start(registry, tmp_path / "run", pruners=("magnitude", "random")).saved
    merged = one(saved.tables["trajectory"], step=0).merge(
        one(together.tables["trajectory"], step=0), on=["scale", "seed", "pruner"]
    )
    assert len(merged) == 8
    assert (merged["loss_x"] - merged["loss_y"]).abs().max() < 1e-3


def test_a_resumed_study_has_the_same_bytes(registry, tmp_path, saved, monkeypatch):
    done = []
    genuine = density_cells.study

    def interrupted(setup, store, cells):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cells)
        return genuine(setup, store, cells)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(density_cells, "study", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(registry, folder, ensemble=1, pruners=("magnitude", "random"))
    assert len(list((folder / "cells").iterdir())) == 2
    session.resume(folder, registry)
    for table in ("rows", "effective", "trajectory", "history", "correct"):
        name = f"{table}.parquet"
        assert (folder / name).read_bytes() == (saved.path / name).read_bytes()


def test_networks_that_are_done_are_not_looked_at_again(registry, tmp_path, monkeypatch):
    looked = []
    genuine = density_cells._result

    def interrupted(network, history):
        looked.append(network.cell.name)
        if len(looked) == 2:
            raise KeyboardInterrupt
        return genuine(network, history)

    folder = tmp_path / "run"
    monkeypatch.setattr(density_cells, "_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(registry, folder, pruners=("magnitude",))
    session.resume(folder, registry)
    assert len(looked) == 5
    assert looked.count(looked[0]) == 1
    assert looked.count(looked[1]) == 2


def test_optimisers_starts_and_splits_make_networks_of_their_own(registry, tmp_path):
    run = start(
        registry,
        tmp_path / "run",
        scales=(1.0,),
        seeds=(0,),
        epochs=1,
        inits=("glorot", "he"),
        optimizers=("sgd=0.1", "adam=0.01"),
        data_seeds=(0, 3),
        step=0.5,
    ).saved
    first = one(run.tables["history"], epoch=1)
    assert len(first) == 8
    assert first["loss"].nunique() == 8
    assert set(first["optimizer"]) == {"sgd=0.1", "adam=0.01"}


def test_what_goes_wrong_with_a_network_is_said(registry, tmp_path):
    run = start(
        registry,
        tmp_path / "a",
        stop="loss",
        stop_loss=1e-6,
        epochs=1,
        lr=1e-9,
        seeds=(0,),
        scales=(1.0,),
    )
    said = "\n".join(run.notices)
    assert "training ended after 1 epochs without reaching validation loss 1e-06" in said
    assert "at chance" in said
    run = start(registry, tmp_path / "b", drop=0.99, seeds=(0,), scales=(1.0,))
    assert "accuracy never fell by more than 0.99" in "\n".join(run.notices)
    assert run.saved.tables["effective"]["density"].isna().all()
    assert "no effective density" in run.verdict().answer
    data = registry.create("dataset", "digits").instance.load()
    x, y = data.validation.x, data.validation.y
    parts = {
        "train": (data.train.x, data.train.y),
        "validation": (x[y != 3], y[y != 3]),
        "test": (x, y),
    }
    options = {**SMALL, "seeds": (0,), "scales": (1.0,), "epochs": 1}
    run = polykit.density(options.pop("model"), parts, out=tmp_path / "c", **options)
    assert "no validation sample of class 3" in "\n".join(run.notices)


def test_a_rise_of_loss_may_be_the_threshold(registry, tmp_path):
    run = start(registry, tmp_path / "run", rise=0.2, scales=(1.0,)).saved
    for seed in (0, 1):
        path = one(run.tables["trajectory"], seed=seed)
        worse = path[path["loss"] - path["loss"].iloc[0] > 0.2].iloc[0]
        assert one(run.tables["effective"], seed=seed)["core"].item() == worse["kept"]


def test_one_network_that_diverges_leaves_the_others(registry, tmp_path, monkeypatch):
    genuine = density_cells.train_together

    def spoilt(jobs, *args, **options):
        if any(job.seed == 1 for job in jobs):
            raise TrainingError("the loss became nan in epoch 1 (seed 1)")
        return genuine(jobs, *args, **options)

    monkeypatch.setattr(density_cells, "train_together", spoilt)
    run = start(registry, tmp_path / "run", scales=(1.0,), epochs=1)
    assert list(run.failures) == ["1x-glorot-adam=0.01-seed-1-data-0"]
    assert set(run.rows["seed"]) == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "convnet"}, "has no option scale or init, which the study varies"),
        ({"model": "mlp:scale=2"}, "option scale of mlp: the study sets that itself"),
        ({"options": {"mlp": {"init": "he"}}}, "option init of mlp: the study sets"),
        ({"options": {"force": {"rounds": 3}}}, "no plugin 'force' takes part"),
        ({"dataset": "toy"}, "has no accuracy to drop; give a --rise"),
        ({"dataset": "toy", "data_seeds": (1,)}, "has no option split_seed"),
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"model": "conv2", "metrics": ("synchronisation",)}, "chains of linear layers and ReLUs"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(registry, changes, message):
    with pytest.raises((ModelError, UsageError), match=message):
        resolve(DensityConfig(**{**SMALL, "options": {}, **changes}), registry)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop": 0.1, "rise": 0.1},
        {"optimizers": ("sgd",)},
        {"optimizers": ("best=1",)},
        {"optimizers": ("sgd=-1",)},
        {"scales": (0.0,)},
    ],
)
def test_bad_values_are_refused(changes):
    with pytest.raises(ValueError, match=r"sgd=0\.01|factors above 0|both thresholds"):
        DensityConfig(**changes)


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples" / "density").glob("*.toml")))
def test_recipes_name_what_there_is(recipe, registry):
    values = tomllib.loads(recipe.read_text())
    assert values.pop("workflow") == "density"
    config = DensityConfig(**values)
    for kind, spec in (("model", config.model), ("dataset", config.dataset)):
        assert registry.locate(kind, spec)[0].entry.name == spec
    assert config.optimizers


def test_the_plan_counts_what_would_run(registry):
    config = DensityConfig(**SMALL)
    plan = session.plan(config, registry)
    assert len(plan.cells) == 4
    assert plan.prunable == [64 * 6 + 6 * 4 + 4 * 10, 64 * 12 + 12 * 8 + 8 * 10]
    assert plan.steps == 10
    assert plan.samples_seen == 4 * 6 * 1078
    assert plan.training_gigaflops == pytest.approx(
        3 * 6 * 1078 * 2 * 2 * sum(plan.prunable) / 1e9, rel=0.05
    )
    assert "4 networks" in "\n".join(plan.lines())


def test_smallest_weights_overlap_by_chance_where_nothing_connects_them():
    draw = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 200, 300, generator=draw)
    assert smallest_overlap(before, after, 0.4) == pytest.approx(0.16, abs=0.005)
    assert smallest_overlap(before, -3 * before, 0.4) == 0.4
