"""The interaction basis and principal axes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polykit.errors import RunError, UsageError
from polykit.runtime.degeneracy.bases import (
    Basis,
    Kind,
    effective_number,
    interaction_basis,
    load_bases,
    neuron_weights,
    principal_axes,
    save_bases,
)
from polykit.runtime.degeneracy.slopes import Factors, Ones, find_bases, gather
from polykit.runtime.passes.trace import trace


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """An MLP in float64 with biases that matter."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layer = nn.Linear(a, b)
        nn.init.normal_(layer.weight, std=a**-0.5)
        nn.init.normal_(layer.bias, std=0.3)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def inputs(n: int, width: int, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=random, dtype=torch.float64)


def factors(model: nn.Module, x: Tensor, layer: str = "0", ones: Ones = "carry") -> Factors:
    return gather(model, [x], trace(model, x), [layer], ones=ones)[layer]


def gram(A: Tensor) -> Tensor:
    return A.T @ A


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), ones=st.sampled_from(["carry", "exo"]), dead=st.booleans())
def test_both_matrices_are_diagonal_in_it(seed: int, ones: Ones, dead: bool) -> None:
    model = network(6, 9, 7, 4, seed=seed)
    if dead:
        model[0].bias.data[:2] = -100
    found = factors(model, inputs(300, 6), ones=ones)
    basis = found.basis()
    C, back = basis.forward, basis.backward
    scale = basis.spectrum[0]
    assert (C @ gram(found.F) @ C.T - basis.spectrum.diag()).abs().max() < 1e-12 * scale
    eye = torch.eye(basis.rank, dtype=torch.float64)
    assert (back.T @ gram(found.J) @ back - eye).abs().max() < 1e-12 * scale / basis.spectrum[-1]
    torch.testing.assert_close(C @ back, eye, rtol=0, atol=1e-9)
    assert basis.rank == torch.linalg.matrix_rank(gram(found.F) @ gram(found.J), rtol=1e-10)


def duplicate(model: nn.Sequential) -> None:
    model[0].weight.data[1], model[0].bias.data[1] = model[0].weight.data[0], model[0].bias.data[0]


def dead(model: nn.Sequential, unit: int = 0) -> None:
    model[0].bias.data[unit] = -1000


def unused(model: nn.Sequential, unit: int = 0) -> None:
    model[2].weight.data[:, unit] = 0


def duplicate_both_ways(model: nn.Sequential) -> None:
    duplicate(model)
    model[2].weight.data[:, 1] = model[2].weight.data[:, 0]


@pytest.mark.parametrize(
    ("plant", "rank", "activations", "jacobians"),
    [
        (lambda model: None, 13, 13, 13),
        (duplicate, 12, 12, 13),
        (dead, 12, 12, 13),
        (unused, 12, 13, 12),
        (lambda model: (dead(model), unused(model, 1)), 11, 12, 12),
        (lambda model: (dead(model), unused(model)), 12, 12, 12),
        (duplicate_both_ways, 12, 12, 12),
    ],
    ids="none duplicate dead unused dead-and-another-unused dead-and-unused both-ways".split(),
)
def test_planted_degeneracies_are_counted(plant, rank, activations, jacobians) -> None:
    """Twelve units and the constant. Fewer by all zeros of G and M would be 11 in the last two."""
    model = network(20, 12, 16, 10)
    plant(model)
    basis = factors(model, inputs(500, 20)).basis()
    assert (basis.rank, basis.activation_rank, basis.jacobian_rank) == (
        rank,
        activations,
        jacobians,
    )


