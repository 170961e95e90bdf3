"""Class selectivity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from polykit.errors import DataError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.data import TensorSplit
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Data, Measurement
from polykit_builtins.metrics.selectivity import Selectivity, selectivity


def measured(metric: Selectivity, model: nn.Module, data: Data, batch_size: int = 7) -> Measurement:
    """Measure; turns the model to float64."""
    found = subject(Registry.discover(), model, data, batch_size)
    model.double()
    return measure_all([metric], found)[0]


def classes(*kept: int) -> tuple[Data, TensorSplit]:
    """The classification data in float64, its test split cut down to some classes."""
    data = datasets()["classes"]
    assert isinstance(data.test, TensorSplit)
    rows = torch.isin(data.test.y, torch.tensor(kept or range(data.outputs)))
    split = TensorSplit(data.test.x[rows].double(), data.test.y[rows])
    return replace(data, test=split), split


def brute(values: np.ndarray, labels: np.ndarray) -> tuple[float, float, int]:
    """The definition, for one unit that is not negative; for a silent one what we say."""
    if not values.any():
        return 0, 0, -1
    means = {c: values[labels == c].mean() for c in np.unique(labels)}
    best = max(means, key=lambda c: means[c])
    rest = np.mean([mean for c, mean in means.items() if c != best])
    return means[best] - rest, (means[best] - rest) / (means[best] + rest), best


@pytest.mark.parametrize("kept", [(), (1, 3), (0, 2, 3)])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_against_the_definition(kept: tuple[int, ...], batch_size: int) -> None:
    model = networks()["mlp"]
    data, split = classes(*kept)
    units = measured(Selectivity(), model, data, batch_size).units
    assert units is not None
    values = np.concatenate(
        [model[:end](split.x).detach().numpy() for end in (3, 5)], axis=1
    )  # behind each ReLU
    expected = np.array([brute(column, split.y.numpy()) for column in values.T])
    np.testing.assert_allclose(units["difference"], expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(units["index"], expected[:, 1], rtol=1e-8)  # ε
    assert units["preferred"].tolist() == expected[:, 2].tolist()
    assert set(units["preferred"]) <= {-1, *(kept or range(4))}


def test_maps_are_reduced() -> None:
    model = networks()["convnet"]
    data, split = classes()
    units = measured(Selectivity(reduce="max"), model, data).units
    assert units is not None
    maps = model[0](split.x).relu().amax(dim=(2, 3)).detach().numpy()
    expected = [brute(column, split.y.numpy())[1] for column in maps.T]
    np.testing.assert_allclose(units["index"][:4], expected, rtol=1e-9)


def test_negative_activations_stay_in_range() -> None:
    means = torch.tensor([[-1.0, 1.0, 4.0], [-3.0, -1.0, 1.0], [-3.0, -1.0, 3.0]])
    difference, index, preferred = selectivity(means)
    assert difference.tolist() == [2, 2, 2]
    assert index.tolist() == pytest.approx([0.5, 1, 1 / 3])
    assert preferred.tolist() == [0, 0, 0]
    units = measured(Selectivity(at="pre"), networks()["mlp"], classes()[0]).units
    assert units is not None
    assert units["index"].between(0, 1).all()
    assert (units["difference"] >= 0).all()


def test_equal_means_are_not_selective() -> None:
    assert (0.1 + 0.1 + 0.1) / 3 > 0.1  # the mean of the others is above the largest
    difference, index, _ = selectivity(torch.full((4, 1), 0.1, dtype=torch.float64))
    assert difference.item() == index.item() == 0


def test_silent_units_prefer_nothing_and_are_left_out() -> None:
    result = measured(Selectivity(), networks()["dying"], classes()[0])
    assert result.units is not None
    rows = {(layer, name): value for layer, name, value in result.rows()}
    silent = result.units[result.units["silent"] == 1]
    assert set(silent["layer"]) == {"1", "3"}
    assert (silent["preferred"] == -1).all()
    assert not silent[["index", "difference"]].any(axis=None)
    alive = result.units[result.units["silent"] == 0]
    assert (alive["preferred"] >= 0).all()
    assert rows["all", "index_responding"] == pytest.approx(alive["index"].mean())
    assert ("3", "index_responding") not in rows


def test_data_that_cannot_be_compared_is_refused() -> None:
    model = networks()["mlp"]
    with pytest.raises(DataError, match=r"sample is a regression; use data with classes"):
        measured(Selectivity(), model, replace(classes()[0], task="regression"))
    data, _ = classes(2)
    with pytest.raises(DataError, match=r"all test samples of sample are of class 2; bring"):
        measured(Selectivity(), model.float(), data)
