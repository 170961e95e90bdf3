"""The perceptron's start as PyTorch draws it."""

from __future__ import annotations

import torch
from torch import nn

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
