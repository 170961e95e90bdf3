"""The toy of superposition: its data, its network, its penalty, and what training makes of it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.objectives import task_loss
from polykit.runtime.seeds import seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import evaluate, train
from polykit_builtins.datasets.toy_superposition import ToySuperposition as ToyData
from polykit_builtins.metrics.attribution import response_matrix
from polykit_builtins.metrics.monosemanticity import monosemanticity
from polykit_builtins.models.toy_superposition import ToySuperposition as ToyNet

CPU = torch.device("cpu")
SMALL = {"features": 12, "inputs": 4, "samples": 4096}


def build(seed=0, outputs=12, inputs=4, **options):
    with seeded(seed, "toy"):
        return ToyNet(**options).build((inputs,), outputs)


@given(
    features=st.integers(2, 20),
    inputs=st.integers(1, 20),
    power=st.sampled_from([0.0, 1.1]),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_the_data_are_what_the_formula_says(features, inputs, power, seed):
    inputs = min(inputs, features)
    plugin = ToyData(
        features=features, inputs=inputs, power=power, seed=seed, frequency=0.1, samples=4096
    )
    data = plugin.load()
    E, p = data.truth["embedding"], data.truth["frequencies"]
    torch.testing.assert_close(E.norm(dim=0), torch.ones(features))
    v = data.train.y
    torch.testing.assert_close(data.train.x, v @ E.T)
    assert float(v.min()) >= 0
    assert float(v.max()) < 1
    assert bool(((v > 0).double().mean(0) - p).abs().lt(0.04).all())
    present = v[v > 0]
    assert float(present.mean()) == pytest.approx(0.5, abs=0.05)
    if power and float(p[0]) < 1:
        ratios = p[0] / p
        torch.testing.assert_close(ratios, torch.arange(1, features + 1).float() ** 1.1)
    else:
        assert float(p.double().mean()) <= 0.1 + 1e-6
    torch.testing.assert_close(data.features.encode(v[:5]), data.train.x[:5])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4096, 512, 512]
    assert not torch.equal(data.test.y, data.validation.y)


def test_silence_costs_what_the_card_says():
    data = ToyData(**SMALL, frequency=0.2).load()
    facts = {fact.name: fact.value for fact in data.card()}
    assert facts["active_features"] == pytest.approx(0.2 * 12)
    silent = build()
    nn.init.zeros_(silent.output.weight)
    loss, _ = evaluate(silent, data.train, "regression", CPU)
    assert facts["silent_loss"] == pytest.approx(loss, rel=0.05)


def test_the_network_is_two_linear_maps_and_one_bias():
    network = build(initial_bias=-1.0, hidden=7)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert shapes == {"hidden.weight": (7, 4), "hidden.bias": (7,), "output.weight": (12, 7)}
    plain = build(hidden=7)
    torch.testing.assert_close(network.hidden.bias, plain.hidden.bias - 1)
    assert torch.equal(network.output.weight, plain.output.weight)
    again = copy.deepcopy(network)
    ToyNet(initial_bias=-1.0, hidden=7).redraw(again)
    assert float(again.hidden.bias.detach().max()) < -0.4
    with pytest.raises(ModelError, match="takes vectors"):
        ToyNet().build((1, 8, 8), 10)


def test_the_penalty_is_the_gradient_of_its_formula():
    """l1 · Σ h / batch beside the error summed over outputs: both over N, as losses are means."""
    x, y = torch.randn(9, 4), torch.rand(9, 12)
    network, bare = build(l1=0.3), build()
    bare.load_state_dict(network.state_dict())
    h = torch.relu(bare.hidden(x))
    whole = (bare.output(h) - y).square().sum() / 9 + 0.3 * h.sum() / 9
    expected = torch.autograd.grad(whole / 12, list(bare.parameters()))
    seen = task_loss(network.train()(x), y, "regression", "mean")
    found = torch.autograd.grad(seen, list(network.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    network.eval()
    plain = torch.autograd.grad(
        task_loss(network(x), y, "regression", "mean"), list(network.parameters())
    )
    assert not torch.allclose(plain[0], found[0])
    torch.testing.assert_close(seen, task_loss(network(x), y, "regression", "mean"))


@pytest.mark.parametrize("l1", [0.0, 0.2])
def test_many_networks_train_together_as_alone(l1):
    data = ToyData(**SMALL).load()
    config = TrainingConfig(
        optimizer="lamb", lr=0.03, cosine_steps=4, bias_decay=0.9, batch_size=512
    )
    jobs = [Job(build(seed, hidden=6, l1=l1), data, seed) for seed in range(3)]
    alone = [copy.deepcopy(job.model) for job in jobs]
    train_together(jobs, config, 1, device=CPU)
    for job, model in zip(jobs, alone, strict=True):
        train(model, data, config, 1, seed=job.seed, device=CPU)
        for name, value in model.named_parameters():
            torch.testing.assert_close(job.model.get_parameter(name), value, rtol=1e-4, atol=1e-6)


def test_a_hand_made_network_is_wholly_monosemantic():
    """N = m: each unit reads one feature and writes it back."""
    data = ToyData(features=4, inputs=4, samples=64, frequency=0.5).load()
    network = build(outputs=4, hidden=4)
    E = data.truth["embedding"]
    with torch.no_grad():
        network.hidden.weight.copy_(E.T)
        network.hidden.bias.zero_()
        network.output.weight.copy_(torch.eye(4))
    H = response_matrix(network, data.features.encode, 4)
    assert bool((monosemanticity(H)["monosemanticity"] > 0.999).all())
    loss, _ = evaluate(network, data.test, "regression", CPU)
    assert loss < 1e-10


def test_bad_options_are_named():
    registry = Registry.discover()
    with pytest.raises(UsageError, match="need no 16 inputs"):
        registry.create("dataset", "toy-superposition:features=8")
    with pytest.raises(UsageError, match="frequency"):
        registry.create("dataset", "toy-superposition:frequency=0")
    with pytest.raises(UsageError, match="hidden"):
        registry.create("model", "toy-superposition-net:hidden=0")
    assert isinstance(registry.create("model", "toy-superposition-net").instance, ToyNet)
    assert isinstance(build(l1=0.1).penalty, nn.Identity)
