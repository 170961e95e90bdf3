"""What a pruner must preserve: one number per sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import UsageError
from polykit.runtime.objectives import TaskLoss, UnitActivation, parse_objective, task_loss
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.types import UnitRef


def convnet() -> nn.Module:
    with seeded(0, "objectives"):
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 4)
        ).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_the_task_loss_of_classes_is_the_cross_entropy_of_each_sample(x: Tensor) -> None:
    model, y = convnet(), torch.tensor([0, 1, 2, 3, 0])
    objective = TaskLoss("classification")
    with unchanged(model):
        values = objective.values(model, x, y)
        probability = model(x).softmax(1)[torch.arange(5), y]
    torch.testing.assert_close(values, -probability.log())
    assert objective.target is None


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("flat", [True, False])
def test_the_task_loss_of_numbers_is_the_mean_square_of_each_sample(
    shape: tuple[int, ...], flat: bool
) -> None:
    outputs, targets = torch.rand(4, *shape), torch.rand(4, *shape)
    given = targets.flatten() if flat and targets.numel() == 4 else targets
    expected = [F.mse_loss(a, b) for a, b in zip(outputs, targets, strict=True)]
    torch.testing.assert_close(task_loss(outputs, given, "regression"), torch.stack(expected))


def test_objectives_use_the_parameters_they_are_given_and_are_differentiable(x: Tensor) -> None:
    model, y = convnet(), torch.tensor([0, 1, 2, 3, 0])
    other = {n: torch.randn_like(p).requires_grad_() for n, p in model.named_parameters()}
    twin = convnet()
    twin.load_state_dict({name: value.detach() for name, value in other.items()})
    for objective in (TaskLoss(), UnitActivation(UnitRef("3", 1), trace(model, x))):
        with unchanged(model):
            values = objective.values(model, x, y, params=other)
            torch.testing.assert_close(values, objective.values(twin, x, y))
            (gradient,) = torch.autograd.grad(values.sum(), other["0.weight"])
        assert gradient.abs().sum() > 0
        only = objective.values(model, x, y, params={"3.weight": other["3.weight"]})
        assert not torch.allclose(only, values)


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("", lambda maps: maps[:, 2].mean((1, 2))),
        ("@mean", lambda maps: maps[:, 2].mean((1, 2))),
        ("@max", lambda maps: maps[:, 2].amax((1, 2))),
        ("@center", lambda maps: maps[:, 2, 2, 2]),
        ("@3,0", lambda maps: maps[:, 2, 3, 0]),
    ],
)
def test_a_unit_is_read_before_its_nonlinearity(x: Tensor, place: str, read: Any) -> None:
    """The ReLU overwrites the maps in place: what is read must not change with it."""
    model = convnet()
    objective = parse_objective(f"0:2{place}", "classification", trace(model, x))
    with unchanged(model):
        values = objective.values(model, x, torch.zeros(5))
    assert objective.target == UnitRef("0", 2)
    torch.testing.assert_close(values, read(model.get_submodule("0")(x)))


def test_the_centre_of_thirteen_is_the_seventh() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    x = torch.rand(2, 1, 13, 8)
    values = parse_objective("0:0@center", "regression", trace(model, x)).values(model, x, x)
    torch.testing.assert_close(values, model[0](x)[:, 0, 6, 4])


@pytest.mark.parametrize("place", ["", "@max", "@center"])
def test_a_neuron_is_a_single_value_wherever_it_is_read(x: Tensor, place: str) -> None:
    model = convnet()
    objective = parse_objective(f"3:1{place}", "classification", trace(model, x))
    torch.testing.assert_close(objective.values(model, x, x), model(x)[:, 1])


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("mean", lambda t: t[:, :, 1].mean(1)),
        ("max", lambda t: t[:, :, 1].amax(1)),
        ("3", lambda t: t[:, 3, 1]),
    ],
)
def test_a_neuron_over_tokens_is_read_over_its_tokens(place: str, read: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.rand(2, 5, 3)
    objective = parse_objective(f"0:1@{place}", "regression", trace(model, x))
    torch.testing.assert_close(objective.values(model, x, x), read(model[0](x)))


def test_the_pass_stops_at_the_unit(x: Tensor) -> None:
    model = convnet()
    objective = parse_objective("0:1", "classification", trace(model, x))
    seen: list[Tensor] = []
    model.get_submodule("3").register_forward_hook(lambda *call: seen.append(call[2]))
    objective.values(model, x, x)
    assert not seen


def test_task_is_the_loss_of_the_task(x: Tensor) -> None:
    path = trace(convnet(), x)
    assert parse_objective("task", "classification", path) == TaskLoss("classification")
    assert parse_objective("task", "regression", path) == TaskLoss("regression")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss", "'loss' is no unit; write layer:index"),
        ("0:-1", "'0:-1' is no unit"),
        ("1:0", "no conv or linear layer '1'. The layers: 0, 3"),
        ("features.0:1", "no conv or linear layer 'features.0'. The layers: 0, 3"),
        ("0:3", "layer '0' has 3 units"),
        ("0:1@median", "read at mean, max, center or ROW,COLUMN"),
        ("0:1@-1,0", "read at mean, max, center or ROW,COLUMN"),
        ("0:1@4,0", "the unit's map is 4×4"),
        ("0:1@2", "the unit's map is 4×4"),
        ("3:1@0", "the unit's map is a single value"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_there_is(
    x: Tensor, text: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(text, "classification", trace(convnet(), x))
    assert said in str(caught.value)
