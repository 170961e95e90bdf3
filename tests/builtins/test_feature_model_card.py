"""What the card of a `feature-model` world says about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from polykit.types import Fact
from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.datasets.ground_truth import card
from polykit_builtins.datasets.ground_truth.card import explained, facts, learnable, rms
from polykit_builtins.datasets.ground_truth.seeds import solve_seeds


def small(**options: Any) -> FeatureModel:
    return FeatureModel(
        **{"hidden": (5, 3, 2), "inputs": 4, "samples": 60, "encoder_epochs": 2, **options}
    )


def numbers(facts: tuple[Fact, ...]) -> dict[str, float]:
    assert all(np.isfinite(fact.value) and fact.summary for fact in facts)
    return {fact.name: fact.value for fact in facts}


ALWAYS = {"samples", "features", "label_ceiling", "label_learnable", "encoder_r2"}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, set()),
        ({"generator": "faithful"}, {"seed_error", "seed_r2"}),
        ({"generator": "faithful", "linear": True}, {"seed_error", "seed_r2", "search_gap"}),
    ],
)
def test_the_facts_of_each_kind_of_world(options: dict[str, Any], more: set[str]) -> None:
    found = numbers(small(steps=50, **options).load().card())
    assert found.keys() == ALWAYS | more
    assert (found["samples"], found["features"]) == (60, 10)


def test_the_card_is_computed_once_and_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(card, "facts", lambda world: calls.append(world) or ())
    data = small().load()
    assert not calls
    assert data.card() == data.card() == ()
    assert len(calls) == 1


def test_facts_about_the_search_are_those_computed_by_hand() -> None:
    world = small(linear=True, generator="faithful", steps=300).make()
    found = numbers(facts(world))
    maps, f = world.feature_model, world.features.double().numpy()
    assert world.seeds is not None
    h, reached = world.seeds.double().numpy(), []
    for weight, bias in zip(maps.weights[:-1], maps.biases[:-1], strict=True):
        h = h @ weight.double().numpy().T + bias.double().numpy()
        reached.append(h)
    error = np.concatenate(reached, axis=1) - f
    assert found["seed_error"] == pytest.approx((error**2).mean() ** 0.5, rel=1e-4)
    assert found["seed_r2"] == pytest.approx(1 - (error**2).sum() / (f.var(0).sum() * len(f)))
    gap = world.labels - maps.labels(solve_seeds(maps, world.features))
    assert found["search_gap"] == pytest.approx(float(gap.square().mean().sqrt()), rel=1e-5)
    assert found["search_gap"] > 0.01
    solved = small(linear=True, generator="faithful", search="least-squares").make()
    exact = numbers(facts(solved))
    assert exact["search_gap"] == pytest.approx(0, abs=1e-6)
    assert exact["seed_error"] < found["seed_error"]
    decoded = world.decoder(world.inputs)
    assert found["encoder_r2"] == pytest.approx(explained(world.features, decoded))


def test_exact_labels_reach_the_ceiling_and_noise_does_not() -> None:
    found = numbers(facts(small(linear=True, samples=200).make()))
    assert found["label_ceiling"] == pytest.approx(1, abs=1e-6)
    assert 0 < found["label_learnable"] < 0.999
    missed = numbers(facts(small(generator="faithful", steps=1, samples=200).make()))
    assert missed["label_ceiling"] < 0.3


def test_learnable_is_the_better_of_lines_and_trees_on_held_out_samples() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 3, generator=draw)
    train = torch.randperm(600, generator=draw)[:400]
    line = x @ torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]]) + 3
    assert learnable(x, line, train) == pytest.approx(1)
    bent = x[:, :1].abs()
    assert 0.9 < learnable(x, bent, train) < 1
    noise = torch.randn(600, 1, generator=draw)
    assert 0 <= learnable(x, noise, train) < 0.05
    shifted = torch.where(torch.isin(torch.arange(600), train), 0.0, 5.0) + noise[:, 0]
    assert learnable(x, shifted[:, None], train) == 0
    # mean over outputs; one that never varies has nothing to explain
    assert learnable(x, torch.cat([line, torch.ones(600, 1)], 1), train) == pytest.approx(2 / 3)
    half = line + 3 * torch.randn(600, 2, generator=draw)
    rest = np.setdiff1d(np.arange(600), train)
    design = np.column_stack([x, np.ones(600)])
    fit = np.linalg.lstsq(design[train], half.double().numpy()[train])[0]
    expected = r2_score(half[rest], design[rest] @ fit)
    assert learnable(x, half, train) == pytest.approx(expected, rel=1e-4)
    assert learnable(x, half, train) == learnable(x, half, train)


def test_explained_and_rms_are_as_defined() -> None:
    x, y = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0))
    expected = r2_score(x, y, multioutput="variance_weighted")
    assert explained(x, y) == pytest.approx(expected)
    assert explained(x, x) == 1
    assert explained(torch.ones(4, 2), torch.zeros(4, 2)) == 0
    assert rms(torch.tensor([[3.0, 4.0]])) == pytest.approx(12.5**0.5)


def test_features_that_never_occur_leave_no_nan() -> None:
    found = numbers(facts(small(sparsity=(1.0,) * 10, generator="faithful", steps=2).make()))
    assert found["encoder_r2"] == found["seed_r2"] == 0
    silent = numbers(facts(small(sparsity=(1.0,) * 10).make()))
    assert silent["label_ceiling"] == silent["label_learnable"] == 0
