"""Receptive fields against the support of the gradient, and what counts as a chain."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm

from polykit.errors import ModelError, UsageError
from polykit.runtime.passes.chains import chain
from polykit.runtime.passes.fields import Field, receptive_field
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from tests.core.random_chains import CHANNELS, chains, picture_of, positions

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def support(model: nn.Module, shape: tuple[int, ...], position: tuple[int, ...]) -> Tensor:
    """Pixels with a gradient, for pictures that rise towards each corner in turn.

    All weights are positive, so the maps rise with the picture, and what a max-pool takes lies in
    the same corner of its window: together these pictures reach the far ends of the field.
    """
    axes = [torch.arange(size, dtype=torch.float64) + 1 for size in shape]
    found = torch.zeros(shape, dtype=torch.bool)
    for signs in product((1, -1), repeat=len(shape)):
        rising = sum(
            sign * axis.view(-1, *[1] * (len(shape) - 1 - number))
            for number, (sign, axis) in enumerate(zip(signs, axes, strict=True))
        )
        assert isinstance(rising, Tensor)
        x = (0.1 + (rising - rising.min()) / 100).expand(1, CHANNELS, *shape)
        x = x.contiguous().requires_grad_()
        model(x)[(slice(None), slice(None), *position)].sum().backward()
        assert x.grad is not None
        found |= x.grad[0].abs().sum(0) > 0
    return found


def hull(pixels: Tensor) -> Field:
    places = pixels.nonzero()
    return Field(tuple(places.amin(0).tolist()), tuple((places.amax(0) + 1).tolist()))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_field_is_the_support_of_the_gradient(data: Any) -> None:
    model: Any = data.draw(chains(positive=True))
    x = picture_of(model)
    path = trace(model, x)
    layer = path.calls[-1].layer
    position = data.draw(positions(path.of(layer)[0]))
    field = receptive_field(model, path, layer, position)
    pixels = support(model, tuple(x.shape[2:]), position)
    if field.inside(x.shape[2:]):
        assert hull(pixels) == field
    elif all(getattr(module, "padding_mode", "zeros") == "zeros" for module in model):
        field.crop(pixels).zero_()
        assert not pixels.any()


def test_alexnet_sees_163_pixels_at_the_centre_of_its_last_convolution() -> None:
    pool: Any = nn.MaxPool2d(3, 2)
    features = nn.Sequential(
        *(nn.Conv2d(3, 2, 11, 4, 2), nn.ReLU(), pool, nn.Conv2d(2, 2, 5, padding=2), nn.ReLU()),
        *(nn.MaxPool2d(3, 2), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)),
    )
    path = trace(features, torch.zeros(1, 3, 224, 224))
    field = receptive_field(features, path, "10", (6, 6))
    assert field == Field((30, 30), (193, 193))
    assert field.size == (163, 163)
    assert not receptive_field(features, path, "10", (4, 4)).inside((224, 224))


def test_same_padding_of_an_even_kernel_is_one_sided() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, (2, 4), padding="same", dilation=(1, 2)))
    path = trace(model, torch.zeros(1, 1, 9, 9))
    assert receptive_field(model, path, "0", (4, 4)) == Field((4, 1), (6, 8))


def test_a_crop_at_the_edge_keeps_what_there_is() -> None:
    picture = torch.arange(20).view(1, 1, 4, 5)
    assert Field((-2, 3), (2, 9)).crop(picture).tolist() == [[[[3, 4], [8, 9]]]]
    for beyond in (Field((-9, 0), (-5, 2)), Field((0, 7), (2, 9))):
        assert beyond.crop(picture).numel() == 0


def net(*modules: nn.Module) -> nn.Sequential:
    with seeded(0, "fields"):
        return nn.Sequential(nn.Conv2d(2, 4, 3), *modules, nn.Conv2d(4, 4, 3)).eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class ByHand(nn.Module):
    """A ReLU that no module makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


class InPlace(ByHand):
    """The same, and the tensor stays the same object."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mul_(2))


class Scaled(ByHand):
    """What the first module takes is not the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x * 2))