@pytest.mark.parametrize("plant", [lambda model: None, duplicate, unused])
def test_a_change_of_coordinates_leaves_it_as_it_was(plant) -> None:
    """f → R f with cond(R) = 1e7, the next weights W → W R⁻¹."""
    model, x = network(8, 12, 10, 6), inputs(400, 8)
    plant(model)
    u, v = (torch.linalg.qr(inputs(12, 12, seed=seed)).Q for seed in (2, 3))
    sizes = torch.logspace(0, -7, 12, dtype=torch.float64)
    turn, back = nn.Linear(12, 12, bias=False).double(), nn.Linear(12, 12, bias=False).double()
    turn.weight.data = u @ sizes.diag() @ v
    back.weight.data = v.T @ (1 / sizes).diag() @ u.T
    turned = nn.Sequential(model[0], model[1], turn, back, *model[2:])
    one = factors(model, x).basis()
    other = factors(turned, x, "2").basis()
    f = model[:2](x)
    first, second = one.project(f), other.project(turn(f))
    assert one.rank == other.rank
    second = second * (first * second).sum(dim=0).sign()
    assert (first - second).abs().max() < 1e-7 * first.abs().max()


@pytest.mark.parametrize("plant", [lambda model: None, duplicate, unused])
@pytest.mark.parametrize("ones", ["carry", "exo"])
@pytest.mark.parametrize("centred", [False, True])
def test_the_network_computes_the_same_through_it(plant, ones: Ones, centred: bool) -> None:
    model, x = network(8, 12, 10, 6), inputs(400, 8)
    plant(model)
    passed = trace(model, x)
    basis = find_bases(model, [x], passed, ["0"], ones=ones, centred=centred)["0"]
    f = model[:2](x)
    coordinates = basis.project(f)
    assert coordinates.shape == (400, basis.rank)
    through = model[2:](basis.restore(coordinates))
    torch.testing.assert_close(through, model(x), rtol=0, atol=1e-9)
    if basis.rank < 13 - centred:
        lost = basis.restore(torch.zeros_like(coordinates))
        assert (model[2:](lost) - model(x)).abs().max() > 0.1  # the coordinates do matter


def test_an_unused_neuron_is_dropped_from_the_values() -> None:
    model, x = network(8, 12, 16, 10), inputs(400, 8)
    unused(model, 3)
    basis = factors(model, x).basis()
    f = model[:2](x)
    louder = f.clone()
    louder[:, 3] += 5
    torch.testing.assert_close(basis.project(louder), basis.project(f), rtol=0, atol=1e-9)


def test_what_never_varies_is_not_read() -> None:
    """The pseudo-inverse: a difference that a double never shows has no coordinates."""
    model, x = network(8, 12, 16, 10), inputs(400, 8)
    duplicate(model)
    basis = factors(model, x).basis()
    f = model[:2](x)
    apart = f.clone()
    apart[:, 0] += 1
    apart[:, 1] -= 1
    torch.testing.assert_close(basis.project(apart), basis.project(f), rtol=0, atol=1e-9)
    assert (model[2:](apart) - model(x)).abs().max() > 0.1  # though the network would respond


def test_maps_are_projected_position_by_position() -> None:
    model, x = network(4, 5, 4, 3), inputs(100, 4)
    basis = factors(model, x).basis()
    maps = inputs(6, 5 * 7).reshape(6, 5, 7)
    expected = torch.stack([basis.project(maps[..., place]) for place in range(7)], dim=-1)
    torch.testing.assert_close(basis.project(maps), expected)
    assert basis.restore(expected).shape == maps.shape


def test_centred_it_is_that_of_the_covariance() -> None:
    model, x = network(6, 9, 7, 4), inputs(300, 6)
    found = factors(model, x)
    basis = found.basis(centred=True)
    f = model[:2](x)
    coordinates = basis.project(f)
    assert coordinates.mean(dim=0).abs().max() < 1e-12
    torch.testing.assert_close(gram(coordinates) / 300, basis.spectrum.diag(), rtol=0, atol=1e-12)
    weights = neuron_weights(found.F, found.J, centred=True)
    expected = f.var(dim=0, correction=0) * gram(found.J).diagonal()[1:]
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("centred", [False, True])
def test_principal_axes(centred: bool) -> None:
    model, x = network(6, 9, 7, 4), inputs(300, 6)
    duplicate(model)
    basis = factors(model, x).basis("pca", centred=centred)
    f = model[:2](x)
    matrix = f - f.mean(dim=0) if centred else torch.cat([torch.ones_like(f[:, :1]), f], dim=1)
    values = torch.linalg.eigvalsh(gram(matrix) / 300).flip(0)
    assert basis.rank == 9 - centred
    torch.testing.assert_close(basis.spectrum, values[: basis.rank])
    torch.testing.assert_close(basis.restore(basis.project(f)), f)


