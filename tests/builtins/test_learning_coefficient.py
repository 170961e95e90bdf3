"""The learning coefficient of networks."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polykit.errors import DataError, ModelError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.splits import TensorSplit
from polykit.testing.samples import datasets, subject
from polykit.types import Mask, Subject
from polykit_builtins.metrics.learning_coefficient import LearningCoefficient


def inputs(n: int = 64) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(5))


def linear(n: int = 64, kept: Tensor | None = None) -> Subject:
    """A linear network of eight parameters, whose losses are parabolas."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    if kept is not None:
        model[0].weight.data *= kept
    x = inputs(n)
    split = TensorSplit(x, model(x).detach())
    data = datasets()["truth"]
    data = replace(data, train=split, test=split, input_shape=(3,), outputs=2)
    found = subject(Registry.discover(), model, data, batch_size=10)
    return found if kept is None else replace(found, mask=Mask({"0.weight": kept}))


def exact(x: Tensor, outputs: int, scale: float, kept: Tensor) -> float:
    """Σ ½ nβ a / (nβ a + 1) over the curvatures a of the parabola, for weights that may move."""
    f = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    temperature, total = len(x) / math.log(len(x)), 0.0
    for row in range(outputs):
        some = f[:, torch.cat([kept[row], torch.tensor([True])])]
        a = torch.linalg.eigvalsh(2 * scale * some.T @ some / len(x))
        total += float((temperature * a / (temperature * a + 1)).sum()) / 2
    return total


@pytest.mark.parametrize(("loss", "scale"), [("behavioral", 1), ("training", 0.5)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_linear_network_has_half_its_parameters(loss, scale, masked) -> None:
    """The training loss is the mean over two outputs; at its minimum here."""
    kept = torch.tensor([[True, True, False], [True, False, False]]) if masked else None
    found = linear(kept=kept)
    metric = LearningCoefficient(loss=loss, chains=64, steps=250, burn_in=100)
    values = measure_all([metric], found)[0].summary
    expected = exact(inputs(), 2, scale, torch.ones(2, 3).bool() if kept is None else kept)
    assert values["parameters"] == (5 if masked else 8)
    assert abs(values["learning_coefficient"] - expected) < 3 * values["standard_error"]
    assert values["standard_error"] < 0.15 * expected
    assert values["effective_parameters"] == 2 * values["learning_coefficient"]
    assert values["effective_share"] == values["effective_parameters"] / values["parameters"]
    temperature = 64 / math.log(64)
    assert values["loss_scale"] == pytest.approx(values["learning_coefficient"] / temperature)


def test_traces_are_kept() -> None:
    metric = LearningCoefficient(chains=3, steps=20, burn_in=10, step=1e-4)
    arrays = measure_all([metric], linear())[0].arrays
    assert arrays["losses"].shape == (20, 3)
    assert arrays["warm_up"].shape == (10, 3)
    assert (arrays["warm_up"][0] == 0).all()  # the first look is at the weights themselves


def test_doubtful_results_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "polykit"):
        stiff = LearningCoefficient(step=0.02, steps=50, burn_in=0)
        assert measure_all([stiff], linear())[0].summary["stiffness"] > 0.1
        assert "smaller step" in caplog.text
        caplog.clear()
        measure_all([LearningCoefficient(chains=16, steps=600, burn_in=200)], linear())
        assert not caplog.text


def test_diverging_chains_are_refused() -> None:
    with pytest.raises(ModelError, match="take step="):
        measure_all([LearningCoefficient(step=100)], linear())


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="3 are needed"):
        measure_all([LearningCoefficient()], linear(2))
