"""Loss, accuracy, density, parameters and operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from polykit.api import AnyMetric
from polykit.errors import DataError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import masked
from polykit.runtime.samples.data import TensorSplit
from polykit.testing import unchanged
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Data, Mask, Subject
from polykit_builtins.metrics.size import Density, Flops, Parameters
from polykit_builtins.metrics.task import Accuracy, Loss

Rows = dict[tuple[str, str], float]


def measured(metric: AnyMetric, found: Subject) -> Rows:
    with unchanged(found.model):
        return {
            (layer, name): value for layer, name, value in measure_all([metric], found)[0].rows()
        }


def on(name: str, data: str, mask: Mask | None = None, batch_size: int = 7) -> Subject:
    found = subject(Registry.discover(), networks()[name], datasets()[data], batch_size)
    return replace(found, mask=mask)


def test_set(data: Data) -> tuple[Tensor, Tensor]:
    assert isinstance(data.test, TensorSplit)
    return data.test.x, data.test.y


test_set.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_loss_is_the_mean_over_samples(batch_size: int) -> None:
    for data, function in (("classes", F.cross_entropy), ("truth", F.mse_loss)):
        found = on("mlp", data, batch_size=batch_size)
        x, y = test_set(found.data)
        expected = function(found.model(x), y).item()
        assert measured(Loss(), found) == {("all", "loss"): pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_accuracy_is_a_share_of_samples(batch_size: int) -> None:
    found = on("convnet", "classes", batch_size=batch_size)
    x, y = test_set(found.data)
    expected = float((found.model(x).argmax(1) == y).double().mean())
    assert 0 < expected < 1
    assert measured(Accuracy(), found) == {("all", "accuracy"): pytest.approx(expected)}


def test_accuracy_refuses_a_regression() -> None:
    with pytest.raises(DataError, match="sample is a regression; use the metric loss"):
        measured(Accuracy(), on("mlp", "truth"))


def half(shape: tuple[int, ...]) -> Tensor:
    """Keep every other entry."""
    count = torch.Size(shape).numel()
    return (torch.arange(count) % 2 == 0).view(shape)


def test_density_by_the_mask_and_by_its_effect() -> None:
    keep = {"1.weight": torch.ones(12, 36, dtype=torch.bool), "3.weight": half((8, 12))}
    keep["1.weight"][:6] = False
    rows = measured(Density(), on("mlp", "classes", Mask(keep)))
    assert rows["1", "density"] == 0.5
    assert rows["3", "density"] == 0.5
    assert rows["all", "density"] == pytest.approx(0.5)
    # of the second layer's 48, 24 hang on the first layer's dead units; of the first layer's six
    # live units only every other is read
    assert rows["3", "effective_density"] == pytest.approx(24 / 96)
    assert rows["1", "effective_density"] == pytest.approx(3 / 12)
    assert rows["all", "effective_density"] == pytest.approx((24 + 3 * 36) / (96 + 432))


def test_density_counts_what_could_be_pruned_with_biases_of_units() -> None:
    rows_kept = torch.arange(8) < 2
    keep = {"3.weight": rows_kept[:, None].expand(8, 12), "3.bias": rows_kept}
    eligible = {"3.weight": torch.ones(8, 12, dtype=torch.bool)}
    eligible["3.weight"][0] = False
    rows = measured(Density(), on("mlp", "classes", Mask(keep, eligible)))
    expected = (12 + 2) / (7 * 12 + 8)
    assert rows["3", "density"] == rows["all", "density"] == pytest.approx(expected)


def test_density_without_a_mask() -> None:
    rows = measured(Density(), on("mlp", "classes"))
    assert rows == {("all", "density"): 1, ("all", "effective_density"): 1}


def test_parameters_are_all_less_the_removed() -> None:
    total = 36 * 12 + 12 + 12 * 8 + 8 + 8 * 4 + 4
    assert measured(Parameters(), on("mlp", "classes"))["all", "parameters"] == total
    mask = Mask({"3.weight": half((8, 12)), "3.bias": half((8,))})
    found = on("mlp", "classes", mask)
    with masked(found.model, mask):
        assert measured(Parameters(), found)["all", "parameters"] == total - 48 - 4


class Grouped(nn.Module):
    """Strided, grouped and one-dimensional convolutions, and a linear layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 8, 2, groups=2)
        self.line = nn.Conv1d(8, 3, 2, bias=False)
        self.twice = nn.Linear(9, 9)
        self.out = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.grouped(F.relu(self.first(x))))
        h = self.line(h.flatten(2)).flatten(1)
        return self.out(F.relu(self.twice(F.relu(self.twice(h)))))


@pytest.mark.parametrize("name", ["mlp", "convnet", "grouped"])
def test_dense_operations_equal_torchs_counter(name: str) -> None:
    data = datasets()["classes"]
    model = Grouped().eval() if name == "grouped" else networks()[name]
    found = subject(Registry.discover(), model, data, 7)
    rows = measured(Flops(), found)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(test_set(data)[0][:1])
    assert rows["all", "dense_flops"] == rows["all", "flops"] == counter.get_total_flops() > 0


def test_kept_operations_count_every_position_and_call() -> None:
    data = datasets()["classes"]
    found = subject(Registry.discover(), Grouped().eval(), data, 7)
    mask = Mask({"grouped.weight": half((8, 2, 2, 2)), "twice.weight": half((9, 9))})
    dense, kept = (measured(Flops(), replace(found, mask=part)) for part in (None, mask))
    assert dense["grouped", "flops"] - kept["grouped", "flops"] == 2 * 32 * 4  # on 2×2 places
    assert dense["twice", "flops"] - kept["twice", "flops"] == 2 * 40 * 2  # in two calls
    assert kept["first", "flops"] == dense["first", "flops"]
    assert kept["all", "dense_flops"] == dense["all", "flops"]
    total = sum(kept[layer, "flops"] for layer in found.trace.layers)
    assert kept["all", "flops"] == total


def test_a_shared_weight_is_counted_once_and_run_twice() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36))
    model[3].weight = model[1].weight
    data = replace(datasets()["truth"], outputs=36)
    found = subject(Registry.discover(), model.eval(), data, 7)
    found = replace(found, mask=Mask({"1.weight": half((36, 36))}))
    assert select_layers(trace(model, torch.zeros(1, 1, 6, 6))) == ("1",)
    assert measured(Parameters(), found)["all", "parameters"] == 36 * 36 / 2 + 2 * 36
    assert measured(Flops(), found)["all", "flops"] == 2 * 36 * 36
