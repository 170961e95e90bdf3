"""The numbers behind the plugins, checked against the formulas and against scipy."""

from __future__ import annotations

import pytest
import torch
from polykit_example.kurtosis import Kurtosis
from polykit_example.wanda import Wanda
from polykit_example.wine import Wine
from scipy.stats import kurtosis
from torch import nn

from polykit.runtime.measuring import measure_all
from polykit.runtime.objectives import TaskLoss
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.types import Mask, Subject


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)]
    return nn.Sequential(*layers).eval()


def scores(network, x, granularity="weight", mask=None):
    possible = candidates(network, trace(network, x), granularity)
    return Wanda().scores(
        network,
        TaskLoss(),
        [(x[:3], None), (x[3:], None)],
        candidates=possible,
        mask=possible.full() if mask is None else mask,
        generator=torch.Generator(),
    )


def test_wanda_is_weight_times_norm_of_its_input(network):
    x = torch.randn(8, 2, 5, 5)
    found = scores(network, x).values
    first, last = network[0].weight, network[3].weight
    channel = torch.stack([x[:, group].norm() for group in (0, 0, 1, 1)])  # two outputs a group
    expected = first.abs() * channel.view(4, 1, 1, 1)
    torch.testing.assert_close(found["0.weight"].float(), expected.detach())
    inner = network[:3](x)
    torch.testing.assert_close(found["3.weight"].float(), (last.abs() * inner.norm(dim=0)).detach())


def test_wanda_sees_the_masked_network(network):
    x = torch.randn(8, 2, 5, 5)
    keep = {"0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.bool)}
    keep["3.weight"] = torch.ones(3, 36, dtype=torch.bool)
    network[0].bias.data.fill_(-1)  # behind a removed layer nothing fires
    assert float(scores(network, x, mask=Mask(keep)).values["3.weight"].abs().max()) == 0


def test_wanda_of_a_shared_layer_adds_up_its_calls():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4, bias=False)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(8, 4)
    both = torch.cat([x, network[:2](x)]).norm(dim=0)
    expected = (shared.weight.abs() * both).detach()
    torch.testing.assert_close(scores(network, x).values["0.weight"].float(), expected)


@pytest.mark.parametrize("at", ["pre", "post"])
def test_kurtosis_is_that_of_scipy(at):
    data = Wine().load()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(13, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    network[0].weight.data[0] = 0
    network[0].bias.data[0] = 3.3
    x, device = data.test.x, torch.device("cpu")
    subject = Subject(network, trace(network, x), ("0",), data, device, 5, lambda *_: None)
    (measurement,) = measure_all([Kurtosis(at=at)], subject)
    values = network[0](x) if at == "pre" else network[:2](x)
    expected = kurtosis(values[:, 1:].double().detach().numpy())
    first, *others = measurement.units["kurtosis"]
    assert (first, others) == (0, pytest.approx(expected, rel=1e-6))
    assert measurement.units["constant"].tolist() == [1, 0, 0, 0, 0, 0]
    assert measurement.summary["kurtosis_varying"] == pytest.approx(expected.mean())


def test_wine_is_standardised_on_its_training_part():
    data = Wine().load()
    x = data.train.x
    assert x.mean(dim=0).abs().max() < 1e-5
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(13))
    assert data.classes == ("class_0", "class_1", "class_2")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [107, 35, 36]
    assert Wine(split_seed=1).load().train.x.tolist() != x.tolist()
