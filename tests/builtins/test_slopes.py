"""Directional derivatives equal those of torch's own forward mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import jvp

from polykit_builtins.metrics import slopes as module
from polykit_builtins.metrics.slopes import slopes

NETWORKS = {
    "mlp": nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.Tanh()),
    "pictures": nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2, padding=1, bias=False), nn.GELU()
    ),
    "grouped": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 4, 1, groups=2), nn.ReLU()),
    "norm": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_slopes_equal_forward_mode(name):
    model = NETWORKS[name].double()
    draw = torch.Generator().manual_seed(0)
    points, direction = torch.randn(2, 6, 4, dtype=torch.double, generator=draw)
    (found,) = slopes(lambda x: (model(x),), points, direction)
    torch.testing.assert_close(found, jvp(model, (points,), (direction,))[1])
    assert found.abs().max() > 0


def test_what_does_not_depend_on_the_input_has_no_slope():
    constant, linear = nn.Linear(2, 1)(torch.ones(1, 2)), nn.Linear(2, 1, bias=False)
    ones = torch.ones(1, 2)
    found = slopes(lambda x: (constant, linear(ones), linear(x)), ones, ones)
    assert [slope.item() for slope in found[:2]] == [0.0, 0.0]
    assert found[2].item() == pytest.approx(linear.weight.sum().item())


def test_weights_are_left_out_of_the_product(monkeypatch):
    used = []
    real = module._Affine.jvp
    monkeypatch.setattr(
        module._Affine, "jvp", staticmethod(lambda *args: used.append(1) or real(*args))
    )
    slopes(lambda x: (NETWORKS["mlp"].double()(x),), *torch.ones(2, 1, 4, dtype=torch.double))
    assert len(used) == 2
