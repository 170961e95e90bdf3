"""Pruning trajectories: every step's mask and evaluation against the naive loop."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polykit.errors import DataError, ModelError, UsageError
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning import trajectory
from polykit.runtime.pruning.masking import apply_mask, candidates
from polykit.runtime.pruning.trajectory import Trajectory, doubts, evaluate_steps, removal
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import seeded
from polykit.runtime.training.loop import evaluate
from polykit.testing import unchanged
from polykit.types import Candidates, Scores, UnitRef

CPU = torch.device("cpu")


def convnet():
    with seeded(0, "trajectory"):
        layers = [nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)]
        return nn.Sequential(*layers)


def split(samples=50, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, 6, 6, generator=draw)
    return TensorSplit(x, torch.randint(3, (samples,), generator=draw))


def magnitudes(model, granularity="weight", competition="layer", target=None):
    found = trace(model, split().x)
    cut = candidates(model, found, granularity, competition, target=target)
    own = dict(model.named_parameters())
    return Scores({n: cut.reduce(n, own[n].detach().abs()) for n in cut.shapes}, cut), found


@pytest.mark.parametrize("way", ["one by one", "together", "two at a time"])
@pytest.mark.parametrize("granularity", ["weight", "kernel", "unit"])
@pytest.mark.parametrize("competition", ["layer", "global"])
def test_every_step_equals_copy_prune_evaluate(way, granularity, competition, monkeypatch):
    model = convnet()
    model(split(40, 1).x)  # running statistics of its own
    scores, found = magnitudes(model, granularity, competition)
    when = removal(scores, 0.06)
    if way == "two at a time":
        monkeypatch.setattr(trajectory, "TOGETHER", 2 * sum(map(torch.numel, model.parameters())))
    flops = None if way == "one by one" else 1.0
    with unchanged(model):
        result = evaluate_steps(
            model, split(), "classification", when, device=CPU, flops=flops, batch_size=16
        )
    assert found.flops > 0
    assert len(result.loss) == when.last + 1 == 18
    for step in range(when.last + 1):
        pruned, mask = copy.deepcopy(model), when.mask(step)
        apply_mask(pruned, mask)
        loss, accuracy = evaluate(pruned, split(), "classification", CPU, 16)
        assert float(result.loss[step]) == pytest.approx(loss, rel=1e-6)
        assert float(result.accuracy[step]) == accuracy
        assert int(result.kept[step]) == mask.kept
        assert result.total == mask.total
        if way == "one by one":
            assert float(result.loss[step]) == loss  # to the bit


def test_small_networks_run_many_steps_together(monkeypatch):
    called = []
    monkeypatch.setattr(
        trajectory,
        "_in_chunks",
        lambda *a: called.append("together") or iter([torch.zeros(9, 3)] * 3),
    )
    scores, found = magnitudes(convnet())
    when = removal(scores, 0.5)
    part = split(9)
    for flops in (found.flops, trajectory.SMALL):
        evaluate_steps(convnet(), part, "classification", when, device=CPU, flops=flops)
    assert called == ["together"]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.02, 0.03, 0.1, 0.3, 1.0]),
    st.sampled_from(["layer", "global"]),
    st.booleans(),
)
def test_masks_are_those_of_the_densities(seed, step, competition, ties):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 5), "b": (11,), "c": (1, 2)}
    part = {"a": torch.rand(7, 5, generator=draw) < 0.7}
    cut = Candidates(shapes, competition=competition, eligible=part)
    values = {n: torch.rand(s, generator=draw) for n, s in shapes.items()}
    if ties:
        values = {n: (3 * v).round() for n, v in values.items()}
    scores = Scores(values, cut)
    when = removal(scores, step)
    totals = [sum(int(cut.eligible_elements(n).sum()) for n in g) for g in cut.groups]
    for number in range(when.last):
        density = 1 - number * step
        if all(round(density * total) for total in totals):  # `keep` never empties a group
            assert when.mask(number) == scores.keep(density)
    assert when.mask(when.last).kept == 0
    assert bool(when.mask(when.last)["a"][~part["a"]].all())
    kept = [when.mask(number).kept for number in range(when.last + 1)]
    assert when.kept().tolist() == kept


def test_a_unit_takes_its_bias_along_and_what_may_not_go_stays():
    model = convnet()
    scores, _ = magnitudes(model, "unit", "global", UnitRef("3", 2))
    result = evaluate_steps(model, split(), "classification", removal(scores, 0.5), device=CPU)
    gone = copy.deepcopy(model)
    with torch.no_grad():
        gone[0].weight.zero_()
        gone[0].bias.zero_()
        gone[3].weight[2] = 0
        gone[3].bias[2] = 0
    assert float(result.loss[-1]) == evaluate(gone, split(), "classification", CPU)[0]


def test_regression_has_a_loss_only():
    model = convnet()
    data = TensorSplit(split().x, torch.randn(50, 3))
    result = evaluate_steps(
        model, data, "regression", removal(magnitudes(model)[0], 0.5), device=CPU
    )
    assert result.accuracy is None
    assert float(result.loss[0]) == evaluate(model, data, "regression", CPU)[0]
    with pytest.raises(UsageError, match="no accuracy to drop"):
        result.effective_density(drop=0.05)
    assert doubts(result, data.y, "abc", drop=None, rise=100.0) == [
        "loss never rose by more than 100, not even with all weights removed: no effective density"
    ]


def test_a_broken_network_is_an_error():
    model = convnet()
    when = removal(magnitudes(model)[0], 0.5)
    with torch.no_grad():
        model[7].bias[0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        evaluate_steps(model, split(), "classification", when, device=CPU)


@pytest.mark.parametrize("step", [0, -0.1, 1.5])
def test_steps_out_of_bounds_are_refused(step):
    scores, _ = magnitudes(convnet())
    with pytest.raises(UsageError, match="outside"):
        removal(scores, step)
    with pytest.raises(UsageError, match="there is no step 3"):
        removal(scores, 0.5).mask(3)


def path(accuracy, loss=None, kept=None):
    count = len(accuracy)
    return Trajectory(
        torch.tensor(kept or list(range(count - 1, -1, -1))),
        count - 1,
        torch.tensor(loss or [0.0] * count, dtype=torch.double),
        torch.tensor(accuracy, dtype=torch.double),
    )


def test_the_first_step_beyond_the_threshold_counts():
    found = path([0.95, 0.90, 0.97, 0.899, 0.95, 0.1], [0.2, 0.3, 0.25, 0.4, 0.2, 2.3])
    assert found.effective_density(drop=0.05) == 0.4  # 0.90 is five points less, not more
    assert found.effective_density(drop=0.0) == 0.8
    assert found.effective_density(rise=0.15) == 0.4
    assert found.effective_step(rise=5.0) is None
    assert found.effective_density(rise=5.0) is None
    assert path([0.9, 0.8], [0.1, float("nan")]).effective_step(rise=9.0) == 1
    for both in ({}, {"drop": 0.1, "rise": 0.1}):
        with pytest.raises(UsageError, match="give either"):
            found.effective_step(**both)


def test_what_makes_the_number_doubtful_is_said():
    targets = torch.tensor([0, 0, 2, 2, 2])
    said = doubts(path([0.6, 0.6, 0.6]), targets, ("a", "b", "c", "d"), drop=0.05, rise=None)
    assert said[0].startswith("no validation sample of class b, d")
    assert "0.600, at chance (0.600" in said[1]
    assert said[2].startswith("accuracy never fell by more than 0.05")
    assert doubts(path([0.9, 0.2]), torch.arange(4), "abcd", drop=0.05, rise=None) == []
    (said,) = doubts(path([0.9, 0.1]), torch.arange(4), "abcd", drop=0.75, rise=None)
    assert "0.900, and chance 0.250" in said
    assert "no more to lose than the threshold of 0.75" in said
    with pytest.raises(DataError, match="no sample"):
        doubts(path([0.9, 0.2]), targets[:0], "abcd", drop=0.05, rise=None)
