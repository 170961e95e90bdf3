"""Pruners that train: iterative magnitude, edge-popup, prune-and-grow."""

import copy
from itertools import pairwise
from math import ceil, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.objectives import TaskLoss, UnitActivation
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import evaluate, train
from polykit.types import Mask, Scores, UnitRef
from polykit_builtins.pruners.edge_popup import EdgePopup, chosen, start_scores
from polykit_builtins.pruners.iterative_magnitude import IterativeMagnitude
from polykit_builtins.pruners.prune_and_grow import PruneAndGrow, exchange, slopes

CPU = torch.device("cpu")


def network():
    with seeded(0, "training pruners"):
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU())
        return model.append(nn.Linear(4, 3)).double().eval()


def samples():
    draw = generator(0, "samples")
    return torch.randn(8, 6, generator=draw, dtype=torch.double), torch.arange(8) % 3


class Shaken:
    """Training that adds noise, and notes with what it was called."""

    def __init__(self):
        self.calls = []
        self.made = []

    def __call__(self, model, mask, *, epochs=None):
        self.calls.append((model, mask, epochs))
        trained = copy.deepcopy(model)
        noise = generator(len(self.calls), "noise")
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=noise, dtype=torch.double))
                if name in mask:
                    parameter.mul_(mask[name])
        self.made.append(trained)
        return trained


def prune(pruner, density, *, model=None, train=None, granularity="weight", size=8, **more):
    model = model or network()
    x, y = samples()
    cut = candidates(model, trace(model, x), granularity, more.pop("competition", "global"))
    return pruner.prune(
        model,
        more.pop("objective", TaskLoss()),
        list(zip(x.split(size), y.split(size), strict=True)),
        density=density,
        candidates=cut,
        generator=generator(0),
        train=train,
        **more,
    )


# --- iterative magnitude ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "counts"), [("exact", [320, 256, 204, 200]), ("published", [319, 254, 202, 200])]
)
def test_a_round_removes_a_fifth_of_what_is_left(rule, counts):
    path = IterativeMagnitude(rule=rule).path(400, 400, 0.5)
    assert [round(share * 400) for share in path] == counts


@given(st.integers(1, 10_000), st.floats(0.001, 0.999), st.floats(0.01, 1), st.sampled_from([0, 1]))
def test_the_path_falls_to_the_density(total, rate, density, more):
    rule = ("exact", "published")[more]
    path = IterativeMagnitude(rate=rate, rule=rule).path(total, total, density)
    assert path[-1] == density
    counts = [round(share * total) for share in path[:-1]]
    before = [total, *counts]
    for left, after in zip(before, counts, strict=False):
        assert left - after == max(1, ceil(rate * left - 1e-9)) + more
    assert all(count > density * total for count in counts)
    assert before[-1] - max(1, ceil(rate * before[-1] - 1e-9)) - more <= density * total


def test_rounds_stand_for_a_rate():
    path = IterativeMagnitude(rounds=4).path(10_000, 10_000, 0.0625)
    assert path == pytest.approx([0.5, 0.25, 0.125, 0.0625])
    with pytest.raises(ValidationError, match="give one of them"):
        IterativeMagnitude(rate=0.1, rounds=3)


