"""The words and numbers of a run of `basis`, from tables made by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from polykit.report.basis import figures, numbers
from polykit.report.basis.verdict import verdict
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import TABLES, empty

KEY = {"pruner": "dense", "density": 1.0, "origin": "zero"}


def made(counts, modularity=None, seeds=(0, 1, 2)):
    """A run with interactions that count by (stage, basis), a factor of 1.1 apart by seed."""
    graphs, modules = [], []
    for (stage, basis), count in counts.items():
        for seed in seeds:
            place = {**KEY, "seed": seed, "stage": stage, "basis": basis}
            value = count * 1.1**seed
            row = {"layer": "all", "statistic": "effective_edges", "value": value}
            graphs.append({**place, **row})
            if modularity:
                scores = {"edges": 9, "modules": 3, "between": 0.1, "chance_between": 0.2}
                scores |= {"modularity": modularity[basis] + 0.01 * seed, "chance_modularity": 0.3}
                modules.append({**place, "cutoff": 1e-4, "resolution": 1.0, **scores})
    tables = {name: empty("basis", name) for name in TABLES["basis"]}
    tables["graphs"] = pd.DataFrame(graphs) if graphs else tables["graphs"]
    tables["modules"] = pd.DataFrame(modules) if modules else tables["modules"]
    config = {"cutoffs": [1e-4], "resolutions": [1.0], "bases": ["interaction", "neuron"]}
    meta = {"workflow": "basis", "config": config, "layers": ["input", "0"]}
    return SavedRun(Path("run"), meta, tables)


SPARSE = {
    ("untrained", "interaction"): 10.0,
    ("untrained", "neuron"): 1000.0,
    ("dense", "interaction"): 20.0,
    ("dense", "neuron"): 1000.0,
}


def test_the_answer_compares_bases_and_says_what_training_did():
    run = made(SPARSE, {"interaction": 0.5, "neuron": 0.3})
    answer = verdict(run).answer
    assert "0.0200 [0.0200, 0.0200] times as many as between neurons" in answer
    assert "in untrained networks it is 0.0100" in answer
    assert "which training changed" in answer
    assert "beyond chance is +0.210 [0.185, 0.235] (cutoff 0.0001, resolution 1)." in answer
    parts = dict(verdict(run).parts)
    assert set(parts) == {"Untrained", "Trained"}
    assert "modularity beyond chance: +0.210 [0.185, 0.235] in the interaction basis" in str(parts)


def test_no_effect_is_an_answer():
    alike = {**SPARSE, ("dense", "interaction"): 10.0}
    answer = verdict(made(alike, {"interaction": 0.29, "neuron": 0.3})).answer
    assert "which training was not found to change" in answer
    assert "so no modules were found" in answer
    assert "No edge is above the cutoff" in verdict(made(alike)).answer


def test_one_seed_claims_nothing():
    run = made(SPARSE, {"interaction": 0.5, "neuron": 0.3}, seeds=(0,))
    answer, parts = verdict(run).answer, str(verdict(run).parts)
    assert "and with one seed no effect of training is claimed" in answer
    assert (
        "is +0.200 (cutoff 0.0001, resolution 1); with one seed no modules are claimed." in answer
    )
    assert "modularity less that of rewired links, with one seed: +0.200 in" in parts
    assert "found" not in answer + parts


def test_trained_networks_without_a_graph_are_not_passed_over():
    untrained = {key: count for key, count in SPARSE.items() if key[0] == "untrained"}
    answer = verdict(made(untrained)).answer
    assert answer.startswith("No trained network has a graph. In untrained networks, told from")
    assert verdict(made(SPARSE)).answer.startswith("In trained networks")


@pytest.mark.parametrize("counts", [{}, {("dense", "pca"): 5.0}, {("dense", "neuron"): 0.0}])
def test_runs_with_little_in_them_hold(counts):
    for seeds in ((0,), (0, 1)):
        run = made(counts, seeds=seeds)
        assert verdict(run).answer
        assert all(drawn.alt for drawn in figures.draw_all(run))
        assert len(numbers.summary(run)) == bool(counts)


def test_a_ratio_is_a_geometric_mean_over_paired_seeds():
    ours = pd.Series({0: 2.0, 1: 8.0, 2: 5.0})
    theirs = pd.Series({0: 1.0, 1: 1.0, 3: 7.0})
    found = numbers.ratio(ours, theirs)
    assert found.mean == pytest.approx(4.0)
    assert found.n == 2
    assert found.low < 1 < found.high
    assert not found.clear
    assert numbers.ratio(pd.Series({0: 0.0}), pd.Series({0: 1.0})) is None
