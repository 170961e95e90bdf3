"""The perceptron's start as PyTorch draws it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polykit.api import Model
from polykit.errors import ModelError
from polykit_builtins.models.mlp import Mlp


def test_torch_leaves_weights_and_biases_as_pytorch_draws_them() -> None:
    torch.manual_seed(3)
    model = Mlp(widths=(20, 10), init="torch").build((7,), 4)
    torch.manual_seed(3)
    layers = [nn.Linear(7, 20), nn.Linear(20, 10), nn.Linear(10, 4)]
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer, expected in zip(found, layers, strict=True):
        assert torch.equal(layer.weight, expected.weight)
        assert torch.equal(layer.bias, expected.bias)
        assert bool(layer.bias.any())


@pytest.mark.parametrize("init", ["glorot", "he", "torch"])
def test_redrawn_is_as_if_built_at_these_widths(init):
    narrow, wide = Mlp(widths=(5, 4), init=init), Mlp(widths=(64, 32), init=init)
    torch.manual_seed(3)
    expected = narrow.build((3,), 2)
    torch.manual_seed(3)
    network = narrow.build((3,), 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    torch.manual_seed(3)
    wide.redraw(network)  # the network's own widths count, not the plugin's
    for found, drawn in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, drawn)


def test_what_cannot_be_drawn_anew_is_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    class Plain(Model):
        """A model without a redraw of its own."""

        def build(self, input_shape, outputs):
            return nn.Sequential(nn.Linear(2, 2), Scaled())

    network = Plain().build((2,), 2)
    with pytest.raises(ModelError, match=r"1 \(Scaled\) cannot be drawn anew"):
        Plain().redraw(network)
    before = network[0].weight.clone()
    Plain().redraw(network[:1])
    assert not torch.equal(network[0].weight, before)
