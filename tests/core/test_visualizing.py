from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import alexnet

from polykit.errors import DataError, ModelError, UsageError
from polykit.runtime.clusters.visualizing import attribute_pixels, canvas, feature_pictures
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import masked
from polykit.runtime.samples import pictures
from polykit.testing.state import unchanged
from polykit.types import Mask


def network(channels=1, size=8, units=6):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, units, 3, padding=1),
        nn.ReLU(inplace=True),
    ).eval()
    inputs = torch.randn(20, channels, size, size)
    return model, inputs, make_reader(model, trace(model, inputs), "2")


def grown(model, inputs, reader, unit=0, **options):
    spread = float(reader(model, inputs).detach()[:, unit].std())
    options = {"count": 2, "steps": 4, "spread": spread, **options}
    return feature_pictures(model, reader, unit, canvas(inputs), **options)


def test_a_linear_unit_shows_its_weights():
    side = torch.linspace(-1, 1, 9)
    model, inputs = nn.Sequential(nn.Conv2d(1, 3, 9)), torch.rand(30, 1, 9, 9) * 2 - 1
    weights = torch.stack([side.expand(9, 9), side.expand(9, 9).T, 1 - side.outer(side).abs() * 2])
    model[0].weight.data = weights[:, None].contiguous()
    reader = make_reader(model, trace(model, inputs), "0")
    for unit, weight in enumerate(weights):
        found = grown(model, inputs, reader, unit, count=1, steps=150, diversity=0)
        best = torch.where(weight > 0, canvas(inputs).high, canvas(inputs).low)[None]
        most = float(reader(model, best).detach()[0, unit])
        assert found.start < 0.3 * most
        assert 0.6 * most < float(found.values[0]) <= most
        # the moves blur what a pixel is worth, so the picture follows the weights in the large
        assert np.corrcoef(found.inputs[0, 0].flatten(), weight.flatten())[0, 1] > 0.7


def test_the_values_are_the_units_values_for_the_pictures():
    model, inputs, reader = network()
    found = grown(model, inputs, reader, unit=3)
    with torch.no_grad():
        assert torch.equal(found.values, reader(model, found.inputs)[:, 3])
    low, high = canvas(inputs).low, canvas(inputs).high
    assert bool((found.inputs >= low).all() and (found.inputs <= high).all())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 9, 32])
def test_small_grey_and_many_channelled_pictures_grow(channels, size):
    model, inputs, reader = network(channels, size)
    found = grown(model, inputs, reader, steps=25, diversity=0)
    assert found.inputs.shape == (2, channels, size, size)
    assert float(found.values.min()) > found.start


def test_pictures_need_not_be_square():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Conv2d(1, 2, 3)), torch.rand(4, 1, 8, 14)
    reader = make_reader(model, trace(model, inputs), "0")
    assert grown(model, inputs, reader).inputs.shape == (2, 1, 8, 14)


def test_alexnet_is_left_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(alexnet(weights=None).features)  # not in evaluation mode, with gradients
    inputs = torch.randn(2, 3, 224, 224)
    reader = make_reader(model, trace(model, inputs), "0.10")
    with unchanged(model):
        grown(model, inputs, reader, unit=15, steps=2)
        attribute_pixels(model, reader, 15, inputs[:1], steps=2)
        attribute_pixels(model, reader, 15, inputs[:1], method="saliency")


def test_one_seed_gives_one_picture_whatever_was_drawn_before():
    model, inputs, reader = network()
    first = grown(model, inputs, reader, seed=3)
    torch.randn(5)
    np.random.random(7)
    assert torch.equal(grown(model, inputs, reader, seed=3).inputs, first.inputs)
    assert not torch.equal(grown(model, inputs, reader, seed=4).inputs, first.inputs)


def test_diversity_makes_pictures_differ_for_the_layer():
    model, inputs, reader = network()

    def similarity(diversity):
        found = grown(model, inputs, reader, count=3, steps=80, diversity=diversity)
        values = nn.functional.normalize(reader(model, found.inputs).detach())
        return float(((values @ values.T) ** 2).sum() - 3) / 6

    assert similarity(2.0) < 0.75 * similarity(0.0)


def test_a_masked_unit_shows_what_is_left_of_it():
    model, inputs, reader = network()
    keep = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    keep["0.weight"][4:] = False
    with unchanged(model):
        dense = grown(model, inputs, reader)
        with masked(model, Mask(keep)):
            cut = grown(model, inputs, reader)
            assert torch.equal(cut.values, reader(model, cut.inputs).detach()[:, 0])
    assert not torch.equal(dense.inputs, cut.inputs)


