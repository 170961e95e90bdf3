"""LAMB, rates along a cosine and decaying biases: by hand, resumed, and many networks at once."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.lamb import Lamb
from polykit.runtime.training.loop import train
from polykit.runtime.training.pace import rate

from .test_ensemble import AN_EPOCH, CPU, Job, chain, gap, world


def by_hand(value, slopes, lr, decay):
    """Algorithm 2 in plain arithmetic, one tensor."""
    mean = square = torch.zeros_like(value)
    for slope in slopes:
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        way = mean / (square**0.5 + 1e-6) + decay * value
        length, size = min(float(value.norm()), 10.0), float(way.norm())
        value = value - lr * (length / size if length and size else 1.0) * way
    return value


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 0.1, 30.0]))
@settings(max_examples=15, deadline=None)
def test_lamb_equals_its_algorithm_alone_and_stacked(seed, scale):
    random = torch.Generator().manual_seed(seed)
    start = scale * torch.randn(2, 3, 4, generator=random, dtype=torch.double)
    slopes = torch.randn(5, 2, 3, 4, generator=random, dtype=torch.double)
    whole = start.clone().requires_grad_()
    alone = start[1].clone().requires_grad_()
    stacked = Lamb([whole], 0.05, 0.01, stacked=True)
    single = Lamb([alone], 0.05, 0.01)
    for slope in slopes:
        whole.grad, alone.grad = slope, slope[1]
        stacked.step()
        single.step()
    for member in range(2):
        expected = by_hand(start[member], slopes[:, member], 0.05, 0.01)
        torch.testing.assert_close(whole[member].detach(), expected)
    torch.testing.assert_close(alone.detach(), whole[1].detach())


def test_the_rate_is_pytorchs():
    config = TrainingConfig(lr=0.3, cosine_steps=8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for step in range(30):
        assert rate(config, step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_biases_decay_in_the_first_half_only():
    """Ten steps an epoch and a gradient of nought: what moves is the decay alone."""
    data, config = (
        world(0, n=120),
        TrainingConfig(optimizer="sgd", bias_decay=0.5, lr=0.1, batch_size=10),
    )
    model = chain(0)
    before = copy.deepcopy(model)
    train(model, data, config, 3, seed=0, device=CPU, loss=lambda m, x, y: 0 * m(x).sum())
    for name, value in before.named_parameters():
        factor = 0.95**15 if name.endswith("bias") else 1.0
        torch.testing.assert_close(model.get_parameter(name), factor * value)


CONFIG = TrainingConfig(
    optimizer="lamb", lr=0.03, cosine_steps=7, bias_decay=0.9, batch_size=16, weight_decay=0.01
)


def test_together_equals_alone():
    jobs = [Job(chain(seed), world(0), seed) for seed in range(3)]
    assert gap(jobs, CONFIG)[2] <= 4 * AN_EPOCH
    other = [Job(chain(seed, widths=(8, 5 + seed)), world(0), seed) for seed in range(2)]
    assert gap(other, CONFIG)[2] <= 4 * AN_EPOCH


def test_an_interrupted_training_goes_on_at_its_rate(tmp_path, monkeypatch):
    monkeypatch.setattr("polykit.runtime.training.loop.CHECKPOINT_SECONDS", -1.0)
    data, whole = world(0), chain(0)
    train(whole, data, CONFIG, 4, seed=0, device=CPU)

    class Stop(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 3:
            raise Stop

    path = tmp_path / "state"
    with pytest.raises(Stop):
        train(chain(0), data, CONFIG, 4, seed=0, device=CPU, checkpoint=path, on_epoch=stop)
    assert path.exists()
    again = chain(0)
    train(again, data, CONFIG, 4, seed=0, device=CPU, checkpoint=path)
    for name, value in whole.named_parameters():
        assert torch.equal(value, again.get_parameter(name))


def test_a_decay_that_turns_biases_round_is_refused():
    with pytest.raises(ValidationError, match="above 1"):
        TrainingConfig(lr=2.0, bias_decay=0.96)
