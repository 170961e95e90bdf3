"""Continuous sparsification: against torch's own optimiser, on planted parts, and its promises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from polykit.errors import DataError, UsageError
from polykit.runtime.clusters.objectives import contrast, preservation
from polykit.runtime.objectives import TaskLoss, UnitActivation
from polykit.runtime.passes.reading import Reader, make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.progress import watching
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.types import Candidates, Granularity, Mask, Objective, UnitRef
from polykit_builtins.pruners.continuous_sparsification import (
    ContinuousSparsification,
    next_price,
)
from polykit_builtins.pruners.mask_descent import soft_values
from polykit_builtins.pruners.random import Random
from polykit_builtins.pruners.soft_mask import SoftMask

Told = list[dict[str, float]]


class Case:
    """A small convnet in float64 with groups, twelve pictures and three classes."""

    def __init__(self) -> None:
        with seeded(0, "cs"):
            first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)]
            second = [nn.Conv2d(4, 6, 2, stride=2, groups=2), nn.Tanh()]
            self.model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(24, 3))
            self.model = self.model.double().eval()
            self.x = torch.randn(12, 1, 4, 4, dtype=torch.double)
            self.y = torch.randint(3, (12,))
        self.trace = trace(self.model, self.x)
        self.objective: Objective = TaskLoss()

    def candidates(self, granularity: Granularity = "weight", **more: Any) -> Candidates:
        target = self.objective.target
        return candidates(self.model, self.trace, granularity, target=target, **more)

    def prune(
        self,
        pruner: ContinuousSparsification,
        density: float = 1.0,
        *,
        cut: Candidates | None = None,
        batch: int = 5,
        mask: Mask | None = None,
        told: Told | None = None,
    ) -> Mask:
        def hear(*, step: int, steps: int, numbers: Any) -> None:
            if told is not None:
                told.append({"step": step, "steps": steps, **numbers})

        with watching(hear), unchanged(self.model):
            return pruner.prune(
                self.model,
                self.objective,
                list(zip(self.x.split(batch), self.y.split(batch), strict=True)),
                density=density,
                candidates=self.candidates() if cut is None else cut,
                generator=generator(0),
                mask=mask,
            )


@pytest.fixture
def case() -> Case:
    return Case()


# --- the descent --------------------------------------------------------------------------------


def by_torch(
    case: Case, cut: Candidates, pruner: ContinuousSparsification
) -> tuple[dict[str, Tensor], float]:
    """The published algorithm with torch's autograd and SGD, three new batches each epoch.

    A logit's learning rate is lr / (scale · parameters of its element), with the scale from the
    quantiles of the first slope per parameter.
    """
    own = dict(case.model.named_parameters())
    logits = {
        name: torch.full(
            cut.element_shape(name), pruner.start, dtype=torch.double, requires_grad=True
        )
        for name in cut.shapes
    }

    def objective(multipliers: dict[str, Tensor], rows: Any = slice(None)) -> Tensor:
        params = {}
        for name, soft in multipliers.items():
            inner = (1,) * (own[name].dim() - soft.dim())
            params[name] = own[name].detach() * soft.view(*soft.shape, *inner)
            if name in cut.biases:
                params[cut.biases[name]] = own[cut.biases[name]].detach() * soft
        x, y = case.x[rows], case.y[rows]
        return case.objective.values(case.model, x, y, params=params).mean()

    multipliers = {n: torch.sigmoid(s).detach().requires_grad_() for n, s in logits.items()}
    slopes = torch.autograd.grad(objective(multipliers), list(multipliers.values()))
    sizes = {name: cut.element_size(name) for name in cut.shapes}
    each = [g.abs().flatten() / sizes[n] for n, g in zip(logits, slopes, strict=True)]
    every = np.sort(np.concatenate([g.numpy() for g in each]))
    every = every[every > 0]
    price, pace = (np.quantile(every, q, method="inverted_cdf") for q in (pruner.quantile, 0.7))
    groups = [
        {"params": [s], "lr": pruner.lr / (max(price, pace) * sizes[n])} for n, s in logits.items()
    ]
    optimizer = torch.optim.SGD(groups, momentum=pruner.momentum)
    seed = int(torch.randint(2**62, (), generator=generator(0)))
    order = torch.Generator().manual_seed(seed)
    for epoch in range(pruner.epochs):
        heat = pruner.temperature ** (epoch / (pruner.epochs - 1))
        for rows in torch.randperm(12, generator=order).split(4):
            optimizer.zero_grad()
            soft = {name: torch.sigmoid(heat * s) for name, s in logits.items()}
            penalty = sum(price * sizes[n] * m.sum() for n, m in soft.items())
            (objective(soft, rows) + penalty).backward()
            optimizer.step()
    return {name: logit.detach() for name, logit in logits.items()}, float(price)


@pytest.mark.parametrize("quantile", [0.4, 0.9])
@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_it_is_sgd_on_the_penalised_objective(
    case: Case, granularity: Granularity, quantile: float
) -> None:
    pruner = ContinuousSparsification(epochs=7, batch=4, steps=2, quantile=quantile, lr=0.005)
    cut = case.candidates(granularity)
    logits, price = by_torch(case, cut, pruner)
    told: Told = []
    found = case.prune(pruner, cut=cut, told=told)
    assert found == cut.mask({name: logit > 0 for name, logit in logits.items()})
    assert 0.01 < found.density < 0.99
    last = told[-1]
    assert last["price"] == pytest.approx(price, rel=1e-9)
    soft = {name: torch.sigmoid(200 * logit) for name, logit in logits.items()}
    penalty = price * sum(cut.element_size(n) * float(m.sum()) for n, m in soft.items())
    assert last["penalty"] == pytest.approx(penalty, rel=1e-6)
    mask = SoftMask(case.model, cut, cut.full())
    for key, multipliers in (
        ("loss", soft),
        ("hard_loss", {n: (logit > 0).double() for n, logit in logits.items()}),
    ):
        params = mask.parameters(multipliers)
        loss = case.objective.values(case.model, case.x, case.y, params=params).mean()
        assert last[key] == pytest.approx(float(loss.detach()), rel=1e-6)


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_slopes_are_the_gradient_of_each_multiplier(case: Case, granularity: Granularity) -> None:
    case.objective = UnitActivation(UnitRef("2", 4), case.trace)
    cut, random = case.candidates(granularity), generator(1)
    shapes = {name: cut.element_shape(name) for name in cut.shapes}
    begin = cut.mask({n: torch.rand(s, generator=random) < 0.8 for n, s in shapes.items()})
    soft = SoftMask(case.model, cut, begin)
    multipliers = {
        n: torch.rand(s, generator=random, dtype=torch.double).requires_grad_()
        for n, s in shapes.items()
    }
    params = soft.parameters(multipliers)
    loss = case.objective.values(case.model, case.x, case.y, params=params).mean()
    expected = torch.autograd.grad(loss, list(multipliers.values()), retain_graph=True)
    given = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
    slopes = soft.slopes(dict(zip(params, given, strict=True)))
    for name, gradient in zip(multipliers, expected, strict=True):
        torch.testing.assert_close(slopes[name] * cut.element_size(name), gradient)
    kept, own = cut.elements(begin), dict(case.model.named_parameters())
    for name in multipliers:
        gone = params[name][~kept[name]]
        assert not gone.any(), "what the mask has removed came back"
    rows = torch.arange(6) != 4
    torch.testing.assert_close(params["2.weight"][rows], own["2.weight"][rows].detach())


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=20),
    st.sampled_from([1.0, 14.1, 200.0]),
)
def test_soft_values_are_never_nearly_nothing(numbers: list[float], temperature: float) -> None:
    logits = torch.tensor(numbers)
    soft = soft_values({"w": logits}, temperature)["w"]
    assert not bool(((soft > 0) & (soft < 1e-12)).any())
    torch.testing.assert_close(soft, torch.sigmoid(temperature * logits), rtol=0, atol=1e-11)


# --- λ and the density --------------------------------------------------------------------------


@given(
    slope=st.floats(0.2, 2),
    price=st.floats(-20, -2),
    first=st.floats(-4, 4),
    density=st.floats(0.005, 0.9),
    bend=st.floats(0, 0.3),
)
@settings(deadline=None)
def test_the_search_for_a_price_ends_soon(
    slope: float, price: float, first: float, density: float, bend: float
) -> None:
    """Log-odds of the density fall with log λ, at any usual pace and not quite on a line."""

    def odds(log_price: float) -> float:
        away = log_price - price
        return math.log(density / (1 - density)) - slope * (away + bend * math.sin(2 * away) / 2)

    tried: list[tuple[float, float]] = []
    now = math.exp(price + first)
    for _ in range(8):
        found = 1 / (1 + math.exp(-odds(math.log(now))))
        if abs(found - density) <= 0.1 * density:
            return
        tried.append((now, found))
        now = next_price(tried, density)
    pytest.fail(f"not found: {tried}")


@pytest.mark.parametrize(("tried", "low", "high"), [
    ([(1e-3, 0.9)], 1e-3, 1e-1),
    ([(1e-3, 0.01)], 1e-5, 1e-3),
    ([(1e-3, 0.0)], 1e-5, 1e-3),
    ([(1e-3, 1.0), (1e-1, 0.0)], 1e-3, 1e-1),
    ([(1e-3, 0.1), (1e-1, 0.9)], 1e-3, 1e-1),
])  # fmt: skip
def test_the_next_price_is_on_the_right_side(
    tried: list[tuple[float, float]], low: float, high: float
) -> None:
    """Densities of 0 and 1 and a density that rises with λ included."""
    assert low * 0.999 <= next_price(tried, 0.4) <= high * 1.001


def test_a_density_is_met_by_the_price_before_anything_is_cut(case: Case) -> None:
    told: Told = []
    found = case.prune(ContinuousSparsification(epochs=12), 0.1, told=told)
    assert found.kept == round(0.1 * found.total)
    last = told[-1]
    assert last["density"] == found.density
    assert abs(last["learned_density"] - 0.1) <= 0.01 + 1e-9
    assert 1 < last["descents"] <= 8
    assert last["descents"] * 12 + 1 == len(told)


def test_by_layer_each_layer_has_its_price(case: Case) -> None:
    cut = case.candidates(competition="layer")
    told: Told = []
    found = case.prune(ContinuousSparsification(epochs=12), 0.4, cut=cut, told=told)
    for density in found.layer_density().values():
        assert abs(density - 0.4) < 0.02
    assert told[-1]["learned_density"] == pytest.approx(0.4, abs=0.06)


def test_a_larger_price_keeps_less(case: Case) -> None:
    densities = [
        case.prune(ContinuousSparsification(quantile=q, epochs=12)).density
        for q in (0.1, 0.5, 0.8, 0.95)
    ]
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > 2 * densities[-1]


# --- what it promises ---------------------------------------------------------------------------


def test_it_tells_how_it_goes(case: Case) -> None:
    told: Told = []
    found = case.prune(ContinuousSparsification(epochs=5), told=told)
    assert [(t["step"], t["steps"]) for t in told] == [(n, 5) for n in (1, 2, 3, 4, 5, 5)]
    assert [round(t["temperature"], 3) for t in told[:-1]] == [1, 3.761, 14.142, 53.183, 200]
    for numbers in told[:-1]:
        assert {"density", "loss", "penalty", "price"} <= numbers.keys()
    last = told[-1]
    assert last["density"] == last["learned_density"] == found.density == told[-2]["density"]
    assert last["descents"] == 1


def test_few_samples_make_smaller_batches(case: Case) -> None:
    """Twelve samples by sixty-four are one batch; eight steps make eight of them, 100 twelve."""
    masks = [
        case.prune(ContinuousSparsification(batch=batch, steps=steps, epochs=4))
        for batch, steps in ((64, 100), (1, 1), (64, 6), (2, 1))
    ]
    assert masks[0] == masks[1]
    assert masks[2] == masks[3] != masks[0]


def test_samples_come_in_any_batches(case: Case) -> None:
    pruner = ContinuousSparsification(batch=4, epochs=4, steps=2)
    masks = [case.prune(pruner, batch=size) for size in (1, 5, 12)]
    assert masks[0] == masks[1] == masks[2]
    assert case.prune(ContinuousSparsification(batch=3, epochs=4, steps=2)) != masks[0]


def test_it_works_where_gradients_are_off_and_weights_are_frozen(case: Case) -> None:
    pruner = ContinuousSparsification(epochs=4)
    expected = case.prune(pruner)
    case.model.requires_grad_(False)
    with torch.no_grad():
        assert case.prune(pruner) == expected


def test_what_the_mask_has_removed_stays_out(case: Case) -> None:
    half = Random().prune(
        case.model, case.objective, [], density=0.5, candidates=case.candidates(),
        generator=generator(3),
    )  # fmt: skip
    for density in (1.0, 0.3):
        found = case.prune(ContinuousSparsification(epochs=5), density, mask=half)
        assert all(not bool((found[name] & ~half[name]).any()) for name in found)
        assert 0 < found.density <= 0.5
    with pytest.raises(UsageError, match=r"density 0.6 is above the 0.5 that the mask to start"):
        case.prune(ContinuousSparsification(), 0.6, mask=half)


def test_a_value_is_kept_not_made_small(case: Case) -> None:
    """The unit's values stay near the dense ones; those of random masks don't."""
    case.objective = UnitActivation(UnitRef("2", 4), case.trace, "center")
    cut = case.candidates()
    dense = case.objective.values(case.model, case.x, case.y).detach()

    def error(mask: Mask) -> float:
        with masked(case.model, mask), torch.no_grad():
            values = case.objective.values(case.model, case.x, case.y)
        return float((values - dense).square().mean() / dense.var())

    found = case.prune(ContinuousSparsification(epochs=12), 0.6)
    chance = [
        Random().prune(
            case.model, case.objective, [], density=0.6, candidates=cut, generator=generator(seed)
        )
        for seed in range(5)
    ]
    assert error(found) < 0.2 * min(error(mask) for mask in chance)


def test_nothing_worth_its_price_is_said_so(case: Case) -> None:
    case.y = torch.zeros(12, dtype=torch.long)
    with torch.no_grad():
        case.model[-1].weight.zero_()
        case.model[-1].weight[0, 0] = 1e-6
        case.model[-1].bias.copy_(torch.tensor([9.0, 0, 0]))
    with pytest.raises(UsageError, match="no element is worth its price λ; take a smaller"):
        case.prune(ContinuousSparsification(quantile=0.999))


def test_an_objective_that_nothing_moves_is_said_so(case: Case) -> None:
    with torch.no_grad():
        case.model[-1].weight.zero_()
    with pytest.raises(UsageError, match="depends on no element"):
        case.prune(ContinuousSparsification())


def test_nan_in_the_data_is_said_so(case: Case) -> None:
    case.x[2, 0, 1, 1] = torch.nan
    with pytest.raises(DataError, match="the objective is nan: look for NaN"):
        case.prune(ContinuousSparsification())


# --- planted parts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A unit that two disjoint paths lead to, each from the half of the inputs that it sees.

    Every other weight is noise. `paths` are the weights of the two; `y` says which half is bright.
    """

    model: nn.Module
    paths: tuple[dict[str, Tensor], dict[str, Tensor]]
    target: UnitRef
    read: Reader
    cut: Candidates


