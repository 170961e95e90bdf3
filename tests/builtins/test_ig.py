"""Integrated gradients and what is made of them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from torch import Tensor, nn

from polykit.errors import DataError, ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Measurement
from polykit_builtins.metrics.ig import (
    IntegratedGradients,
    attribution_matrix,
    captum_attribution_matrix,
    polysemanticity,
)

COLUMNS = "ratio entropy entropy_normalised effective_features count participation silent".split()
Q = 5
Nets = tuple[nn.Sequential, ...]


def mlp(activation: type[nn.Module], seed: int = 0) -> Nets:
    """A network with dropout, and an encoder in front of it; both in training mode."""
    with seeded(seed, "ig"):
        encoder = nn.Sequential(nn.Linear(Q, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4))
        hidden = [nn.Linear(4, 9), activation(), nn.Dropout(0.5), nn.Linear(9, 6), activation()]
        return lively(encoder, nn.Sequential(*hidden, nn.Linear(6, 2)))


def convnet(activation: type[nn.Module], seed: int = 0) -> Nets:
    """A convnet with max pool and batch norm, whose input is a sum of random pictures."""
    with seeded(seed, "ig"):
        encoder = nn.Sequential(nn.Linear(Q, 2 * 64), nn.Unflatten(1, (2, 8, 8)))
        first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(4, 5, 3), activation(), nn.Flatten(), nn.Linear(20, 3), activation()]
        model = nn.Sequential(*first, *second, nn.Linear(3, 2))
        with torch.no_grad():
            model[1].running_mean += torch.randn(4)
            model[1].bias += torch.randn(4)
        return lively(encoder, model)


def lively(*nets: nn.Sequential) -> Nets:
    """Attributions of a fresh network are so small that an error could hide."""
    with torch.no_grad():
        for net in nets:
            for parameter in net.parameters():
                parameter.mul_(2)
    return nets


NETWORKS = {
    "mlp-relu": mlp(nn.ReLU),
    "mlp-tanh": mlp(nn.Tanh),
    "convnet-relu": convnet(nn.ReLU),
    "convnet-tanh": convnet(nn.Tanh),
}
"""Never changed, as `unchanged` asserts."""


@pytest.fixture(params=NETWORKS)
def nets(request: pytest.FixtureRequest) -> Nets:
    return NETWORKS[request.param]


@pytest.mark.parametrize("at", ["pre", "post"])
@pytest.mark.parametrize(
    ("name", "reduce"),
    [(name, "mean") for name in NETWORKS]
    + [(name, how) for name in NETWORKS if "conv" in name for how in ("max", "center")],
)
def test_riemann_equals_captum(name: str, at: str, reduce: str) -> None:
    encoder, model = NETWORKS[name]
    with unchanged(encoder, model):
        ours = attribution_matrix(model, encoder, Q, steps=50, at=at, reduce=reduce)
        captums = captum_attribution_matrix(model, encoder, Q, at=at, reduce=reduce)
    torch.testing.assert_close(ours, captums, rtol=0, atol=1e-5)
    assert ours.abs().max() > 0.5


def test_riemann_equals_captum_without_polykit() -> None:
    from captum.attr import IntegratedGradients as Captum

    encoder, model = (net.eval() for net in mlp(nn.ReLU, seed=1))
    rows = []
    for end in (1, 4):  # up to each hidden layer
        captum = Captum(nn.Sequential(encoder, *model[:end]))
        for unit in range(model[end - 1].out_features):
            parts = captum.attribute(
                torch.eye(Q), 0.0, target=unit, n_steps=50, method="riemann_right"
            )
            rows.append(parts.diagonal())
    ours = attribution_matrix(model, encoder, Q, steps=50)
    torch.testing.assert_close(ours, torch.stack(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("at", "ends"), [("pre", (1, 4)), ("post", (2, 5))])
def test_exact_equals_the_difference_unit_by_unit(at: str, ends: tuple[int, ...]) -> None:
    encoder, model = (net.double().eval() for net in mlp(nn.Tanh))
    rows = []
    for end in ends:
        upto = nn.Sequential(encoder, *model[:end])
        for unit in range(upto(torch.zeros(1, Q).double()).shape[1]):
            row = []
            for feature in range(Q):
                vector = torch.zeros(1, Q, dtype=torch.float64)
                start = upto(vector)[0, unit]
                vector[0, feature] = 1
                row.append(upto(vector)[0, unit] - start)
            rows.append(torch.stack(row))
    ours = attribution_matrix(model, encoder, Q, at=at)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, torch.stack(rows), rtol=0, atol=1e-12)


def test_maps_are_reduced_before_they_are_compared() -> None:
    encoder, model = (net.double().eval() for net in convnet(nn.ReLU))
    features = torch.cat([torch.zeros(1, Q), torch.eye(Q)]).double()
    maps = model[0](encoder(features))
    expected = {
        "mean": maps.mean(dim=(2, 3)),
        "max": maps.amax(dim=(2, 3)),
        "center": maps[:, :, 4, 4],
    }
    for reduce, values in expected.items():
        ours = attribution_matrix(model, encoder, Q, layers=["0"], reduce=reduce)
        torch.testing.assert_close(ours, (values[1:] - values[0]).T, rtol=0, atol=1e-12)


def test_riemann_comes_near_the_exact_form() -> None:
    encoder, model = (net.double() for net in mlp(nn.Tanh))
    exact = attribution_matrix(model, encoder, Q)
    coarse, fine = (attribution_matrix(model, encoder, Q, steps=steps) for steps in (10, 2000))
    assert (fine - exact).abs().max() < 1e-3 < (coarse - exact).abs().max()


@pytest.mark.parametrize("steps", [None, 1, 7])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 1000])
def test_chunks_do_not_change_the_result(nets: Nets, steps: int | None, chunk_size: int) -> None:
    encoder, model = (deepcopy(net).double() for net in nets)
    whole = attribution_matrix(model, encoder, Q, steps=steps)
    parts = attribution_matrix(model, encoder, Q, steps=steps, chunk_size=chunk_size)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_chunks_bound_the_rows_of_a_pass(nets: Nets) -> None:
    encoder, model = nets
    rows = []
    hook = model[0].register_forward_hook(lambda *call: rows.append(len(call[1][0])))
    runs = [(attribution_matrix, None), (attribution_matrix, 3), (captum_attribution_matrix, 3)]
    for function, steps in runs:
        for chunk_size in (1, 4):
            rows.clear()
            function(model, encoder, Q, layers=["0"], steps=steps, chunk_size=chunk_size)
            assert max(rows) <= chunk_size
    hook.remove()


def test_linear_models_give_their_derivative() -> None:
    with seeded(2, "ig"):
        encoder, model = nn.Linear(Q, 3), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6))
    model = nn.Sequential(*model, nn.Linear(6, 1))
    first = model[0].weight @ encoder.weight
    derivative = torch.cat([first, model[1].weight @ first])
    for steps in (None, 1, 50):
        ours = attribution_matrix(model, encoder, Q, steps=steps)
        torch.testing.assert_close(ours, derivative, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("steps", [None, 4])
def test_units_behind_a_cut_are_silent_to_the_bit(
    steps: int | None, chunk_size: int | None
) -> None:
    with seeded(3, "ig"):
        encoder = nn.Linear(33, 7)
        hidden = [nn.Linear(7, 300), nn.Sigmoid(), nn.Linear(300, 91), nn.ReLU()]
        model = nn.Sequential(*hidden, nn.Linear(91, 50), nn.ReLU(), nn.Linear(50, 2))
    with torch.no_grad():
        model[0].weight.zero_()  # constant, and not 0: sums of it round differently by place
    M = attribution_matrix(model, encoder, 33, steps=steps, chunk_size=chunk_size)
    assert not M.any()
    table = polysemanticity(M)
    assert (table["silent"] == 1).all()
    assert not table.drop(columns="silent").any(axis=None)


FROZEN = torch.tensor(
    [
        # first layer: [f0, f1] → [2 f0, f1 − f0, −f1 − 3]
        [2.0, 0.0],
        [-1.0, 1.0],
        [0.0, -1.0],
        # second, of relu: [2 f0 + relu(f1 − f0), relu(−f1 − 3)], of which the last never moves
        [2.0, 1.0],
        [0.0, 0.0],
    ]
)


def frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    weights = {
        "0.weight": [[2.0, 0.0], [-1.0, 1.0], [0.0, -1.0]],
        "0.bias": [0.0, 0.0, -3.0],
        "2.weight": [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "2.bias": [0.0, 0.0],
        "4.weight": [[1.0, 1.0]],
        "4.bias": [0.0],
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return model


def test_a_network_worked_out_by_hand() -> None:
    M = attribution_matrix(frozen(), lambda features: features, 2)
    assert torch.equal(M, FROZEN)
    post = attribution_matrix(frozen(), lambda features: features, 2, at="post")
    assert torch.equal(post, FROZEN.clamp(min=0))
    table = polysemanticity(M)
    third = 3 * np.log(3) - 2 * np.log(2)
    expected = {
        "ratio": [1, 2, 1, 1.5, 0],
        "entropy": [0, np.log(2), 0, third / 3, 0],
        "entropy_normalised": [0, 1, 0, third / 3 / np.log(2), 0],
        "effective_features": [1, 2, 1, np.exp(third / 3), 0],
        "count": [1, 2, 1, 2, 0],
        "participation": [1, 2, 1, 9 / 5, 0],
        "silent": [0, 0, 0, 0, 1],
    }
    assert list(table.columns) == COLUMNS
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=0, atol=1e-15, err_msg=name)


def test_count_takes_relative_and_absolute_thresholds() -> None:
    M = torch.tensor([[1.0, 0.5, 0.1], [10.0, 4.0, 0.2]])
    assert polysemanticity(M, threshold=0.45)["count"].tolist() == [2, 1]
    assert polysemanticity(M, threshold=0.15, absolute=True)["count"].tolist() == [2, 3]


matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.floats(-1e-6, 1e-6)),
)


@settings(deadline=None)
@given(matrices)
def test_bounds(values: np.ndarray) -> None:
    table = polysemanticity(torch.tensor(values))
    silent = ~values.any(axis=1)
    assert np.array_equal(table["silent"] == 1, silent)
    assert (table[silent].drop(columns="silent") == 0).all(axis=None)
    found = table[~silent]
    assert found["entropy_normalised"].between(0, 1).all()
    assert (found["entropy"] >= 0).all()
    assert (found["count"] >= 1).all()
    # Rényi's order: none is above the next
    numbers = (values[~silent] != 0).sum(axis=1)
    columns = ["ratio", "participation", "effective_features"]
    chain = [np.ones(len(found)), *(found[name].to_numpy() for name in columns), numbers]
    for lower, higher in pairwise(chain):
        assert (lower <= higher * (1 + 1e-12)).all()


@settings(deadline=None)
@given(matrices, st.sampled_from([-1e12, -3.0, 1e-200, 1e150]))
def test_scale_and_sign_do_not_matter(values: np.ndarray, scale: float) -> None:
    values = np.where(np.abs(values) < 1e-90, 0, values)  # stays off the smallest numbers
    M = torch.tensor(values)
    one, other = polysemanticity(M), polysemanticity(M * scale)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_statistics_against_numpy() -> None:
    M = np.random.default_rng(0).normal(size=(7, 4))
    A = np.abs(M)
    D = A / A.sum(1, keepdims=True)
    H = -(D * np.log(D)).sum(1)
    silent = torch.zeros(1, 4, dtype=torch.float64)
    table = polysemanticity(torch.cat([silent, torch.tensor(M)]), threshold=0.3)[1:]
    np.testing.assert_allclose(table["ratio"], A.sum(1) / A.max(1))
    np.testing.assert_allclose(table["entropy"], H)
    np.testing.assert_allclose(table["entropy_normalised"], (H - H.min()) / (H.max() - H.min()))
    np.testing.assert_allclose(table["participation"], A.sum(1) ** 2 / (A**2).sum(1))
    np.testing.assert_allclose(table["count"], (A / A.max(1, keepdims=True) > 0.3).sum(1))


def test_layers_by_name_or_glob_come_in_order() -> None:
    encoder, model = NETWORKS["mlp-relu"]
    hidden, all_layers = (
        attribution_matrix(model, encoder, Q, layers=layers) for layers in (None, ["5", "3", "0"])
    )
    assert hidden.shape == (15, Q)
    assert all_layers.shape == (17, Q)
    assert torch.equal(all_layers[:15], hidden)
    assert torch.equal(attribution_matrix(model, encoder, Q, layers=["3"]), hidden[9:])
    with pytest.raises(UsageError, match="no layer matches 'hidden'"):
        attribution_matrix(model, encoder, Q, layers=["hidden"])


@pytest.mark.parametrize("name", ["n_features", "steps", "chunk_size"])
def test_numbers_below_one_are_refused(name: str) -> None:
    encoder, model = NETWORKS["mlp-relu"]
    with pytest.raises(UsageError, match=f"{name} is 0; it must be at least 1"):
        attribution_matrix(model, encoder, **{"n_features": Q, name: 0})


@pytest.mark.parametrize("steps", [None, 3])
def test_nan_weights_are_named(steps: int | None) -> None:
    model = frozen()
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    with pytest.raises(ModelError, match=r"unit 2:1 gives NaN or infinity for feature 0 \(2 such"):
        attribution_matrix(model, lambda features: features, 2, steps=steps)


def measured(metric: IntegratedGradients, network: str, data: str) -> Measurement:
    found = subject(Registry.discover(), networks()[network], datasets()[data], 16)
    return measure_all([metric], found)[0]


@pytest.mark.parametrize(("data", "features"), [("truth", 6), ("classes", 4)])
@pytest.mark.parametrize("network", ["mlp", "convnet"])
def test_the_metric_measures_every_unit(network: str, data: str, features: int) -> None:
    result = measured(IntegratedGradients(), network, data)
    M = result.arrays["attributions"]
    layers = {"mlp": {"1": 12, "3": 8}, "convnet": {"0": 4, "2": 6}}[network]
    assert result.units is not None
    assert list(result.units.columns) == ["layer", "unit", *COLUMNS]
    assert result.units.groupby("layer").size().to_dict() == layers
    assert M.shape == (sum(layers.values()), features)
    second = result.units[result.units["layer"] == list(layers)[1]]
    assert second["unit"].tolist() == list(range(len(second)))
    own = polysemanticity(M)
    assert second["ratio"].tolist() == own["ratio"].tolist()[-len(second) :]


def test_silent_units_are_left_out_of_the_headline() -> None:
    result = measured(IntegratedGradients(at="post"), "dying", "truth")
    assert result.units is not None
    first = result.units[result.units["layer"] == "1"]
    alive = first[first["silent"] == 0]
    assert len(alive) < len(first)
    rows = {(layer, statistic): value for layer, statistic, value in result.rows()}
    assert rows["1", "ratio_responding"] == pytest.approx(alive["ratio"].mean())
    assert rows["1", "ratio"] == pytest.approx(first["ratio"].mean())
    assert rows["1", "silent"] == pytest.approx(1 - len(alive) / len(first))
    assert rows["3", "silent"] == 1
    assert ("3", "ratio_responding") not in rows  # a mean over no units is no number
    assert rows["all", "ratio_responding"] == rows["1", "ratio_responding"]


def test_backends_agree() -> None:
    ours = measured(IntegratedGradients(steps=50), "convnet", "classes")
    captums = measured(IntegratedGradients(backend="captum"), "convnet", "classes")
    exact = measured(IntegratedGradients(), "convnet", "classes")
    key = "attributions"
    torch.testing.assert_close(ours.arrays[key], captums.arrays[key], rtol=0, atol=1e-5)
    assert (ours.arrays[key] - exact.arrays[key]).abs().max() > 1e-5


def test_features_must_exist() -> None:
    unknown = replace(datasets()["truth"], features=None)
    found = subject(Registry.discover(), networks()["mlp"], unknown, 16)
    with pytest.raises(DataError, match=r"no known features .*'truth'.* no classes .*'classes'"):
        measure_all([IntegratedGradients()], found)
    with pytest.raises(DataError, match="no ground-truth features; use the feature space 'cl"):
        measured(IntegratedGradients(features="truth"), "mlp", "classes")


def test_a_relative_threshold_is_a_share() -> None:
    assert IntegratedGradients(threshold=1.5, absolute=True).threshold == 1.5
    with pytest.raises(ValidationError, match="a threshold of 1 or more counts nothing"):
        IntegratedGradients(threshold=1.5)


def test_an_encoder_may_be_any_function() -> None:
    _, model = NETWORKS["mlp-relu"]
    weight = torch.randn(4, Q, generator=torch.Generator().manual_seed(0))

    def encode(features: Tensor) -> Tensor:
        return features @ weight.T

    expected = model[0].weight @ weight
    torch.testing.assert_close(attribution_matrix(model, encode, Q, layers=["0"]), expected)
