"""One value per unit and picture: the cone against the full map, and when it is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad, vmap
from torchvision import models

from polykit.errors import UsageError
from polykit.runtime.passes.capture import capture, unit_values
from polykit.runtime.passes.fields import Field
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.types import At, Site
from tests.core.random_chains import chains, picture_of, positions

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


@pytest.fixture(scope="module")
def alexnet() -> nn.Module:
    with seeded(0, "reading"):
        return models.alexnet(weights=None).eval()  # type: ignore[no-any-return]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def small(*more: nn.Module) -> nn.Module:
    """Two convolutions whose centre sees [1, 10) of 12 pixels."""
    with seeded(1, "reading"):
        first, last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        layers = [first, nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), last, *more]
        return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("at", ["pre", "post"])
def test_cone_and_full_map_agree_to_the_last_bit_on_alexnets_convolutions(
    alexnet: nn.Module, x: Tensor, at: At, order: torch.memory_format
) -> None:
    x = x.contiguous(memory_format=order)
    path = trace(alexnet, x)
    layers = [f"features.{number}" for number in (0, 3, 6, 8, 10)]
    with torch.no_grad():
        maps = capture(alexnet, x, [Site(layer, at) for layer in layers], path).values
        for layer in layers:
            reader = make_reader(alexnet, path, layer, at=at)
            assert reader.way == "cone"
            expected = maps[Site(layer, at)]
            found = reader(alexnet, x)
            assert torch.equal(found, unit_values(expected, "center"))
            assert reader.units == found.shape[1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_cone_reads_what_the_full_map_holds(data: Any) -> None:
    model = data.draw(chains())
    x = picture_of(model)
    path = trace(model, x)
    maps = [call.layer for call in path.calls if call.unit_axis == 1]
    layer = data.draw(st.sampled_from(maps))
    position = data.draw(positions(path.of(layer)[0]))
    at = data.draw(st.sampled_from(("pre", "post")))
    reader = make_reader(model, path, layer, position=position, at=at)
    full = make_reader(model, path, layer, position=position, at=at, way="full")
    assert full.way == "full"
    assert reader.field == full.field
    with torch.no_grad(), unchanged(model):
        expected = capture(model, x, [Site(layer, at)], path).values[Site(layer, at)]
        expected = expected[(slice(None), slice(None), *position)]
        torch.testing.assert_close(reader(model, x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(full(model, x), expected, rtol=0, atol=0)
    if reader.way == "full":
        with pytest.raises(UsageError, match="no cone: "):
            make_reader(model, path, layer, position=position, at=at, way="cone")


def test_gradients_by_parameters_and_pictures_are_those_of_the_full_map() -> None:
    model, x = small().double(), torch.randn(3, 2, 12, 12, dtype=torch.float64)
    path = trace(model, x)
    own = {name: 0.5 * value.detach() for name, value in model.named_parameters()}
    found = []
    for way in ("cone", "full"):
        reader = make_reader(model, path, "4", way=way)  # type: ignore[arg-type]
        params = {name: value.clone().requires_grad_() for name, value in own.items()}
        picture = x.clone().requires_grad_()
        value = reader(model, picture, params=params).square().sum()
        found.append(torch.autograd.grad(value, [*params.values(), picture]))
        per_picture = vmap(
            grad(lambda free, one, reader=reader: reader(model, one[None], params=free)[0, 1]),
            in_dims=(None, 0),
        )(own, x)
        found[-1] += tuple(per_picture.values())
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def test_parameters_stand_in_only_where_they_are_named() -> None:
    model, x = small(), torch.randn(3, 2, 12, 12)
    reader = make_reader(model, trace(model, x), "4", way="cone")
    zero = {"4.weight": torch.zeros_like(model[4].weight)}  # type: ignore[index]
    with unchanged(model):
        assert torch.equal(reader(model, x, params=zero), model[4].bias.expand(3, 6))  # type: ignore[index]
    assert torch.equal(reader(model, x), reader(model, x, params={}))


def test_shared_parameters_are_replaced_everywhere() -> None:
    with seeded(2, "reading"):
        model = nn.Sequential(*(nn.Conv2d(2, 2, 3, bias=False) for _ in range(2))).double()
    model[1].weight = model[0].weight
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    path = trace(model, x)
    params = {"0.weight": torch.randn(2, 2, 3, 3, dtype=torch.float64)}
    cone, full = (make_reader(model, path, "1", way=way) for way in ("cone", "full"))  # type: ignore[arg-type]
    torch.testing.assert_close(cone(model, x, params=params), full(model, x, params=params))


def test_another_network_of_the_same_layers_can_be_read() -> None:
    model, x = small(), torch.randn(3, 2, 12, 12)
    reader = make_reader(model, trace(model, x), "4", way="cone")
    with seeded(3, "reading"):
        other = small()
        for module in other:  # type: ignore[attr-defined]
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    maps = other(x)
    torch.testing.assert_close(reader(other, x), maps[:, :, 3, 3])
    assert not torch.allclose(reader(other, x), reader(model, x))


def test_pictures_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 1, 3))
    x = torch.randn(2, 1, 5, 5)
    before = x.clone()
    make_reader(model, trace(model, x.clone()), "1", way="cone")(model, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("position", ["mean", "max"])
def test_mean_and_maximum_are_of_the_full_map(position: Any) -> None:
    model, x = small(nn.ReLU()), torch.randn(3, 2, 12, 12)
    path = trace(model, x)
    reader = make_reader(model, path, "4", position=position, at="post")
    assert (reader.way, reader.field) == ("full", None)
    assert reader.why == f"the {position} looks at the whole map"
    maps = model(x)
    expected = maps.mean((2, 3)) if position == "mean" else maps.amax((2, 3))
    torch.testing.assert_close(reader(model, x), expected)
    with pytest.raises(UsageError, match=f"no cone: the {position} looks at"):
        make_reader(model, path, "4", position=position, way="cone")


def test_a_field_that_leaves_the_picture_means_the_full_map() -> None:
    model, x = small(), torch.randn(3, 2, 12, 12)
    path = trace(model, x)
    reader = make_reader(model, path, "4", position=(0, 3))
    assert (reader.way, reader.field) == ("full", Field((-3, 3), (5, 11)))
    assert "leaves the picture" in reader.why
    assert torch.equal(reader(model, x), model(x)[:, :, 0, 3])
    with pytest.raises(UsageError, match="no cone: the field of 4 leaves the picture"):
        make_reader(model, path, "4", position=(0, 3), way="cone")


def test_linear_layers_have_one_value() -> None:
    model = small(nn.Flatten(), nn.Linear(216, 5))
    x = torch.randn(3, 2, 12, 12)
    reader = make_reader(model, trace(model, x), "6")
    assert (reader.way, reader.why, reader.units) == ("full", "6 has no map", 5)
    torch.testing.assert_close(reader(model, x), model(x))


def test_residual_networks_are_read_by_the_full_map() -> None:
    with seeded(0, "reading"):
        model = models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    path = trace(model, x)
    assert make_reader(model, path, "conv1").way == "cone"
    reader = make_reader(model, path, "layer2.0.conv1")
    assert reader.way == "full"
    assert "a branch, a sum or a function" in reader.why
    maps = capture(model, x, [Site("layer2.0.conv1")], path).values[Site("layer2.0.conv1")]
    assert torch.equal(reader(model, x), maps[:, :, 4, 4])


def transformer(image: int, patch: int) -> nn.Module:
    with seeded(0, "reading"):
        return models.VisionTransformer(image, patch, 2, 2, 16, 32, num_classes=3).eval()


def test_a_vision_transformers_centre_is_its_class_token() -> None:
    model, x = transformer(32, 8), torch.randn(2, 3, 32, 32)
    path = trace(model, x)
    assert make_reader(model, path, "conv_proj").way == "cone"
    for layer in ("encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_0.mlp.0"):
        reader = make_reader(model, path, layer)
        assert (reader.way, reader.why) == ("full", f"{layer} has tokens, not a map")
        tokens = capture(model, x, [Site(layer)], path).values[Site(layer)]
        assert torch.equal(reader(model, x), tokens[:, :, 0])
        assert reader.units == tokens.shape[1]
        mean = make_reader(model, path, layer, position="mean")
        torch.testing.assert_close(mean(model, x), tokens.mean(2))
        patch = make_reader(model, path, layer, position=(3,))
        assert torch.equal(patch(model, x), tokens[:, :, 3])
        with pytest.raises(UsageError, match=r"no cone: .* has tokens, not a map"):
            make_reader(model, path, layer, way="cone")


def test_the_real_vision_transformer_is_read(x: Tensor) -> None:
    """Its 197 tokens are 14 × 14 and the class token."""
    model = models.vit_b_16(weights=None)
    model.encoder.layers = model.encoder.layers[:1]
    path = trace(model.eval(), x)
    reader = make_reader(model, path, "encoder.layers.encoder_layer_0.mlp.0")
    assert (reader.place, reader.units) == ((0,), 3072)


class Tokens(nn.Module):
    """Six tokens, none of them a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)  # type: ignore[no-any-return]


def test_tokens_without_a_class_token_have_no_centre() -> None:
    model, x = Tokens(), torch.randn(2, 6, 4)
    path = trace(model, x)
    with pytest.raises(UsageError, match="mix has 6 tokens and no class token"):
        make_reader(model, path, "mix")
    torch.testing.assert_close(
        make_reader(model, path, "mix", position="max")(model, x), model(x).amax(1)
    )


def test_what_cannot_be_read_is_refused() -> None:
    model, x = small(), torch.randn(3, 2, 12, 12)
    path = trace(model, x)
    with pytest.raises(UsageError, match=r"no layer '5'.*layers with weights: 0, 4"):
        make_reader(model, path, "5")
    with pytest.raises(UsageError, match="6×6; it has no position 6,0"):
        make_reader(model, path, "4", position=(6, 0))
    with pytest.raises(UsageError, match="pre or post"):
        make_reader(model, path, "4", at="input")
    with pytest.raises(UsageError, match="2×12×12, not 2×13×12"):
        make_reader(model, path, "4", way="cone")(model, torch.randn(1, 2, 13, 12))
