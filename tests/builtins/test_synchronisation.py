"""Free directions of chains of linear layers and ReLUs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from polykit.errors import ModelError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.splits import TensorSplit
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Measurement
from polykit_builtins.metrics.synchronisation import Synchronisation


def measured(model: nn.Module, x: Tensor, **options: float) -> Measurement:
    data = replace(
        datasets()["truth"], test=TensorSplit(x, torch.zeros(len(x))), input_shape=x.shape[1:]
    )
    found = subject(Registry.discover(), model, data, batch_size=33)
    return measure_all([Synchronisation(**options)], found)[0]


def inputs(n: int = 300, width: int = 3) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(2)).clamp(-3, 3)


def network(*widths: int, bias: bool = True, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def rank(model: nn.Module, x: Tensor) -> int:
    """The rank of the behavioral loss's Hessian: of all samples' slopes along the weights."""
    model = model.double()
    params = {name: tensor.detach() for name, tensor in model.named_parameters()}
    of_one = lambda p, x: functional_call(model, p, (x[None],))[0]  # noqa: E731
    slopes = vmap(jacrev(of_one), (None, 0))(params, x.double())
    stacked = torch.cat([slope.flatten(2) for slope in slopes.values()], dim=2).flatten(0, 1)
    return int(torch.linalg.matrix_rank(stacked, rtol=1e-10))


def test_a_hand_built_network() -> None:
    """Three units that always fire, one with its double, one that fires otherwise, one dead."""
    model = network(3, 7, 4)
    weight, bias = model[0].weight.data, model[0].bias.data
    bias.zero_()
    bias[:3] = 20
    weight[4], weight[5] = -weight[3], 2 * weight[3]
    bias[6] = -20
    result = measured(model, inputs())
    first, second = result.layers["0"], result.layers["2"]
    assert first == {
        "parameters": 28,
        "free_activations": 0,
        "free_jacobians": 4,  # the dead unit's weights and bias
        "free_rescaling": 3 + 1 + 1,  # the one and its double are one independent unit
        "free_synchronised": 6,
        "free_shift": 3,
        "free": 18,
        "effective_parameters": 10,
        "blocks": 3,
        "synchronised": 5 / 6,
    }
    # of (1, f) three units are affine in x, one more is not, its double and its mirror image add
    # nothing, and the dead one is 0
    assert second["free_activations"] == (8 - 5) * 4
    assert second["free_jacobians"] == second["free_rescaling"] == 0
    assert result.summary["free"] == first["free"] + second["free"]
    assert result.summary["synchronised"] == first["synchronised"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("bias", "always"), [(False, 0), (True, 0), (True, 1), (True, 2), (True, 3)]
)
def test_what_is_left_is_the_rank_of_the_hessian(seed: int, bias: bool, always: int) -> None:
    """Where nothing but rescaling, mixing and shifting is free; without biases, rescaling alone."""
    model, x = network(3, 5, 4, bias=bias, seed=seed), inputs()
    if bias:
        model[0].bias.data[:always] = 20
        model[0].bias.data[always:].mul_(0.1)
    result = measured(model, x)
    assert result.summary["effective_parameters"] == rank(model, x)


def test_affine_maps_in_a_row_are_one_affine_map() -> None:
    model, x = network(3, 3, 3), inputs()
    model[0].bias.data[:] = 20
    values = measured(model, x).summary
    assert (values["parameters"], values["effective_parameters"]) == (24, 12)
    assert rank(model, x) == 12


def test_tolerance_joins_units_that_nearly_fire_together() -> None:
    model, x = network(3, 4, 4), inputs()
    model[0].bias.data.zero_()
    model[0].weight.data[1] = model[0].weight.data[0] + torch.tensor([0.01, -0.01, 0.01])
    p = model[0](x)[:, :2].detach()
    differ = (p[:, 0] >= 0) != (p[:, 1] >= 0)
    apart = float((p.square() * differ[:, None]).sum() / p.square().sum())
    assert 0 < apart < 0.01
    assert measured(model, x, tolerance=0.9 * apart).layers["0"]["blocks"] == 4
    assert measured(model, x, tolerance=1.1 * apart).layers["0"]["blocks"] == 3


def test_other_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="chains of linear layers and ReLUs"):
        measured(networks()["convnet"], torch.randn(9, 1, 6, 6))