@pytest.mark.parametrize("rewind", [0, None])
def test_rounds_of_magnitude_equal_a_plain_loop(rewind):
    model, shaken = network(), Shaken()
    mask = prune(IterativeMagnitude(rewind=rewind), 0.4, model=model, train=shaken)
    again = Shaken()
    keep = {n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    keep = {n: k for n, k in keep.items() if n.endswith("weight")}
    left, trained = sum(k.numel() for k in keep.values()), model
    target = round(0.4 * left)
    while left > target:
        trained = again(model if rewind == 0 else trained, keep)
        left = max(target, left - ceil(0.2 * left))
        sizes = {n: trained.get_parameter(n).abs().masked_fill(~k, -1) for n, k in keep.items()}
        edge = (
            torch.cat([s.flatten() for s in sizes.values()]).sort(descending=True).values[left - 1]
        )
        keep = {n: s >= edge for n, s in sizes.items()}
    assert len(again.calls) == len(shaken.calls) > 3
    assert all(torch.equal(mask[name], keep[name]) for name in mask)
    starts = [call[0] for call in shaken.calls]
    assert starts == ([model] * len(starts) if rewind == 0 else [model, *shaken.made[:-1]])


def test_what_is_gone_stays_gone():
    shaken = Shaken()
    last = prune(IterativeMagnitude(), 0.3, train=shaken)
    masks = [mask for _, mask, _ in shaken.calls] + [last]
    for mask, later in pairwise(masks):
        assert all(not bool((later[name] & ~mask[name]).any()) for name in mask)


def test_rewinding_trains_the_whole_network_first():
    model, shaken = network(), Shaken()
    cut = candidates(model, trace(model, samples()[0]))
    arguments = {"candidates": cut, "generator": generator(0)}
    started = IterativeMagnitude(rewind=3).prepare(model, **arguments, train=shaken)
    assert shaken.calls == [(model, cut.full(), 3)]
    assert started is shaken.made[0]
    assert IterativeMagnitude().prepare(model, **arguments) is model
    with pytest.raises(UsageError, match="trains between rounds"):
        IterativeMagnitude(rewind=3).prepare(model, **arguments)


def test_a_mask_that_keeps_too_little_is_refused():
    model = network()
    cut = candidates(model, trace(model, samples()[0]))
    small = Scores({n: torch.rand(s) for n, s in cut.shapes.items()}, cut).keep(0.2)
    with pytest.raises(UsageError, match=r"density 0.5 is above the 0\.\d+ that the mask"):
        prune(IterativeMagnitude(), 0.5, model=model, train=Shaken(), mask=small)


@pytest.mark.parametrize("pruner", [IterativeMagnitude(), PruneAndGrow()])
def test_without_training_they_say_what_to_take(pruner):
    with pytest.raises(UsageError, match=r"which is not possible here; take \w+"):
        prune(pruner, 0.5)


# --- edge-popup ---------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["weight", "unit"])
@pytest.mark.parametrize("competition", ["global", "layer"])
def test_a_step_goes_straight_through_the_choice(granularity, competition):
    """One step, by hand: ∂L/∂s = sign(s) Σ w ∂L/∂(w·m), whether an element was kept or not."""
    model, (x, y) = network(), samples()
    cut = candidates(model, trace(model, x), granularity, competition)
    draw = generator(0)
    scores = {
        n: start_scores(s, cut.element_shape(n), draw).double() for n, s in cut.shapes.items()
    }
    mask = chosen(scores, cut, cut.full(), 0.5)
    own = dict(model.named_parameters())
    multiplied = {n: (own[n].detach() * mask[n]).requires_grad_() for n in mask}
    loss = TaskLoss().values(model, x, y, params=multiplied).mean()
    slope = dict(zip(multiplied, torch.autograd.grad(loss, list(multiplied.values())), strict=True))
    moved = {}
    for name, score in scores.items():
        straight = slope[name] * own[name].detach()
        if granularity == "unit":
            straight = straight.sum(1)
        if name in cut.biases:
            straight += slope[cut.biases[name]] * own[cut.biases[name]].detach()
        moved[name] = score - 20.0 * score.sign() * straight
    expected = chosen(moved, cut, cut.full(), 0.5)
    pruner = EdgePopup(epochs=1, lr=20.0, momentum=0.0)
    found = prune(pruner, 0.5, granularity=granularity, competition=competition)
    assert found == expected
    assert found != mask


def test_batches_are_only_chunks_to_edge_popup():
    pruner = EdgePopup(epochs=3, batch_size=3)
    assert prune(pruner, 0.5, size=8) == prune(pruner, 0.5, size=1) == prune(pruner, 0.5, size=5)


def test_weights_are_drawn_anew_in_a_copy():
    model = network()
    before = copy.deepcopy(model.state_dict())
    cut = candidates(model, trace(model, samples()[0]))
    arguments = {"candidates": cut, "generator": generator(0)}
    assert EdgePopup().prepare(model, **arguments) is model
    signed = EdgePopup(weights="signed").prepare(model, **arguments)
    kaiming = EdgePopup(weights="kaiming").prepare(model, **arguments)
    for name, parameter in signed.named_parameters():
        other = kaiming.get_parameter(name)
        if parameter.dim() == 1:
            assert not bool(parameter.any() | other.any())
            continue
        size = sqrt(2 / parameter.shape[1])
        torch.testing.assert_close(parameter.abs(), torch.full_like(parameter, size))
        assert 0 < int((parameter > 0).sum()) < parameter.numel()
        assert 0.5 * sqrt(3) * size < float(other.detach().abs().max()) <= sqrt(3) * size
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_unit_keeps_its_value_better_than_by_chance():
    model, (x, y) = network(), samples()
    found = trace(model, x)
    objective = UnitActivation(UnitRef("4", 1), found)
    cut = candidates(model, found, target=objective.target)
    dense = objective.values(model, x, y).detach()

    def distance(mask):
        with masked(model, mask):
            return float((objective.values(model, x, y) - dense).square().mean().detach())

    learned = EdgePopup().prune(
        model, objective, [(x, y)], density=0.5, candidates=cut, generator=generator(0)
    )
    shapes = {name: cut.element_shape(name) for name in cut.shapes}
    draws = [
        Scores({n: torch.rand(s, generator=generator(seed)) for n, s in shapes.items()}, cut)
        for seed in range(20)
    ]
    assert distance(learned) < min(distance(draw.keep(0.5)) for draw in draws)


# --- prune and grow -----------------------------------------------------------------------------


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_the_smallest_go_and_others_come(grow):
    shaken = Shaken()
    last = prune(PruneAndGrow(rounds=4, rate=0.25, grow=grow), 0.4, train=shaken)
    masks = [mask for _, mask, _ in shaken.calls] + [last]
    assert {mask.kept for mask in masks} == {round(0.4 * last.total)}
    moved = last.kept - round(0.4 * 0.75 * last.total)
    for mask, later, trained in zip(masks, masks[1:], shaken.made, strict=False):
        gone = torch.cat([(mask[n] & ~later[n]).flatten() for n in mask])
        come = torch.cat([(later[n] & ~mask[n]).flatten() for n in mask])
        size = torch.cat([trained.get_parameter(n).detach().abs().flatten() for n in mask])
        stay = torch.cat([(mask[n] & later[n]).flatten() for n in mask])
        assert int(gone.sum()) == int(come.sum()) == moved
        assert float(size[gone].max()) < float(size[stay].min())


def test_the_network_goes_on_from_what_was_trained():
    model, shaken = network(), Shaken()
    prune(PruneAndGrow(rounds=3), 0.5, model=model, train=shaken)
    assert [call[0] for call in shaken.calls] == [model, *shaken.made[:-1]]


def test_what_stays_comes_before_what_is_enabled_and_what_just_went_comes_last():
    model = nn.Sequential(nn.Linear(5, 1, bias=False))
    cut = candidates(model, trace(model, torch.zeros(1, 5)))
    current = Mask({"0.weight": torch.tensor([[True, True, True, False, False]])})
    stay = Mask({"0.weight": torch.tensor([[True, False, False, False, False]])})
    worth = {"0.weight": torch.tensor([[0.0, 1e9, 5.0, 0.0, 3.0]])}
    ranked = exchange(worth, current, stay, cut)
    order = ranked.values["0.weight"][0].argsort(descending=True)
    assert order.tolist() == [0, 4, 3, 1, 2]


def test_slopes_of_removed_weights_are_those_of_the_masked_network():
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    x, y = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    cut = candidates(model, trace(model, x))
    mask = Mask({"0.weight": torch.tensor([[True, False, True], [False, True, True]])})
    found = slopes(model, TaskLoss("regression"), [(x[:4], y[:4]), (x[4:], y[4:])], mask, cut)
    kept = model[0].weight.detach() * mask["0.weight"]
    expected = (x @ kept.T - y).T @ x  # the sum over samples of the mean over two outputs
    torch.testing.assert_close(found["0.weight"], expected.abs())


# --- on real digits -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    registry = Registry.discover()
    data = registry.create("dataset", "digits").instance.load()
    with seeded(0, "init"):
        model = registry.create("model", "mlp:init=he").instance.build(data.input_shape, 10).eval()
    return data, model


def accuracy(model, data):
    return evaluate(model, data.test, data.task, CPU)[1]


def test_edge_popup_finds_a_network_in_one_that_never_trained(digits):
    data, model = digits
    cut = candidates(model, trace(model, data.train.x[:1]))
    pruner, draw = EdgePopup(weights="signed"), generator(0, "edge-popup")
    drawn = pruner.prepare(model, candidates=cut, generator=draw)
    batches, untouched = list(data.train.batches(256)), copy.deepcopy(drawn.state_dict())
    mask = pruner.prune(drawn, TaskLoss(), batches, density=0.5, candidates=cut, generator=draw)
    assert all(torch.equal(value, untouched[name]) for name, value in drawn.state_dict().items())
    assert mask.density == pytest.approx(0.5, abs=1e-3)
    assert accuracy(drawn, data) < 0.3
    with masked(drawn, mask):
        assert accuracy(drawn, data) >= 0.92


def test_a_ticket_learns_where_a_random_mask_does_not(digits):
    data, model = digits
    cut = candidates(model, trace(model, data.train.x[:1]))

    def trained(network, mask, *, epochs=None):
        network = copy.deepcopy(network)
        config = TrainingConfig(lr=2e-3)
        train(network, data, config, epochs or 30, seed=0, device=CPU, mask=mask)
        return network

    pruner, draw = IterativeMagnitude(rate=0.35, rewind=2), generator(0)
    early = pruner.prepare(model, candidates=cut, generator=draw, train=trained)
    ticket = pruner.prune(
        early, TaskLoss(), [], density=0.07, candidates=cut, generator=draw, train=trained
    )
    shapes = {name: cut.element_shape(name) for name in cut.shapes}
    chance = Scores({n: torch.rand(s, generator=draw) for n, s in shapes.items()}, cut).keep(0.07)
    assert accuracy(trained(early, ticket), data) >= 0.95
    assert accuracy(trained(early, chance), data) <= 0.8