@pytest.mark.parametrize("centred", [False, True])
def test_few_samples_limit_the_rank_and_it_says_so(centred: bool) -> None:
    """The mean takes one from the number of samples, and from that of dimensions."""
    model = network(20, 12, 16, 10)
    few, many = (factors(model, inputs(n, 20)).basis(centred=centred) for n in (7, 500))
    assert (few.rank, few.limited_by_samples) == (7 - centred, True)
    assert (many.rank, many.limited_by_samples) == (13 - centred, False)


def test_constant_activations_leave_one_direction() -> None:
    model = network(5, 6, 7, 3)
    model[0].weight.data.zero_()
    basis = factors(model, inputs(50, 5)).basis()
    assert (basis.rank, basis.activation_rank, basis.limited_by_samples) == (1, 1, False)
    assert factors(model, inputs(50, 5)).basis(centred=True).rank == 0


@pytest.mark.parametrize(
    ("ones", "centred", "rank"),
    [("carry", False, 1), ("exo", False, 0), ("carry", True, 0), ("exo", True, 0)],
)
def test_behind_a_dead_layer_only_the_constant_is_left(ones, centred, rank) -> None:
    """It feeds the biases of the layers behind, if it is carried on."""
    model, x = network(5, 6, 7, 3), inputs(50, 5)
    model[2].weight.data.zero_()
    model[2].bias.data[:] = -1
    basis = factors(model, x, ones=ones).basis(centred=centred)
    assert (basis.rank, basis.jacobian_rank) == (rank, rank)
    f = model[:2](x)
    restored = basis.restore(basis.project(f))
    torch.testing.assert_close(restored, f.mean(dim=0).expand_as(f))


def test_effective_number() -> None:
    assert effective_number(torch.zeros(3)) == 0
    assert effective_number(torch.ones(5)) == pytest.approx(5)
    assert effective_number(torch.tensor([1.0, 1e-9])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["interaction", "pca"])
def test_saved_and_loaded(tmp_path: Path, kind: Kind) -> None:
    model, x = network(6, 9, 7, 4), inputs(30, 6)
    bases = find_bases(model, [x], trace(model, x), ["0", "2"], kind)
    save_bases(tmp_path / "bases.safetensors", bases)
    loaded = load_bases(tmp_path / "bases.safetensors")
    assert list(loaded) == ["0", "2"]
    for layer, basis in bases.items():
        for name, value in vars(basis).items():
            found = getattr(loaded[layer], name)
            assert torch.equal(found, value) if isinstance(value, Tensor) else found == value


def test_a_file_without_bases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match="holds no bases"):
        load_bases(tmp_path / "no.safetensors")
    with pytest.raises(RunError, match="holds no bases"):
        load_bases(tmp_path / "missing.safetensors")


def test_what_does_not_fit_is_refused() -> None:
    basis: Basis = interaction_basis(torch.eye(4), torch.eye(4), 9)
    with pytest.raises(UsageError, match=r"\[n, 3, ...\]"):
        basis.project(torch.zeros(2, 4))
    with pytest.raises(UsageError, match=r"\[n, 4, ...\]"):
        basis.restore(torch.zeros(2, 3))
    for make in (interaction_basis, principal_axes):
        with pytest.raises(UsageError, match="one layer"):
            make(torch.eye(4), torch.eye(3), 9)
