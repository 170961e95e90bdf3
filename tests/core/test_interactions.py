"""Edges between layers against per-sample Jacobians along the path, kept whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from polykit.errors import ModelError, UsageError
from polykit.runtime.degeneracy import interactions as module
from polykit.runtime.degeneracy.interactions import interactions
from polykit.runtime.degeneracy.nodes import Nodes, nodes_of
from polykit.runtime.degeneracy.slopes import INPUT, gather
from polykit.runtime.passes.trace import trace
from polykit.testing.state import unchanged

BASES = pytest.mark.parametrize("basis", ["interaction", "neuron", "pca"])
ORIGINS = pytest.mark.parametrize("origin", ["zero", "mean"])


def networks() -> dict[str, tuple[nn.Sequential, tuple[int, ...], dict[str, int]]]:
    """Networks, their input shapes, and how many modules lead to the values of their layers."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.bias.data.uniform_(-1, 1)
    relu = nn.ReLU
    mlp = nn.Sequential(nn.Linear(5, 6), relu(), nn.Linear(6, 4), relu(), nn.Linear(4, 3))
    tanh = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    conv = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), norm, nn.Softplus(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    ends = {INPUT: 0, "0": 2, "2": 4, "4": 5}
    return {
        "mlp": (mlp, (5,), ends),
        "tanh": (tanh, (5,), ends),
        "conv": (conv, (1, 5, 5), {INPUT: 0, "0": 2, "2": 5, "7": 8}),
    }


def made(name: str, basis, origin, n: int = 10) -> tuple[nn.Sequential, Tensor, dict[str, Nodes]]:
    model, shape, ends = networks()[name]
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    factors = gather(model, [x], trace(model, x.float()), list(ends))
    return model, x, {layer: nodes_of(factors[layer], basis, origin) for layer in ends}


def brute(
    part: nn.Sequential, f: Tensor, before: Nodes, behind: Nodes, points: int
) -> tuple[Tensor, Tensor]:
    """The parts A `[n, positions, behind, before]` and what they should add up to, by definition.

    The constant feeds every bias, and what a batch normalisation's mean takes off.
    """
    biases = {n: t for n, t in part.named_parameters() if n.endswith("bias")}

    def run(f: Tensor, c: Tensor) -> Tensor:
        held = {}
        for name, bias in biases.items():
            own = part.get_submodule(name.rpartition(".")[0])
            shift = torch.zeros_like(bias)
            if isinstance(own, nn.BatchNorm2d):
                shift = own.weight * own.running_mean / (own.running_var + own.eps).sqrt()
            held[name] = c * (bias - shift).detach() + shift.detach()
        behind_f = functional_call(part, held, (f[None],))[0]
        flat = behind_f.reshape(len(behind_f), -1).T  # [positions, units]
        return flat @ behind.forward[:, 1:].T + c * behind.forward[:, 0]

    start = before.origin[1:].reshape(-1, *[1] * (f.dim() - 2)).expand(f.shape[1:])
    grows = bool((before.origin == 0).all())
    grid, weights = np.polynomial.legendre.leggauss(points)
    jacobian = vmap(jacrev(run, argnums=(0, 1)), (0, None))
    A: Tensor | float = 0.0
    flat = f.reshape(*f.shape[:2], -1)  # [n, units, positions before]
    values = torch.einsum("ru,nup->nrp", before.forward[:, 1:], flat)
    values = values + before.forward[:, :1]
    for point, weight in zip((grid + 1) / 2, weights / 2, strict=True):
        c = torch.tensor(point if grows else 1.0, dtype=torch.float64)
        along, one = jacobian(start + point * (f - start), c)
        along = along.reshape(*along.shape[:3], f.shape[1], -1)
        slopes = torch.einsum("nqiup,ur,nrp->nqir", along, before.backward[1:], values)
        constant = torch.einsum("nqi,r,nrp->nqir", one, before.backward[0], values)
        A = A + weight * (slopes + constant / values.shape[2])
    ends = [torch.tensor(c, dtype=torch.float64) for c in (1.0, float(not grows))]
    gain = torch.stack([run(a, ends[0]) - run(start, ends[1]) for a in f])
    return A, gain


@ORIGINS
@BASES
@pytest.mark.parametrize("name", ["tanh", "conv"])
def test_against_a_jacobian_for_each_sample(name: str, basis, origin) -> None:
    model, x, nodes = made(name, basis, origin, n=5)
    ends = networks()[name][2]
    single = trace(model, x.float())
    with unchanged(model):  # float32, looked at in float64
        found = interactions(model, x.split(3), single, nodes, steps=8)
    layers = list(nodes)
    model.double()
    for E, before, behind in zip(found, layers, layers[1:], strict=False):
        part = model[ends[before] : ends[behind]].requires_grad_(False)
        f = model[: ends[before]](x) if before != INPUT else x
        if before == INPUT and name == "conv":
            part = nn.Sequential(nn.Unflatten(1, x.shape[1:]), *part)
            f = x.flatten(1)
        A, gain = brute(part, f.detach(), nodes[before], nodes[behind], 8)
        torch.testing.assert_close(E, A.square().mean(dim=(0, 1)), rtol=1e-9, atol=1e-14)
        if basis == "neuron" and origin == "mean" and len(nodes[before]) == f.shape[1]:
            torch.testing.assert_close(A.sum(dim=3), gain, rtol=1e-6, atol=1e-9)


@BASES
@ORIGINS
def test_the_closed_form_and_the_general_way_agree(basis, origin, monkeypatch) -> None:
    """From zero to the last digit; from the mean, where ReLUs have kinks on the path, closely."""
    model, x, nodes = made("mlp", basis, origin)
    path = trace(model, x.float())
    closed = interactions(model, [x], path, nodes)
    monkeypatch.setattr(module, "relu_chain", lambda *_: ())
    general = interactions(model, [x], path, nodes, steps=100 if origin == "mean" else 1)
    close = {"rtol": 1e-10, "atol": 1e-14} if origin == "zero" else {"rtol": 0.05, "atol": 2e-3}
    for a, b in zip(closed, general, strict=True):
        torch.testing.assert_close(a, b, **close)


def test_a_single_unit_makes_all_the_difference() -> None:
    """From the mean, past the kinks of ReLUs: its part is what the values behind gain."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 20)).double()
    x = torch.randn(50, 1, dtype=torch.float64)
    path = trace(model, x)
    factors = gather(model, [x], path, [INPUT, "0"])
    nodes = {layer: nodes_of(factors[layer], "neuron", "mean") for layer in (INPUT, "0")}
    gains = model[:2](x) - model[:2](x.mean(dim=0))
    expected = nodes["0"].forward[:, 1:] @ gains.detach().T
    (E,) = interactions(model, [x], path, nodes)
    torch.testing.assert_close(E[:, 0], expected.square().mean(dim=1))


@BASES
@ORIGINS
def test_chunks_change_nothing(basis, origin, monkeypatch) -> None:
    for name in ("mlp", "conv"):
        model, x, nodes = made(name, basis, origin, n=5)
        path = trace(model, x.float())
        whole = interactions(model, [x], path, nodes, steps=1)
        with monkeypatch.context() as patch:
            patch.setattr(module, "NUMBERS", 300)
            pieces = interactions(model, x.split(4), path, nodes, steps=1)
        for a, b in zip(whole, pieces, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("basis", ["interaction", "neuron"])
@ORIGINS
def test_a_unit_scaled_up_and_read_scaled_down_changes_nothing(basis, origin) -> None:
    model, x, nodes = made("mlp", basis, origin)
    path = trace(model, x.float())
    before = interactions(model, [x], path, nodes)
    with torch.no_grad():
        model[0].weight[2] *= 16
        model[0].bias[2] *= 16
        model[2].weight[:, 2] /= 16
    factors = gather(model, [x], path, list(nodes))
    again = {layer: nodes_of(factors[layer], basis, origin) for layer in nodes}
    for a, b in zip(before, interactions(model, [x], path, again), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@BASES
@ORIGINS
def test_what_no_output_responds_to_is_no_node(basis, origin) -> None:
    model, shape, _ = networks()["mlp"]
    with torch.no_grad():
        model[2].weight[1] = 0
        model[2].bias[1] = -1  # dead
        model[4].weight[:, 2] = 0  # unread
    x = torch.randn(40, *shape)
    factors = gather(model, [x], trace(model, x), ["2", "4"])
    nodes = {layer: nodes_of(factors[layer], basis, origin) for layer in ("2", "4")}
    if basis == "neuron":
        assert nodes["2"].neurons.tolist() == [*range(int(origin == "mean"), 2), 4]
    nn.init.zeros_(model[4].weight)
    factors = gather(model, [x], trace(model, x), ["2", "4"])
    assert not len(nodes_of(factors["2"], "interaction", "mean"))
    nothing = {layer: nodes_of(factors[layer], basis, "mean") for layer in ("2", "4")}
    (E,) = interactions(model, [x], trace(model, x), nothing)
    assert E.numel() == 0


@BASES
@ORIGINS
def test_outputs_respond_to_every_node_with_mean_square_slope_one(basis, origin) -> None:
    model, x, _ = made("mlp", basis, origin, n=200)
    factors = gather(model, [x], trace(model, x.float()), ["0"])["0"]
    nodes = nodes_of(factors, basis, origin)
    eye = torch.eye(len(nodes), dtype=torch.float64)
    one = torch.ones(len(nodes), dtype=torch.float64)
    torch.testing.assert_close((factors.J @ nodes.backward).square().sum(dim=0), one)
    torch.testing.assert_close((factors.F @ nodes.forward.T).square().sum(dim=0), nodes.size)
    torch.testing.assert_close(nodes.forward @ nodes.backward, eye, rtol=0, atol=1e-9)
    torch.testing.assert_close(nodes.forward @ nodes.origin, 0 * one, rtol=0, atol=1e-9)


class Beside(nn.Module):
    """A path leads beside the layer in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.last(first + torch.tanh(self.middle(first)))  # type: ignore[no-any-return]


def test_a_path_beside_a_layer_is_refused() -> None:
    model, x = Beside(), torch.randn(20, 4)
    factors = gather(model, [x], trace(model, x), ["first", "middle", "last"])
    nodes = {layer: nodes_of(found, "neuron", "zero") for layer, found in factors.items()}
    with pytest.raises(ModelError, match=r"'last' do not follow from those of 'middle' alone"):
        interactions(model, [x], trace(model, x), {la: nodes[la] for la in ("middle", "last")})
    interactions(model, [x], trace(model, x), {la: nodes[la] for la in ("first", "last")})


def test_unknown_coordinates_are_refused() -> None:
    model, x, _ = made("mlp", "neuron", "zero")
    factors = gather(model, [x], trace(model, x.float()), ["0"])["0"]
    with pytest.raises(UsageError, match="no basis; take interaction"):
        nodes_of(factors, "neurons", "zero")
    with pytest.raises(UsageError, match="no origin"):
        nodes_of(factors, "neuron", "median")
