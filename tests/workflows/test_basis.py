"""Interaction graphs end to end, on small networks."""

from __future__ import annotations

import copy

import networkx as nx
import pandas as pd
import pytest
import torch
from torch import nn

import polykit
from polykit import session
from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.degeneracy.bases import load_bases
from polykit.runtime.degeneracy.interactions import interactions
from polykit.runtime.degeneracy.nodes import nodes_of
from polykit.runtime.degeneracy.slopes import gather
from polykit.runtime.passes.trace import trace
from polykit.runtime.store import RunStore
from polykit.testing.state import unchanged
from polykit.workflows.basis.config import BasisConfig
from polykit.workflows.basis.setup import resolve

SMALL = {
    "model": "mlp:widths=8,6",
    "seeds": (0,),
    "epochs": 2,
    "retrain_epochs": 1,
    "pruners": ("magnitude",),
    "densities": (0.3,),
    "control": False,
    "lr": 0.01,
    "samples": 40,
    "cutoffs": (1e-4, 1e-3),
    "resolutions": (1.0,),
    "threads": 1,
}
LAYERS = ("input", "hidden1", "hidden2", "output")


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def run(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("basis") / "run"
    return session.run(BasisConfig(**SMALL), registry, out=folder)


@pytest.fixture(scope="module")
def network(run, registry):
    """The trained network of the run, and the samples that it was looked at with."""
    setup = resolve(BasisConfig(**SMALL), registry)
    model = setup.networks.build(0)
    store = RunStore.open(run.path)
    model.load_state_dict(store.read_tensors("seed-0-dense", "model.safetensors"))
    x, _ = next(setup.networks.data.test.batches(40))
    return model.eval(), x


def one(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_every_state_has_every_graph(run):
    graphs = run.saved.tables["graphs"]
    states = graphs[["pruner", "density", "stage"]].drop_duplicates()
    assert set(states.itertuples(index=False, name=None)) == {
        ("dense", 1.0, "untrained"),
        ("dense", 1.0, "dense"),
        ("magnitude", 0.3, "pruned"),
        ("magnitude", 0.3, "retrained"),
    }
    kept = graphs.groupby(["stage", "basis", "origin"]).ngroups
    assert kept == 4 * 3 * 2
    assert run.status == "complete"
    assert run.meta["layers"] == list(LAYERS)
    assert set(run.rows["metric"]) == {"loss", "accuracy", "density", "parameters", "flops"}


@pytest.mark.parametrize("origin", ["zero", "mean"])
@pytest.mark.parametrize("basis", ["interaction", "neuron", "pca"])
def test_numbers_are_those_of_the_graph(run, network, basis, origin):
    model, x = network
    path = trace(model, x)
    factors = gather(model, [x], path, LAYERS)
    nodes = {layer: nodes_of(factors[layer], basis, origin) for layer in LAYERS}
    edges = interactions(model, [x], path, nodes)
    place = {"stage": "dense", "basis": basis, "origin": origin}
    graphs = one(run.saved.tables["graphs"], **place)
    for layer, E in zip(["input→hidden1", "hidden1→hidden2", "hidden2→output"], edges, strict=True):
        shares = E / E.sum()
        count = float(torch.special.entr(shares).sum().exp())
        found = one(graphs, layer=layer, statistic="effective_edges")["value"].item()
        assert found == pytest.approx(count, rel=1e-5)
        rows = torch.special.entr(E / E.sum(1, keepdim=True).clamp_min(1e-300)).sum(1).exp()
        inputs = float((rows * E.sum(1)).sum() / E.sum())
        found = one(graphs, layer=layer, statistic="effective_inputs")["value"].item()
        assert found == pytest.approx(inputs, rel=1e-5)
    whole = one(graphs, layer="all").set_index("statistic")["value"]
    assert whole["nodes"] == sum(map(len, nodes.values()))
    assert whole["possible_edges"] == sum(E.numel() for E in edges)
    y = model(x).detach()
    smallest = 1e-4 * float((y - y.mean(0)).square().sum(1).mean())
    table = one(run.saved.tables["edges"], **place)
    first = one(table, layer="input")
    strong = (edges[0] > smallest).nonzero()
    assert len(first) == len(strong)
    kept = {(int(i), int(j)) for i, j in strong}
    assert set(zip(first["node_behind"], first["node"], strict=True)) == kept
    linked = one(run.saved.tables["modules"], **place, cutoff=1e-4)["edges"].item()
    assert linked == len(table)
    names = one(run.saved.tables["nodes"], **place, layer="hidden1")["name"].tolist()
    assert len(set(names)) == len(names) == len(nodes["hidden1"])


def test_saved_bases_are_a_change_of_coordinates(run, network):
    """Into the kept directions and back: the network computes what it did."""
    model, x = network
    cell = run.path / "cells" / "seed-0-dense"
    for origin in ("zero", "mean"):
        bases = load_bases(cell / f"dense-interaction-{origin}.safetensors")
        assert set(bases) == set(LAYERS)
        parts = list(model.children())
        end = parts.index(model.get_submodule("hidden1")) + 2
        f = nn.Sequential(*parts[:end])(x)
        basis = bases["hidden1"]
        y = nn.Sequential(*parts[end:])(basis.restore(basis.project(f)))
        torch.testing.assert_close(y, model(x), rtol=1e-3, atol=1e-3)
        assert (basis.project(f).square().mean(0) > 0).all()


def test_graphml_is_read_by_networkx(run):
    cell = run.path / "cells" / "seed-0-magnitude-0.3"
    for name in ("interaction-zero", "neuron-mean"):
        graph = nx.read_graphml(cell / f"retrained-{name}.graphml")
        basis, origin = name.split("-")
        place = {"stage": "retrained", "basis": basis, "origin": origin}
        table = one(run.saved.tables["edges"], **place)
        assert graph.number_of_edges() == len(table)
        assert sum(s for *_, s in graph.edges(data="strength")) == pytest.approx(
            table["strength"].sum()
        )
        members = one(run.saved.tables["members"], **place, cutoff=1e-3, resolution=1.0)
        found = nx.get_node_attributes(graph, "module cutoff=0.001 resolution=1")
        assert len(found) == len(members)
        assert sorted(found.values()) == sorted(members["module"])


def test_the_same_seed_gives_the_same_bytes(registry, tmp_path):
    config = BasisConfig(
        **{**SMALL, "pruners": (), "epochs": 0, "bases": ("interaction",), "origins": ("mean",)}
    )
    folders = [session.run(config, registry, out=tmp_path / name).path for name in "ab"]
    for table in ("graphs", "modules", "members", "edges"):
        first, second = (folder / f"{table}.parquet" for folder in folders)
        assert first.read_bytes() == second.read_bytes()


def test_ones_own_network_is_left_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
    before = copy.deepcopy(model.state_dict())
    with unchanged(model):
        found = polykit.basis(
            model, "digits", bases=("interaction",), origins=("mean",), samples=6, steps=1,
            cutoffs=(1e-4,), resolutions=(1.0,), seeds=(0,), out=tmp_path / "own",
        )  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(found.saved.tables["graphs"]["stage"]) == {"untrained", "dense"}
    assert any("rank is limited by the number of samples, 6" in line for line in found.notices)


def test_one_network_is_no_sample_of_networks(tmp_path):
    """Seeds draw other controls and other random masks, but a network that came trained is one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    found = polykit.basis(
        model, "digits", bases=("interaction", "neuron"), origins=("mean",), samples=30,
        cutoffs=(1e-4,), resolutions=(1.0,), seeds=(3, 4), out=tmp_path / "one",
    )  # fmt: skip
    graphs = found.saved.tables["graphs"]
    assert set(graphs[graphs["stage"] == "dense"]["seed"]) == {3}
    assert set(graphs[graphs["stage"] == "untrained"]["seed"]) == {3, 4}
    assert any("seed-4-dense, dense: the network of seed 3 again" in n for n in found.notices)
    assert "with one seed no effect of training is claimed" in found.verdict().answer


def test_constant_outputs_and_cutoffs_above_all_edges_are_told(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    quick = {
        "samples": 30,
        "seeds": (0,),
        "bases": ("neuron",),
        "origins": ("mean",),
        "resolutions": (1.0,),
    }
    found = polykit.basis(model, "digits", cutoffs=(1e6,), out=tmp_path / "high", **quick)
    assert any("no edge is above the cutoff 1e+06" in line for line in found.notices)
    assert "No edge is above the cutoff" in found.verdict().answer
    assert found.saved.tables["modules"].empty
    nn.init.zeros_(model[3].weight)
    found = polykit.basis(model, "digits", out=tmp_path / "dead", **quick)
    assert any("the outputs are the same on all 30 samples" in line for line in found.notices)
    assert set(found.saved.tables["graphs"]["stage"]) == {"untrained"}
    assert found.verdict().answer
    assert found.report().is_file()


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        first = torch.relu(self.first(x))
        return self.last(first + torch.relu(self.middle(first)))


def test_what_has_no_graph_is_refused_before_anything_is_written(tmp_path):
    labels = torch.arange(20) % 2
    with pytest.raises(ModelError, match="a path leads beside it"):
        polykit.basis(Beside(), (torch.randn(20, 4), labels), out=tmp_path / "a")
    with pytest.raises(UsageError, match="needs two layers"):
        polykit.basis(
            nn.Sequential(nn.Linear(4, 2)), (torch.randn(20, 4), labels), inputs=False,
            out=tmp_path / "a",
        )  # fmt: skip
    with pytest.raises(UsageError, match="interaction"):
        polykit.basis(bases=("fourier",), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_convolutional_network_has_a_graph(registry, tmp_path):
    config = BasisConfig(
        model="convnet", epochs=0, seeds=(0,), samples=4, inputs=False, steps=1,
        bases=("interaction", "neuron"), origins=("zero",), resolutions=(1.0,), layers=("conv3",),
    )  # fmt: skip
    found = session.run(config, registry, out=tmp_path / "conv")
    assert found.meta["layers"][0] == "conv3"
    whole = one(found.saved.tables["graphs"], layer="all", statistic="effective_edges")
    assert (whole["value"] > 1).all()
    assert set(found.saved.tables["graphs"]["stage"]) == {"dense"}  # untrained: no control


def test_the_summary_has_a_row_for_every_graph(run):
    table = run.summary()
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 4 * 3 * 2
    assert table.loc[("trained", "zero", "interaction"), "effective_edges"] > 1
