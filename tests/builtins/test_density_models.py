"""The networks of the density study: their widths, their weights, and the published counts."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polykit.errors import ModelError
from polykit_builtins.models.conv2 import Conv2
from polykit_builtins.models.lenet import Lenet
from polykit_builtins.models.resnet import Resnet

MLP = {0.1: 23_920, 0.5: 125_600, 1.0: 266_200, 2.0: 592_400, 5.0: 1_931_000}
CONV = {0.1: 536_963, 0.5: 11_388_288, 1.0: 43_780_864, 2.0: 171_578_880}
RESIDUAL = {0.1: 27_762, 0.5: 221_586, 1.0: 443_122, 2.0: 886_194}


def weights(network):
    return [p for p in network.parameters() if p.dim() > 1]


def numbers(tensors):
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize(("scale", "published"), MLP.items())
def test_lenet_has_the_published_weights(scale, published):
    assert numbers(weights(Lenet(scale=scale).build((1, 28, 28), 10))) == published


@pytest.mark.parametrize(("scale", "published"), CONV.items())
def test_conv2_has_the_published_widths_but_shares_its_kernels(scale, published):
    found = weights(Conv2(scale=scale).build((3, 32, 32), 10))
    kernels = [w for w in found if w.dim() == 4]
    linear = [w for w in found if w.dim() == 2]
    filters = len(kernels[0])
    assert 32 * 32 * numbers(kernels) + numbers(linear) + 4 * filters == published


@pytest.mark.parametrize(
    ("plugin", "counts"),
    [(Conv2, (39_761, 1_076_320, 4_300_992, 17_195_392)), (Resnet, (91, 3_752, 14_416, 56_480))],
)
def test_weights_as_documented(plugin, counts):
    for scale, count in zip((0.1, 0.5, 1.0, 2.0), counts, strict=True):
        assert numbers(weights(plugin(scale=scale).build((3, 32, 32), 10))) == count


@pytest.mark.parametrize(("scale", "published"), RESIDUAL.items())
def test_resnet_has_fewer_weights_than_published(scale, published):
    network = Resnet(scale=scale).build((3, 32, 32), 10)
    first, *blocks, last = weights(network)
    filters = len(first)
    assert [tuple(w.shape) for w in blocks] == [(filters, filters, 3, 3)] * 6
    assert last.shape == (10, filters)
    wide = 10 * int(64 * scale)
    assert 32 * 32 * first.numel() + 4 * filters + wide + 50 == published


def test_conv2_computes_what_it_says():
    network = Conv2(scale=0.1).build((1, 8, 8), 3)
    x = torch.randn(4, 1, 8, 8)
    conv1, conv2 = network.conv1, network.conv2
    maps = F.relu(F.conv2d(x, conv1.weight, conv1.bias, padding=1))
    maps = F.max_pool2d(F.relu(F.conv2d(maps, conv2.weight, conv2.bias, padding=1)), 2)
    hidden = F.relu(network.hidden2(F.relu(network.hidden1(maps.flatten(1)))))
    torch.testing.assert_close(network(x), network.output(hidden))


def test_resnet_adds_what_goes_into_a_block():
    network = Resnet(scale=0.25).build((3, 8, 8), 5).eval()
    x = torch.randn(2, 3, 8, 8)
    maps = network.relu(network.norm(network.conv(x)))
    for block in (network.block1, network.block2, network.block3):
        inner = F.relu(block.norm1(block.conv1(maps)))
        maps = F.relu(maps + block.norm2(block.conv2(inner)))
    torch.testing.assert_close(network(x), network.output(maps.mean((2, 3))))


@pytest.mark.parametrize("plugin", [Conv2, Resnet])
@pytest.mark.parametrize("init", ["glorot", "he"])
def test_weights_are_drawn_as_the_papers_say(plugin, init):
    network = plugin(init=init).build((3, 32, 32), 10)
    for weight in weights(network)[1:]:
        places = weight[0, 0].numel()
        inputs, outputs = weight.shape[1] * places, weight.shape[0] * places
        bound = sqrt(6 / (inputs + outputs if init == "glorot" else inputs))
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert float(weight.detach().std()) == pytest.approx(bound / sqrt(3), rel=0.1)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            assert not bool(module.bias.any())


@pytest.mark.parametrize("plugin", [Lenet(scale=0.1), Conv2(scale=0.1), Resnet()])
def test_redrawn_is_as_if_built(plugin):
    torch.manual_seed(1)
    network = plugin.build((1, 8, 8), 4)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(3)
    plugin.redraw(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all() & (module.running_mean == 0).all())
    assert all(float(w.detach().std()) > 0 for w in weights(network))


@pytest.mark.parametrize("plugin", [Conv2(scale=0.1), Resnet()])
def test_what_is_no_picture_is_refused(plugin):
    with pytest.raises(ModelError, match=r"cannot take inputs of shape 13 .*take mlp"):
        plugin.build((13,), 3)
