"""Networks run together give what each gives alone, and the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polykit.runtime.seeds import seeded
from polykit.runtime.training.dropout import Noise
from polykit.runtime.training.stacked import stacked

MEMBERS, ROWS = 3, 5


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.a(x) + torch.tanh(self.b(x))


NETWORKS = {
    "chain": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2)),
    "one layer": lambda: nn.Linear(4, 3),
    "flattened": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3)),
    "positions": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.GELU()),
    "pictures": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.MaxPool2d(2), nn.Flatten(2)
    ),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), nn.Linear(3, 2)),
    "branches": Branches,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_each_network_alone(name):
    with seeded(0, "test"):
        members = [NETWORKS[name]().double() for _ in range(MEMBERS)]
        x = torch.randn(MEMBERS, ROWS, 4, dtype=torch.double)
        weights = torch.randn(MEMBERS, *members[0](x[0]).shape, dtype=torch.double)
    joined = {
        own: torch.stack([member.get_parameter(own).detach() for member in members])
        for own, _ in members[0].named_parameters()
    }
    for parameter in joined.values():
        parameter.requires_grad_()
    together, alone = x.clone().requires_grad_(), x.clone().requires_grad_()

    found = stacked(members[0])(joined, together)
    (found * weights).sum().backward()
    expected = torch.stack([member(rows) for member, rows in zip(members, alone, strict=True)])
    (expected * weights).sum().backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(together.grad, alone.grad)
    for own, parameter in joined.items():
        gradients = torch.stack([member.get_parameter(own).grad for member in members])
        torch.testing.assert_close(parameter.grad, gradients)


def test_noise_keeps_and_scales_in_training_only():
    noise = Noise(0.2)
    noise.kept = torch.tensor([[True, False]])
    x = torch.tensor([[4.0, 4.0]])
    assert noise(x).tolist() == [[5.0, 0.0]]
    assert noise.eval()(x) is x