def test_what_cannot_be_visualised_says_why():
    model, inputs, reader = network()
    nothing = Mask({"0.weight": torch.zeros(8, 1, 3, 3, dtype=torch.bool)})
    with masked(model, nothing), pytest.raises(ModelError, match="nothing of the picture reaches"):
        grown(model, inputs, reader, spread=1.0)
    with pytest.raises(ModelError, match="same value for every picture"):
        grown(model, inputs, reader, spread=0.0)

    def blind(model, x):
        return reader(model, x).detach()

    with pytest.raises(ModelError, match="not differentiable"):
        grown(model, inputs, blind, spread=1.0)
    with pytest.raises(ModelError, match="cannot be attributed"):
        attribute_pixels(model, blind, 0, inputs)

    def rounded(model, x):
        return reader(model, x) * float("nan")

    with pytest.raises(ModelError, match="not finite"):
        grown(model, inputs, rounded, spread=1.0)
    with pytest.raises(ModelError, match="not finite"):
        attribute_pixels(model, rounded, 0, inputs)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (torch.zeros(3, 64), "64 are no pictures"),
        (torch.zeros(3, 1, 4, 4), "the same value"),
        (torch.full((3, 1, 4, 4), float("nan")), "the same value"),
    ],
)
def test_inputs_that_are_no_pictures_are_refused(inputs, why):
    with pytest.raises(DataError, match=why):
        canvas(inputs)


def test_integrated_gradients_sum_up_and_agree_with_a_float64_integral():
    model, inputs, reader = network(channels=3)
    found = attribute_pixels(model, reader, 2, inputs[:4], steps=64)
    assert found.gap is not None
    values = reader(model, inputs[:4]).detach()[:, 2]
    zero = reader(model, torch.zeros_like(inputs[:1])).detach()[0, 2]
    scale = (values - zero).abs().max()
    assert torch.allclose(found.gap, found.pixels.sum((1, 2)) - (values - zero), atol=1e-5)
    assert float(found.gap.abs().max()) < 0.05 * float(scale)

    double = model.double()
    x = inputs[:4].double()
    total, steps = torch.zeros_like(x), 4000
    for alpha in ((torch.arange(steps) + 0.5) / steps).split(500):
        at = (alpha.view(-1, 1, 1, 1, 1) * x).flatten(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(reader(double, at)[:, 2].sum(), at)
        total += gradient.view(-1, *x.shape).sum(0)
    brute = (x * total / steps).sum(1)
    error = (found.pixels.double() - brute).abs().max() / brute.abs().max()
    assert float(error) < 0.05


def test_pixels_of_a_linear_unit_are_weight_times_picture():
    layer = nn.Conv2d(2, 3, 5)
    model, inputs = nn.Sequential(layer), torch.randn(6, 2, 5, 5)
    reader = make_reader(model, trace(model, inputs), "0")
    found = attribute_pixels(model, reader, 1, inputs)
    assert torch.allclose(found.pixels, (layer.weight[1] * inputs).sum(1).detach(), atol=1e-5)
    flat = attribute_pixels(model, reader, 1, inputs, method="saliency")
    expected = layer.weight[1].detach().abs().amax(0).expand(6, -1, -1)
    assert flat.gap is None
    assert torch.allclose(flat.pixels, expected, atol=1e-6)


def test_pictures_come_back_from_their_files():
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    back = Image.open(io.BytesIO(pictures.png(picture)))
    assert np.array_equal(np.asarray(back), picture.permute(1, 2, 0).numpy())
    assert pictures.png(picture) == pictures.png(picture.clone())
    smooth = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).contiguous()
    back = np.asarray(Image.open(io.BytesIO(pictures.jpeg(smooth)))).astype(int)
    assert np.abs(back - smooth.permute(1, 2, 0).numpy()).max() < 8
    with pytest.raises(UsageError, match="uint8"):
        pictures.png(torch.rand(3, 2, 2))


def test_an_overlay_is_orange_for_blue_against_and_grey_for_nothing():
    pixels = torch.tensor([[2.0, -2.0, 0.0]])
    drawn = pictures.overlay(torch.full((3, 1, 3), 0.5), pixels)
    red, _, blue = drawn[:, 0]
    assert red[0] > blue[0] + 0.5
    assert blue[1] > red[1] + 0.5
    assert torch.allclose(drawn[:, 0, 2], torch.tensor(0.5))
    nothing = pictures.overlay(torch.zeros(3, 1, 3), torch.zeros(1, 3))
    assert torch.allclose(nothing, torch.tensor(0.225))