def plant(seed: int, noise: float = 0.02) -> Planted:
    widths, random = (20, 16, 12, 4), generator(seed, "planted")
    layers: list[nn.Module] = []
    paths: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for depth, (inputs, outputs) in enumerate(pairwise(widths)):
        layer = nn.Linear(inputs, outputs)
        weight = noise * torch.randn(outputs, inputs, generator=random)
        share = inputs // (4 if depth else 2)
        for side, path in enumerate(paths):
            last = depth == len(widths) - 2
            rows = slice(0, 1) if last else slice(side * outputs // 4, (side + 1) * outputs // 4)
            columns = slice(side * share, (side + 1) * share)
            part = 0.5 + 0.5 * torch.rand(weight[rows, columns].shape, generator=random)
            weight[rows, columns] = part / part.sum(1, keepdim=True)
            path[f"{2 * depth}.weight"] = torch.zeros(weight.shape, dtype=torch.bool)
            path[f"{2 * depth}.weight"][rows, columns] = True
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).eval()
    found, target = trace(model, torch.zeros(1, 20)), UnitRef("4", 0)
    cut = candidates(model, found, target=target)
    return Planted(model, paths, target, make_reader(model, found, "4"), cut)


def bright(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures with a bright first (y = 1) or second half (y = 0)."""
    random, y = generator(seed, "pictures"), torch.arange(count) % 2
    x = 0.1 * torch.rand(count, 20, generator=random)
    for half, columns in ((1, slice(0, 10)), (0, slice(10, 20))):
        light = torch.rand(count, 10, generator=random)
        x[:, columns] += (y == half).float()[:, None] * light
    return x, y


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("make", [contrast, preservation])
def test_planted_paths_are_recovered_and_by_chance_they_are_not(
    make: Any, side: int, seed: int
) -> None:
    """By contrast at the path's density; by preservation at a density that it finds itself."""
    plan, (x, y), (held_out, label) = plant(seed), bright(256, seed), bright(200, seed + 100)
    y, label = (y, label) if side == 0 else (1 - y, 1 - label)
    truth = plan.cut.mask(plan.paths[side])

    def separation(mask: Mask) -> float:
        with masked(plan.model, mask), torch.no_grad():
            return float(roc_auc_score(label, plan.read(plan.model, held_out)[:, 0]))

    assert 0.2 < separation(plan.cut.full()) < 0.8, "the dense unit must not tell the halves apart"
    objective = make(plan.model, plan.target, plan.read, [(x, y)])
    found = ContinuousSparsification(quantile=0.8).prune(
        plan.model,
        objective,
        [(x, y)],
        density=truth.density if make is contrast else 1.0,
        candidates=plan.cut,
        generator=generator(seed),
    )
    assert found.iou(truth) >= 0.9
    assert separation(found) >= 0.99
    chance = [
        Random().prune(
            plan.model,
            objective,
            [],
            density=found.density,
            candidates=plan.cut,
            generator=generator(draw),
        )
        for draw in range(9)
    ]
    assert max(mask.iou(truth) for mask in chance) < 0.2
    assert float(np.median([separation(mask) for mask in chance])) < 0.9
