"""`ig` and `hoyer` in the coordinates of a basis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.degeneracy.slopes import find_bases
from polykit.runtime.measuring import measure_all
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Subject
from polykit_builtins.metrics.hoyer import Hoyer
from polykit_builtins.metrics.ig import IntegratedGradients

REGISTRY = Registry.discover()
KINDS = pytest.mark.parametrize("basis", ["interaction", "pca"])


def network(name: str = "mlp", data: str = "truth", batch_size: int = 7) -> Subject:
    return subject(REGISTRY, networks()[name], datasets()[data], batch_size)


def bases(found: Subject, kind, at="post"):
    batches = (x for x, _ in found.data.test.batches(100))
    return find_bases(found.model, batches, found.trace, found.layers, kind, at=at)


@KINDS
def test_hoyer_of_directions(basis) -> None:
    found = network()
    result = measure_all([Hoyer(basis=basis)], found)[0]
    x, _ = next(iter(found.data.test.batches(100)))
    for layer, end in (("1", 3), ("3", 5)):
        values = bases(found, basis)[layer].project(found.model[:end](x)).detach().numpy()
        sums = np.abs(values).sum(axis=1) / np.sqrt((values**2).sum(axis=1))
        root = np.sqrt(values.shape[1])
        expected = ((root - sums) / (root - 1)).mean()
        assert result.layers[layer]["population"] == pytest.approx(expected, abs=1e-5)
        assert (result.units["layer"] == layer).sum() == values.shape[1]


@KINDS
@pytest.mark.parametrize("at", ["pre", "post"])
def test_attributions_of_directions(basis, at) -> None:
    """By definition: what a feature alone does to the projected values."""
    found = network()
    result = measure_all([IntegratedGradients(basis=basis, at=at)], found)[0]
    space = found.feature_space("truth")
    ends = {"1": 2, "3": 4} if at == "pre" else {"1": 3, "3": 5}
    parts = []
    for layer, end in ends.items():
        project = bases(found, basis, at)[layer].project
        features = torch.cat([torch.zeros(1, space.n_features), torch.eye(space.n_features)])
        values = project(found.model[:end](space.encode(features)))
        parts.append((values[1:] - values[:1]).T)
    expected = torch.cat(parts).detach().double()
    torch.testing.assert_close(result.arrays["attributions"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("metric", [Hoyer, IntegratedGradients])
def test_maps_and_dead_layers(metric) -> None:
    for name in ("convnet", "dying"):
        result = measure_all([metric(basis="interaction")], network(name))[0]
        assert all(np.isfinite(value) for _, _, value in result.rows())


def test_a_network_without_slopes_is_refused() -> None:
    model = networks()["mlp"]
    nn.init.zeros_(model[5].weight)
    nn.init.zeros_(model[5].bias)
    found = replace(network(), model=model)
    for metric in (Hoyer(basis="interaction"), IntegratedGradients(basis="interaction")):
        with pytest.raises(ModelError, match="basis=neuron"):
            measure_all([metric], found)


def test_maxima_are_refused() -> None:
    with pytest.raises(UsageError, match="maxima"):
        REGISTRY.create("metric", "ig:basis=pca,reduce=max")
