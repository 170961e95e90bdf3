"""Hoyer sparsity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.data import TensorSplit
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Measurement
from polykit_builtins.metrics.hoyer import Hoyer, hoyer


def measured(metric: Hoyer, model: nn.Module, batch_size: int = 7) -> Measurement:
    """Measure on the classification data; turns the model to float64."""
    data = replace(datasets()["classes"], test=TensorSplit(inputs(), torch.zeros(32)))
    found = subject(Registry.discover(), model, data, batch_size)
    model.double()
    return measure_all([metric], found)[0]


def inputs() -> Tensor:
    split = datasets()["classes"].test
    assert isinstance(split, TensorSplit)
    return split.x.double()


def brute(vector: np.ndarray) -> float:
    """The definition, and 0 for zero."""
    if not vector.any():
        return 0
    n = len(vector)
    ratio = np.abs(vector).sum() / np.sqrt((vector**2).sum())
    return float((np.sqrt(n) - ratio) / (np.sqrt(n) - 1))


@pytest.mark.parametrize("at", ["pre", "post"])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_against_the_definition(at: str, batch_size: int) -> None:
    model = networks()["mlp"]
    result, x = measured(Hoyer(at=at), model, batch_size), inputs()
    rows = {(layer, name): value for layer, name, value in result.rows()}
    upto = {"1": 2, "3": 4} if at == "pre" else {"1": 3, "3": 5}
    populations = []
    for layer, end in upto.items():
        values = model[:end](x).detach().numpy()
        live = values.any(axis=1)
        assert result.units is not None
        units = result.units[result.units["layer"] == layer]
        lifetimes = [brute(column) for column in values.T]
        np.testing.assert_allclose(units["lifetime"], lifetimes, rtol=1e-12)
        populations.append(np.mean([brute(row) for row in values[live]]))
        assert rows[layer, "population"] == pytest.approx(populations[-1], rel=1e-12)
        assert rows[layer, "lifetime"] == pytest.approx(np.mean(lifetimes), rel=1e-12)
        assert rows[layer, "silent"] == pytest.approx(1 - values.any(axis=0).mean())
        assert rows[layer, "silent_samples"] == pytest.approx(1 - live.mean())
    assert rows["all", "population"] == pytest.approx(np.mean(populations), rel=1e-12)


def test_maps_are_reduced() -> None:
    model, x = networks()["convnet"].double(), inputs()
    for reduce, values in {
        "mean": model[0](x).mean(dim=(2, 3)),
        "max": model[0](x).amax(dim=(2, 3)),
        "center": model[0](x)[:, :, 2, 2],
    }.items():
        result = measured(Hoyer(at="pre", reduce=reduce), model.float())
        assert result.units is not None
        units = result.units[result.units["layer"] == "0"]
        expected = [brute(column.numpy()) for column in values.detach().T]
        np.testing.assert_allclose(units["lifetime"], expected, rtol=1e-9)


def test_what_is_silent_is_said_and_left_out() -> None:
    model = networks()["dying"]
    result = measured(Hoyer(), model)
    rows = {(layer, name): value for layer, name, value in result.rows()}
    assert result.units is not None
    first = result.units[result.units["layer"] == "1"]
    alive = first[first["silent"] == 0]
    assert (first["silent"][:1] == 1).all()
    assert (first["lifetime"][:1] == 0).all()
    assert rows["1", "silent"] == pytest.approx(1 - len(alive) / len(first))
    assert rows["1", "lifetime_responding"] == pytest.approx(alive["lifetime"].mean())
    assert rows["1", "lifetime"] < rows["1", "lifetime_responding"]
    assert rows["3", "silent"] == rows["3", "silent_samples"] == 1
    assert ("3", "lifetime_responding") not in rows
    assert ("3", "population") not in rows
    assert rows["all", "population"] == rows["1", "population"]
    assert rows["all", "silent_samples"] == 0.5


def test_silent_samples_are_left_out_of_the_population() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2), nn.ReLU(), nn.Linear(2, 4)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[0, 0] = 1  # one unit alone: sparsity 1 where it responds
        model[1].bias.zero_()
    share = float((inputs()[:, 0, 0, 0] <= 0).double().mean())
    assert 0 < share < 1
    rows = {(layer, name): value for layer, name, value in measured(Hoyer(), model).rows()}
    assert rows["1", "silent_samples"] == pytest.approx(share)
    assert rows["1", "population"] == pytest.approx(1)


def test_layers_of_one_unit_are_even() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.Tanh(), nn.Linear(1, 4)).eval()
    rows = {(layer, name): value for layer, name, value in measured(Hoyer(), model).rows()}
    assert rows["1", "population"] == 0
    assert rows["1", "lifetime"] > 0


vectors = hnp.arrays(
    np.float64, st.integers(2, 8), elements=st.one_of(st.just(0.0), st.floats(-1e3, 1e3, width=16))
)


@settings(deadline=None)
@given(vectors, st.sampled_from([-2.0, 1e-3, 1e6]))
def test_bounds_scale_and_order_do_not_matter(vector: np.ndarray, scale: float) -> None:
    def one(v: np.ndarray) -> tuple[float, bool]:
        sums = torch.tensor(np.abs(v).sum()), torch.tensor((v**2).sum())
        value, silent = hoyer(*sums, len(v))
        return float(value), bool(silent)

    value, silent = one(vector)
    assert 0 <= value <= 1
    assert silent == (not vector.any())
    assert one(vector * scale) == (pytest.approx(value, abs=1e-9), silent)
    assert one(vector[::-1]) == (pytest.approx(value, abs=1e-9), silent)
    assert one(np.abs(vector)) == (pytest.approx(value, abs=1e-9), silent)


def test_the_ends_of_the_range() -> None:
    n = torch.tensor([1.0, 9.0])
    value, _ = hoyer(n, n, 9)  # one-hot, and nine equal entries
    assert value.tolist() == [1, 0]
