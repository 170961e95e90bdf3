"""What the density study seeks beside trajectories: other pruners, classes' parts, tickets."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import polykit
from polykit import session
from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.pruning.masking import masked
from polykit.runtime.training.loop import evaluate, train
from polykit.testing.state import unchanged
from polykit.workflows.density.classes import class_rows, class_subnetworks
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.densities import follow
from polykit.workflows.density.network import Network
from polykit.workflows.density.setup import ranks, resolve
from polykit.workflows.density.tickets import same_units, tickets
from polykit.workflows.measuring import Measured, measure

CPU = torch.device("cpu")
SMALL = {
    "model": "mlp:widths=24,16",
    "scales": (1.0,),
    "seeds": (0,),
    "epochs": 8,
    "lr": 0.01,
    "stop": "epochs",
    "step": 0.05,
    "metrics": ("hoyer", "selectivity", "monosemanticity"),
    "threads": 1,
}


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def study(registry, **changes):
    """Resolve a study and train its first network."""
    setup = resolve(DensityConfig(**{**SMALL, **changes}), registry)
    cell = setup.cells[0]
    model = setup.build(cell)
    training = setup.trainings[cell.optimizer]
    data = setup.splits.data(0)
    train(model, data, training, setup.config.epochs, seed=cell.seed, device=CPU)
    return Network(setup, cell, model)


@pytest.fixture(scope="module")
def network(registry):
    pruners = ("magnitude", "magnitude:schedule=linear,rounds=1", "edge-popup:epochs=5")
    return study(registry, pruners=pruners)


def test_what_ranks_once_is_followed_and_all_else_is_searched(registry):
    def ranked(spec):
        return ranks(registry.create("pruner", spec).instance)

    assert all(map(ranked, ("magnitude", "snip", "random", "actgrad", "force:schedule=oneshot")))
    searched = ("force", "edge-popup", "cs", "iterative-magnitude", "prune-and-grow")
    assert not any(map(ranked, searched))


def test_a_search_finds_what_the_whole_trajectory_shows(network):
    """The same masks, once all of them and once by bisection."""
    path, searched = (follow(network, label) for label in list(network.setup.pruners)[:2])
    every = path.found
    assert len(searched.steps) <= 2 + math.ceil(math.log2(20)) < len(path.steps) == 21
    for place, step in enumerate(searched.steps):
        assert int(searched.found.kept[place]) == int(every.kept[step])
        assert float(searched.found.loss[place]) == pytest.approx(float(every.loss[step]), rel=1e-6)
        assert float(searched.found.accuracy[place]) == float(every.accuracy[step])
    found = searched.effective(0.05, None)
    last = int((every.kept == int(found["core"])).nonzero()[0])
    lost = every.accuracy[0] - every.accuracy
    assert float(lost[last]) <= 0.05 < float(lost[last + 1])
    assert found["density"] == int(every.kept[last]) / every.total


def test_the_pruner_is_asked_for_each_density_and_the_network_left_alone(network):
    label = list(network.setup.pruners)[2]
    with unchanged(network.model):
        found = follow(network, label)
    rows = found.rows()
    assert [row["step"] for row in rows] == list(found.steps)
    pruner = network.setup.pruners[label].instance
    row = next(row for row in rows if row["step"] not in (0, 20))
    mask = network.prune(label, pruner, network.model, 1 - 0.05 * row["step"])
    with masked(network.model, mask):
        loss, accuracy = evaluate(network.model, network.data.validation, "classification", CPU)
    assert (row["kept"], row["accuracy"]) == (mask.kept, accuracy)
    assert row["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_pruner_that_trains_starts_at_the_start_and_its_subnetwork_is_trained(registry):
    network = study(registry, pruners=("iterative-magnitude:rate=0.5",), step=0.25, epochs=3)
    (label,) = network.setup.pruners
    row = follow(network, label).rows()[1]
    pruner, start = network.setup.pruners[label].instance, network.start()
    mask = network.prune(label, pruner, start, 1 - 0.25 * row["step"])
    network_again = network.setup.build(network.cell)
    train(
        network_again,
        network.data,
        network.setup.trainings["adam=0.01"],
        3,
        seed=0,
        device=CPU,
        mask=mask,
    )
    loss, accuracy = evaluate(network_again, network.data.validation, "classification", CPU)
    assert row["loss"] == pytest.approx(loss, rel=1e-6)
    assert row["accuracy"] == accuracy


# --- classes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parted(registry):
    network = study(registry, class_pruner="snip", class_density=0.2)
    with unchanged(network.model):
        found = class_subnetworks(network, network.setup.by_class)
        rows = pd.DataFrame(class_rows(found, network))
    return network, found, rows


def test_each_class_has_a_part_and_its_overlaps_are_those_of_the_masks(parted):
    _, found, rows = parted
    assert set(found.masks) == set(range(10))
    assert "output.weight" not in found.masks[0]
    assert all(mask.density == pytest.approx(0.2, abs=1e-3) for mask in found.masks.values())
    pairs = rows[~rows["mask"].isin(["whole", "random"])]
    assert len(pairs) == 100
    for row in pairs.itertuples():
        mine, theirs = found.masks[int(row.mask)], found.masks[row[2]]
        assert row.iou == pytest.approx(mine.iou(theirs))
    assert pairs["chance"].between(0.09, 0.14).all()  # 0.2² / (0.4 − 0.2²), up to Jensen


def test_auc_is_that_of_the_logit_in_the_masked_network(parted):
    network, found, rows = parted
    x, y = network.data.validation.x, network.data.validation.y
    for label in (0, 7):
        with torch.no_grad(), masked(network.model, found.masks[3]):
            expected = roc_auc_score(y == label, network.model(x)[:, label])
        row = rows[(rows["mask"] == "3") & (rows["class"] == label)]
        assert row["auc"].item() == pytest.approx(expected, abs=1e-6)
    own = rows[rows["mask"] == rows["class"].astype(str)]["auc"].mean()
    assert rows[rows["mask"] == "whole"]["auc"].mean() > own
    assert own > rows[rows["mask"] == "random"]["auc"].mean() + 0.05


def test_what_looks_at_no_class_is_said(registry):
    network = study(registry, class_pruner="magnitude", epochs=1)
    found = class_subnetworks(network, network.setup.by_class)
    assert "the same subnetwork for every class" in found.notices[0]


def test_a_class_without_samples_is_said(registry, parted, monkeypatch):
    network, _, _ = parted
    few = network.samples()
    y = torch.cat([targets for _, targets in few])
    monkeypatch.setattr(
        Network, "samples", lambda _: type(few)(few.split, few.order[y != 4], few.batch_size)
    )
    found = class_subnetworks(network, network.setup.by_class)
    assert "no sample of class 4" in found.notices[0]
    assert 4 not in found.masks


def test_a_network_of_one_layer_has_no_parts(registry):
    network = study(registry, model="mlp:widths=", class_pruner="snip", epochs=1)
    with pytest.raises(ModelError, match="leave --class-pruner out"):
        class_subnetworks(network, network.setup.by_class)


# --- tickets ------------------------------------------------------------------------------------


def test_tickets_are_trained_and_measured_beside_the_dense_network(registry):
    network = study(registry, ticket="iterative-magnitude:rate=0.6", ticket_density=0.2)
    dense = measure(
        network.setup.metrics, network.subject(network.model, network.kind.candidates.full())
    )
    found = tickets(network, network.setup.lottery, dense)
    rows = pd.DataFrame(found.rows)
    accuracy = rows[rows["metric"] == "accuracy"].set_index("network")["value"]
    assert accuracy["dense"] == evaluate(network.model, network.data.test, "classification", CPU)[1]
    pruner = network.setup.lottery.instance
    mask = network.prune("iterative-magnitude", pruner, network.start(), 0.2, use="ticket")
    trained = network.train(network.start(), mask)
    assert accuracy["ticket"] == evaluate(trained, network.data.test, "classification", CPU)[1]
    assert accuracy["ticket"] > accuracy["random"]
    whole = rows[(rows["network"] == "dense") & ~rows["metric"].isin(["loss", "accuracy"])]
    assert whole["value"].tolist() == [row["value"] for row in dense.rows]
    assert {row["network"] for row in found.alike} == {"ticket", "random"}


def units(metric, values, silent=None):
    """Make a metric's long table of one layer's units."""
    table = pd.DataFrame({"layer": "a", "unit": range(len(values)), "r": values})
    if silent is not None:
        table["silent"] = silent
    long = table.melt(["layer", "unit"], var_name="statistic", value_name="value")
    return Measured([], [long.assign(metric=metric)], {}, [])


def test_units_are_compared_by_rank_without_the_silent_ones():
    rng = np.random.default_rng(0)
    a, b = rng.random(12), rng.random(12)
    rows = same_units(units("m", a), units("m", b))
    assert {row["layer"] for row in rows} == {"all", "a"}
    assert rows[0]["value"] == pytest.approx(spearmanr(a, b).statistic)
    gone = np.zeros(12)
    gone[[1, 5]] = 1.0
    rows = same_units(units("m", a, gone), units("m", b, np.zeros(12)))
    left = gone == 0
    assert rows[0]["value"] == pytest.approx(spearmanr(a[left], b[left]).statistic)
    assert rows[0]["units"] == 10
    assert same_units(units("m", a[:2]), units("m", b[:2])) == []
    assert same_units(units("m", a), units("m", a))[0]["value"] == pytest.approx(1.0)


# --- the whole run ------------------------------------------------------------------------------


def test_a_run_keeps_it_all(registry, tmp_path):
    config = DensityConfig(
        **{
            **SMALL,
            "step": 0.25,
            "epochs": 3,
            "pruners": ("force:rounds=2", "magnitude"),
            "class_pruner": "snip",
            "ticket": "iterative-magnitude:rate=0.7",
        }
    )
    run = session.run(config, registry, out=tmp_path / "run").saved
    assert run.meta["searched"] == ["force"]
    assert run.meta["trained"] == []
    assert set(run.tables["classes"]["mask"]) == {"whole", "random", *map(str, range(10))}
    assert set(run.tables["tickets"]["network"]) == {"dense", "ticket", "random"}
    assert len(run.tables["alike"])
    assert run.meta["plugins"]["ticket"]["name"] == "iterative-magnitude"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruners": ("structured",)}, "gives a smaller network instead of a mask"),
        ({"class_pruner": "structured"}, "gives a smaller network instead of a mask"),
        ({"class_pruner": "prune-and-grow"}, "trains for the task, whatever the class"),
        ({"ticket": "snip"}, "does not train, so it finds no lottery ticket"),
        ({"dataset": "toy", "rise": 0.1, "class_pruner": "snip"}, "has no classes"),
        ({"options": {"force": {"rounds": 2}}}, "no plugin 'force' takes part"),
    ],
)
def test_what_does_not_fit_is_refused(registry, changes, message):
    with pytest.raises(UsageError, match=message):
        resolve(DensityConfig(**{**SMALL, **changes}), registry)


def test_options_of_every_pruner_count(registry):
    options = {"snip": {"group": 2}, "iterative-magnitude": {"rate": 0.5}}
    setup = resolve(
        DensityConfig(**SMALL, class_pruner="snip", ticket="iterative-magnitude", options=options),
        registry,
    )
    assert setup.lottery.instance.rate == 0.5


def test_only_one_split_is_held_at_a_time(registry):
    setup = resolve(DensityConfig(**SMALL | {"data_seeds": (0, 1)}), registry)
    first, again = setup.splits.data(0), setup.splits.data(0)
    assert first is again
    assert setup.splits.spaces(0) is setup.splits.spaces(0)
    other = setup.splits.data(1)
    assert not torch.equal(other.train.x, first.train.x)
    assert setup.splits.data(0) is not first
    seeds = [cell.data_seed for cell in setup.cells]
    assert seeds == sorted(seeds)


def test_the_python_face_takes_data_of_ones_own(registry, tmp_path):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(120, 6, generator=draw)
    y = (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()
    options = {**SMALL, "step": 0.25, "epochs": 2, "metrics": ("hoyer",)}
    run = polykit.density(options.pop("model"), (x, y), out=tmp_path / "a", **options)
    assert run.status == "complete"
    assert set(run.summary().index.get_level_values("pruner")) <= {"magnitude"}
    assert len(run.saved.tables["effective"]) == 1
    with pytest.raises(UsageError, match="has one split"):
        polykit.density(SMALL["model"], (x, y), out=tmp_path / "b", data_seeds=(0, 1))
    assert not (tmp_path / "b").exists()
