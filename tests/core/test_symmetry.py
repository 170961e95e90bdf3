"""Units change places and the function stays; planted orders are found again."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from polykit.errors import ModelError
from polykit.runtime.pairs.matching import first_difference, match
from polykit.runtime.pairs.symmetry import symmetries


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def randomised(model, seed):
    """Random parameters and running statistics, none of them zero."""
    random = drawn(seed)
    state = {
        name: torch.rand(value.shape, generator=random) + 0.1
        if "running_var" in name
        else torch.randn(value.shape, generator=random)
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


class Residual(nn.Module):
    """Two blocks around a skip connection, with batch normalisation; a square kernel inside."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner, self.outer = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.square = nn.Conv2d(5, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer(F.relu(self.inner(x)))
        x = F.relu(x + self.square(x))
        return self.head(x.mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


NETWORKS = {"mlp": (mlp, (4,)), "convnet": (convnet, (2, 6, 6)), "residual": (Residual, (2, 6, 6))}


def network(name, seed):
    make, shape = NETWORKS[name]
    return randomised(make(), seed), torch.randn(9, *shape, generator=drawn(seed + 1))


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_any_order_of_the_units_computes_the_same(name, seed):
    model, x = network(name, seed)
    found = symmetries(model, x)
    moved = copy.deepcopy(model)
    state = found.permute(model.state_dict(), found.random(drawn(seed)))
    moved.load_state_dict(state)
    assert any(not torch.equal(a, state[n]) for n, a in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-4)


def test_the_symmetries_of_each_network():
    expected = {"mlp": [("0",), ("2",)], "convnet": [("0",), ("5",)]}
    for name, layers in expected.items():
        assert [g.layers for g in symmetries(*network(name, 0)).groups] == layers
    alone, joined = sorted(symmetries(*network("residual", 0)).groups, key=lambda g: len(g.layers))
    assert set(joined.layers) == {"stem", "outer", "square"}
    assert alone.layers == ("inner",)
    assert "norm.running_mean" in joined.tensors()


def test_the_model_is_left_as_it_was():
    model, x = network("residual", 3)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    symmetries(model, x)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (
            nn.Sequential(
                nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(6 * 4, 2)
            ),
            (1, 4, 4),
        ),
        (Tied(), (4,)),
    ],
)
def test_units_that_cannot_change_places_are_named(model, shape):
    randomised(model, 1)
    found = symmetries(model, torch.randn(5, *shape, generator=drawn(0)))
    first = next(iter(found.fixed))
    assert first in ("0", "first")
    assert "something else" in found.fixed[first]
    assert all(first not in group.layers for group in found.groups)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_orders_are_found_exactly(name, noise):
    for seed in range(3):
        model, x = network(name, seed)
        found = symmetries(model, x)
        a = {n: value.detach() for n, value in model.named_parameters()}
        planted = found.random(drawn(seed))
        b = found.permute(
            {n: v + noise * torch.randn(v.shape, generator=drawn(7)) for n, v in a.items()}, planted
        )
        result = match(a, b, found, random=drawn(seed))
        for ours, theirs in zip(result.permutations, planted, strict=True):
            assert torch.equal(ours, theirs.argsort())
        size = sum(value.numel() for value in a.values()) ** 0.5
        assert result.distance <= 1.2 * noise * size
        assert result.unmatched > 5 * max(result.distance, 0.1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_one_hidden_layer_is_matched_as_well_as_can_be(seed):
    a, b = (
        dict(
            randomised(
                nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)), s
            ).named_parameters()
        )
        for s in (seed, seed + 1)
    )
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    found = symmetries(randomised(model, seed), torch.randn(4, 2, generator=drawn(0)))
    best = min(
        sum(float((a[n] - moved[n]).detach().square().sum()) for n in a) ** 0.5
        for order in itertools.permutations(range(5))
        for moved in [found.permute(b, [torch.tensor(order)])]
    )
    assert match(a, b, found, starts=1, random=drawn(0)).distance == pytest.approx(best, abs=1e-5)


def test_more_starts_come_no_farther_and_a_seed_fixes_the_result():
    (first, x), (second, _) = network("residual", 0), network("residual", 1)
    found = symmetries(first, x)
    a, b = dict(first.named_parameters()), dict(second.named_parameters())
    one, many = (match(a, b, found, starts=starts, random=drawn(4)) for starts in (1, 8))
    assert len(many.tries) == 8
    assert many.distance == min(many.tries) <= one.distance <= one.unmatched
    again = match(a, b, found, starts=8, random=drawn(4))
    assert all(map(torch.equal, many.permutations, again.permutations))
    moved = found.permute(b, many.permutations)
    by_hand = sum(float((a[n] - moved[n]).detach().square().sum()) for n in a) ** 0.5
    assert many.distance == pytest.approx(by_hand, rel=1e-6)


def test_networks_of_other_shapes_are_refused_with_the_first_difference():
    found = symmetries(*network("mlp", 0))
    a = dict(mlp().named_parameters())
    wider = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"first at 2\.weight, 6×7 and 8×7"):
        match(a, dict(wider.named_parameters()), found, random=drawn(0))
    longer = {**a, "6.weight": torch.zeros(2)}
    assert first_difference(a, longer).endswith("first at 6.weight, missing and 2")
    assert first_difference(a, a) is None