class Indices(ByHand):
    """The pool between gives a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.first(x))[0])


class Odd(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flip(-1)


def hooked() -> nn.Module:
    model = net(nn.ReLU())
    model[0].register_forward_hook(lambda module, inputs, output: output.flip(-1))
    return model


def pruned() -> nn.Module:
    model = net(nn.ReLU())
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


BROKEN: dict[str, tuple[Any, str, str]] = {
    "residual": (lambda: net(Residual()), "2", r"2 does not take what 1\.conv gives"),
    "function": (ByHand, "last", "last does not take what first gives"),
    "in place": (InPlace, "last", "last does not take what first gives"),
    "scaled": (Scaled, "last", "first does not take what the input gives"),
    "unknown": (lambda: net(nn.Softmax(1)), "2", "1 breaks .*Softmax is no convolution"),
    "group norm": (lambda: net(nn.GroupNorm(2, 4)), "2", "1 breaks .*GroupNorm"),
    "batch": (
        lambda: net(nn.BatchNorm2d(4, track_running_stats=False)),
        "2",
        "1 breaks .*normalises by the batch",
    ),
    "overridden": (lambda: net(Odd(4, 4, 3)), "2", "1 breaks .*Odd is no convolution"),
    "hook": (hooked, "2", "0 breaks .*carries a hook"),
    "torch's pruning": (pruned, "2", "0 breaks .*carries a hook"),
    "adaptive": (lambda: net(nn.AdaptiveAvgPool2d(4)), "2", "1 breaks .*differ in size"),
    "flattened": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(400, 2)),
        "2",
        "1 breaks .*Flatten",
    ),
    "indices": (Indices, "last", "pool breaks .*more than one tensor"),
    "container": (lambda: net(nn.Sequential(nn.ReLU())), "1", "1 holds other modules"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_chain_is_told_apart(case: str) -> None:
    make, layer, message = BROKEN[case]
    model, x = make().eval(), torch.zeros(1, 2, 12, 12)
    path = trace(model, x)
    with unchanged(model), pytest.raises(ModelError, match=message):
        chain(model, path, layer)


def test_parametrised_modules_are_steps_and_old_spectral_norm_is_none() -> None:
    model, x = net(nn.ReLU()), torch.zeros(1, 2, 12, 12)
    parametrizations.weight_norm(model[0])
    assert [step.name for step in chain(model, trace(model, x), "2")] == ["0", "1", "2"]
    model = net(nn.ReLU())
    spectral_norm(model[0])
    with pytest.raises(ModelError, match="carries a hook"):
        chain(model, trace(model, x), "2")


@pytest.mark.parametrize("kind", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_adaptive_pools_with_equal_windows_are_steps(kind: Any) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), kind((5, 2)))
    path = trace(model, torch.zeros(1, 2, 12, 12))
    assert receptive_field(model, path, "1", (1, 1)) == Field((2, 5), (6, 12))


def test_behind_the_nonlinearity_the_chain_goes_on_to_it() -> None:
    model = net(nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True))
    path = trace(model, torch.zeros(1, 2, 12, 12))
    names = [step.name for step in chain(model, path, "0", at="post")]
    assert names == ["0", "1", "2", "3"]
    assert [step.name for step in chain(model, path, "4", at="post")] == [*names, "4"]
    path = trace(by_hand := ByHand(), torch.zeros(1, 2, 12, 12))
    with pytest.raises(ModelError, match="last does not take what first gives"):
        chain(by_hand, path, "first", at="post")


def test_a_module_called_twice_is_read_at_its_first_call() -> None:
    shared = nn.Conv2d(2, 2, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    path = trace(model, torch.zeros(1, 2, 12, 12))
    assert [step.name for step in chain(model, path, "0")] == ["0"]


def test_unknown_layers_and_positions_are_refused() -> None:
    model = net(nn.ReLU())
    path = trace(model, torch.zeros(1, 2, 12, 12))
    with pytest.raises(UsageError, match="no layer '3'"):
        chain(model, path, "3")
    for position in ((10, 0), (0,), (-1, 0), (0, 0, 0)):
        with pytest.raises(UsageError, match="10×10; it has no position"):
            receptive_field(model, path, "0", position)
