"""Similarity in one pass, against the whole matrices and against scikit-learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from torch import nn

from polykit.errors import ModelError
from polykit.runtime.pairs.paths import barrier, between, holding, renew_statistics
from polykit.runtime.pairs.similarity import similarity
from polykit.runtime.passes.trace import trace
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import seeded

CPU = torch.device("cpu")


def made(seed, width=6, outputs=3):
    with seeded(seed, "test"):
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, outputs)
        )


def inputs(n=40, seed=0):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def known(model, x):
    return model, trace(model, x)


def chunks(x, size):
    return [(part, torch.zeros(len(part))) for part in x.split(size)]


def brute_cka(x, y):
    """HSIC of the centred N×N Gram matrices, in float64."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = (centre @ (v @ v.T) @ centre for v in (x, y))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def features(model, x):
    """Each layer's units behind the nonlinearity, one value per sample."""
    with torch.no_grad():
        maps = torch.relu(model[0](x)).double().mean((2, 3)).numpy()
        return maps, model(x).double().numpy()


@given(seed=st.integers(0, 500), size=st.integers(1, 40))
@settings(max_examples=8, deadline=None)
def test_cka_agreement_and_correlation_equal_brute_force_in_chunks_of_any_size(seed, size):
    a, b, x = made(seed), made(seed + 1, width=4), inputs(seed=seed) + 3
    found = similarity(known(a, x), known(b, x), chunks(x, size), CPU, classes=True)
    ours, theirs = features(a, x), features(b, x)
    for i, left in enumerate(ours):
        for j, right in enumerate(theirs):
            assert float(found.cka[i, j]) == pytest.approx(brute_cka(left, right), abs=1e-6)
    said = [out[-1].argmax(1) for out in (ours, theirs)]
    assert found.agreement.share == pytest.approx(float((said[0] == said[1]).mean()))
    if found.agreement.kappa is not None:
        assert found.agreement.kappa == pytest.approx(cohen_kappa_score(*said), abs=1e-9)
    left, right = (out[-1] - out[-1].mean(0) for out in (ours, theirs))
    expected = (left * right).sum() / np.sqrt((left**2).sum() * (right**2).sum())
    assert found.correlation == pytest.approx(expected, abs=1e-6)


def test_cka_does_not_see_scale_and_is_low_for_what_is_unrelated():
    a, x = made(0), inputs(4000)
    louder = copy.deepcopy(a)
    with torch.no_grad():
        louder[0].weight.mul_(3)
        louder[0].bias.mul_(3)
    found = similarity(known(a, x), known(louder, x), chunks(x, 500), CPU, classes=False)
    assert float(found.cka[0, 0]) == pytest.approx(1, abs=1e-9)
    assert found.agreement is None
    noise = [torch.randn(4000, 2, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    assert brute_cka(noise[0][:500].numpy(), noise[1][:500].numpy()) < 0.05


def test_what_never_changes_is_no_number():
    a, x = made(0), inputs(10)
    dead = copy.deepcopy(a)
    with torch.no_grad():
        dead[0].bias.fill_(-100)
    found = similarity(known(a, x), known(dead, x), chunks(x, 4), CPU, classes=True)
    assert bool(torch.isnan(found.cka[0, 0]))
    assert found.correlation is None
    constant = similarity(known(dead, x), known(dead, x), chunks(x, 4), CPU, classes=True)
    assert constant.agreement.share == constant.agreement.chance == 1
    assert constant.agreement.kappa is None


def test_outputs_that_differ_in_number_and_nan_are_refused():
    x, broken = inputs(8), made(0)
    with pytest.raises(ModelError, match="3 and 2 outputs"):
        similarity(known(made(0), x), known(made(1, outputs=2), x), chunks(x, 8), CPU, classes=True)
    pair = known(made(0), x), known(broken, x)
    with torch.no_grad():
        broken[0].weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        similarity(*pair, chunks(x, 8), CPU, classes=True)


def test_a_parabola_has_the_barrier_of_its_top():
    t = torch.linspace(0, 1, 11).tolist()
    hill = [2 + q + 4 * 0.7 * q * (1 - q) for q in t]
    assert barrier(t, hill) == pytest.approx(0.7)
    assert barrier(t, [-v for v in hill], falls=True) == pytest.approx(0.7)
    assert barrier(t, [-v for v in hill]) == 0
    assert barrier([0, 1], [3.0, 5.0]) == 0


def test_the_ends_of_the_line_are_the_networks_and_counters_stay():
    a, b = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    b[1].num_batches_tracked += 5
    assert between(a.state_dict(), b.state_dict(), 0.5)["1.num_batches_tracked"] == 0
    for t, end in ((0.0, a), (1.0, b)):
        state = between(a.state_dict(), b.state_dict(), t)
        assert all(torch.equal(state[n], p) for n, p in end.named_parameters())
    with holding(a, b.state_dict()), torch.no_grad():
        assert torch.equal(a[0].weight, b[0].weight)
    assert not torch.equal(a[0].weight, b[0].weight)


def test_running_statistics_are_those_of_the_training_samples():
    with seeded(0, "norm"):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2))
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    split = TensorSplit(x, torch.zeros(200))
    renew_statistics(model, split, CPU)
    with torch.no_grad():
        values = model[0](x)
    torch.testing.assert_close(model[1].running_mean, values.mean(0))
    torch.testing.assert_close(model[1].running_var, values.var(0))
    assert model[1].momentum == 0.1
    assert not model.training
