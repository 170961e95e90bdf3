"""Removing units: what is coupled, what is left, and that it computes what it should."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import ModelError, UsageError
from polykit.runtime.pruning.structure import Group, Structure, groups, keep_units, random_like
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.types import Smaller

CONV_OR_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers[:-2]).double().eval()


def convnet(*, norm: bool) -> nn.Sequential:
    """Two convolutions of which the second is grouped, a pool, and two linear layers."""
    norms = [nn.BatchNorm2d(6), nn.BatchNorm2d(8), nn.BatchNorm1d(5)]
    for layer in norms:
        _unsettle(layer)
    first = [nn.Conv2d(2, 6, 3, padding=1), *norms[:norm], nn.ReLU(inplace=True)]
    second = [nn.Conv2d(6, 8, 3, groups=2), *norms[1 : 1 + norm], nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(32, 5), *norms[2 : 2 + norm], nn.ReLU(), nn.Linear(5, 3)]
    return nn.Sequential(*first, *second, *head).double().eval()


def _unsettle(layer: nn.Module) -> None:
    """Give a batch normalisation statistics and shifts that are not those it starts with."""
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.rand_like(tensor) + 0.5)


def zoo(name: str) -> nn.Module:
    with seeded(0, name):
        model = getattr(torchvision.models, name)(weights=None, num_classes=5).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                _unsettle(module)
    return model


def half(found: tuple[Group, ...], seed: int = 0) -> dict[str, Tensor]:
    """A random half of each group's units."""
    sizes = {g.layers[0]: max(1, g.size // g.together // 2) * g.together for g in found}
    units = {layer: torch.arange(size) for layer, size in sizes.items()}
    return random_like(units, found, generator(seed, "half"))


@contextmanager
def silenced(model: nn.Module, units: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Zero what the removed units give, behind the batch normalisation where there is one."""
    hooks, modules = [], list(model.named_modules())
    for (name, module), (_, after) in pairwise([*modules, ("", nn.Identity())]):
        if isinstance(module, CONV_OR_LINEAR):
            kept = torch.zeros(len(module.weight))
            kept[units[name]] = 1
            place = after if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) else module

            def hook(_: nn.Module, __: object, output: Tensor, kept: Tensor = kept) -> Tensor:
                return output * kept.to(output).view(1, -1, *(1,) * (output.dim() - 2))

            hooks.append(place.register_forward_hook(hook))
    try:
        yield model
    finally:
        for handle in hooks:
            handle.remove()


def assert_same_function(model: nn.Module, small: Smaller, x: Tensor, rtol: float) -> None:
    with torch.no_grad(), silenced(model, small.units):
        expected = model(x)
    with torch.no_grad():
        found, whole = small.model(x), model(x)
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= rtol * scale
    assert float((found - whole).abs().max()) > 1e-4 * scale, "nothing was removed"


def assert_exact_counts(model: nn.Module, structure: Structure, small: Smaller) -> None:
    count = sum(parameter.numel() for parameter in small.model.parameters())
    assert small.parameters == count < small.original == sum(p.numel() for p in model.parameters())
    modules = dict(small.model.named_modules())
    layers = [n for n, module in model.named_modules() if isinstance(module, CONV_OR_LINEAR)]
    assert list(small.units) == layers
    for name in layers:
        assert len(small.units[name]) == len(modules[name].weight)
    assert structure.parameters(structure.kept(small.units)) == count


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_small_mlps_equal_slices_of_their_weights(data):
    widths = data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=5))
    model, x = mlp(*widths), torch.randn(7, widths[0], dtype=torch.double)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    keep = {
        layer: torch.tensor(sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=1))))
        for layer, width in zip(layers[:-1], widths[1:-1], strict=True)
    }
    with unchanged(model):
        small = keep_units(model, x[:1], keep)

    rows = [torch.arange(widths[0]), *keep.values(), torch.arange(widths[-1])]
    expected, count = x, 0
    for layer, (before, after) in zip(layers, pairwise(rows), strict=True):
        weight, bias = model.get_submodule(layer).weight, model.get_submodule(layer).bias
        assert torch.equal(small.model.get_submodule(layer).weight, weight[after][:, before])
        assert torch.equal(small.units[layer], after)
        expected = F.linear(expected, weight[after][:, before], bias[after])
        expected = expected if layer == layers[-1] else expected.relu()
        count += len(after) * (len(before) + 1)
    assert torch.allclose(small.model(x), expected, rtol=0, atol=1e-12)
    assert (small.parameters, small.original) == (count, sum(p.numel() for p in model.parameters()))
    assert small.density == count / small.original
    assert small.ratio == 1 - small.density


@pytest.mark.parametrize("norm", [False, True])
def test_a_convnet_computes_what_is_left_of_it(norm):
    with seeded(0):
        model, x = convnet(norm=norm), torch.randn(4, 2, 6, 6, dtype=torch.double)
    structure = Structure(model, x)
    assert [(g.size, g.together) for g in structure.groups] == [(6, 2), (8, 2), (5, 1)]
    for seed in range(3):
        with unchanged(model):
            small = keep_units(model, x[:1], half(structure.groups, seed))
        assert_same_function(model, small, x, 1e-10)
        assert_exact_counts(model, structure, small)


def test_behind_a_batch_norm_the_shift_of_a_silent_unit_goes_too():
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 2))
        model, x = model.double().eval(), torch.randn(3, 1, 4, 4, dtype=torch.double)
        _unsettle(model[1])
    small = keep_units(model, x, {"0": torch.tensor([0, 2])}).model
    unread, own = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        unread[3].weight[:, [1, 3]] = 0
        own[0].weight[[1, 3]] = 0
        own[0].bias[[1, 3]] = 0
    assert torch.allclose(small(x), unread(x), rtol=0, atol=1e-12)
    shift = (
        model[1].bias
        - model[1].weight * model[1].running_mean / (model[1].running_var + model[1].eps).sqrt()
    )
    constant = (model[3].weight.sum((2, 3)) * shift.relu())[:, [1, 3]].sum(1)
    assert float(constant.detach().abs().max()) > 1e-3
    assert torch.allclose(small(x) + constant.view(1, -1, 1, 1), own(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "dtype"),
    [
        ("resnet18", 32, torch.double),
        ("mobilenet_v2", 32, torch.double),
        ("vgg11_bn", 32, torch.float),
        ("alexnet", 63, torch.float),
    ],
)
def test_torchvision_networks_compute_what_is_left_of_them(name, size, dtype):
    model = zoo(name).to(dtype)
    x = torch.randn(2, 3, size, size, dtype=dtype, generator=generator(0, "x"))
    structure = Structure(model, x)
    small = structure.smaller(structure.kept(half(structure.groups)))
    assert_same_function(model, small, x, 1e-10 if dtype is torch.double else 1e-4)
    assert_exact_counts(model, structure, small)
    assert 0.2 < small.density < 0.4


def test_layers_that_a_residual_sum_couples_keep_the_same_units():
    model, x = zoo("resnet18"), torch.zeros(1, 3, 32, 32)
    with unchanged(model):
        found = groups(model, x)
    assert found[0].layers[0] == "conv1"
    assert set(found[0].layers) == {"conv1", "layer1.0.conv2", "layer1.1.conv2"}
    assert "layer1.0.conv1" in found[0].feeds
    assert not any("fc" in group.layers for group in found)
    small = keep_units(model, x, {"layer1.1.conv2": torch.arange(10, 20)})
    for layer in found[0].layers:
        assert small.units[layer].tolist() == list(range(10, 20))
    again = keep_units(model, x, small.units)
    assert [tensor.shape for tensor in again.model.state_dict().values()] == [
        tensor.shape for tensor in small.model.state_dict().values()
    ]
    with pytest.raises(UsageError, match="are coupled: they can only keep the same units"):
        keep_units(model, x, {"conv1": torch.arange(5), "layer1.0.conv2": torch.arange(6)})


def test_a_layer_whose_outputs_meet_two_others():
    """c = concat(a, b) + c: the first half of c goes with a, the second with b."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(1, 5, 1)
            self.end = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    with seeded(0):
        model, x = Net().double(), torch.randn(2, 1, 2, 2, dtype=torch.double)
    small = keep_units(model, x, {"a": torch.tensor([0, 2]), "b": torch.tensor([1])})
    assert small.units["c"].tolist() == [0, 2, 4]
    assert_same_function(model, small, x, 1e-10)
    assert_exact_counts(model, Structure(model, x), small)
    with pytest.raises(UsageError, match="are coupled"):
        keep_units(model, x, {"c": torch.tensor([0, 2, 3]), "b": torch.tensor([1])})
    by_c = keep_units(model, x, {"c": torch.tensor([0, 2, 4])})
    assert {name: units.tolist() for name, units in by_c.units.items()} == {
        name: units.tolist() for name, units in small.units.items()
    }


def test_layers_that_are_concatenated_are_cut_each_in_its_place():
    class Fire(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.end = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(torch.cat([self.a(x), self.b(x)], 1))

    with seeded(0):
        model, x = Fire().double(), torch.randn(2, 1, 2, 2, dtype=torch.double)
    small = keep_units(model, x, {"a": torch.tensor([0, 2]), "b": torch.tensor([1, 3])})
    assert torch.equal(small.model.end.weight, model.end.weight[:, [0, 2, 4, 6]])
    assert_same_function(model, small, x, 1e-10)
    assert_exact_counts(model, Structure(model, x), small)


def test_a_network_that_draws_noise_is_compared_on_the_same_noise():
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    model = Noisy(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with unchanged(model):
        assert keep_units(model, torch.zeros(1, 3), {"0": torch.tensor([1, 2])}).parameters == 14


def test_the_copy_keeps_dropout_flags_and_frozen_parameters():
    with seeded(0):
        model, x = mlp(3, 8, 8, 2).train(), torch.randn(5, 3, dtype=torch.double)
    model[1].weight.requires_grad_(False)
    model(x).sum().backward()
    model[5].eval()
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    with unchanged(model), torch.no_grad():
        small = keep_units(model, x, {"1": torch.arange(4)}).model
    assert [m.p for m in small.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in small.parameters())
    old = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in old for parameter in small.parameters())


def test_the_output_layer_stays_wherever_it_is():
    class Early(nn.Module):
        """Defines its output layer first, and ends with something that is no layer."""

        def __init__(self) -> None:
            super().__init__()
            self.end, self.start = nn.Conv2d(4, 2, 1), nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.start(x).relu()).relu().mean((2, 3)) * 2

    model, x = Early(), torch.zeros(1, 1, 3, 3)
    assert groups(model, x) == (Group(("start",), ("end",), 4),)
    everything = keep_units(model, x, {"end": torch.arange(2)})
    assert everything.density == 1
    with pytest.raises(UsageError, match="'end' must keep all 2 units: its units are the network"):
        keep_units(model, x, {"end": torch.arange(1)})


def test_random_like_keeps_as_many_and_no_others():
    model, x = zoo("resnet18"), torch.zeros(1, 3, 32, 32)
    found = groups(model, x)
    small = keep_units(model, x, half(found))
    random = random_like(small.units, found, generator(7))
    assert list(random) == [group.layers[0] for group in found]
    for layer, units in random.items():
        assert len(units) == len(small.units[layer])
        assert units.tolist() == sorted(set(units.tolist()))
    again = random_like(small.units, found, generator(7))
    other = random_like(small.units, found, generator(8))
    assert all(torch.equal(random[layer], again[layer]) for layer in random)
    assert not all(torch.equal(random[layer], other[layer]) for layer in random)


def test_random_like_draws_every_unit_equally_often_and_bundles_whole():
    bundled = Group(("0",), ("1",), 6, 2)
    draw, counts = generator(0), torch.zeros(6)
    for _ in range(600):
        units = random_like({"0": torch.arange(4)}, [bundled], draw)["0"]
        assert (units[:2] + 3).tolist() == units[2:].tolist()
        counts[units] += 1
    assert bool(((counts - 400).abs() < 60).all())  # 400 ± 5 standard deviations


def test_groups_of_a_convolution_take_units_in_bundles():
    model, x = convnet(norm=False), torch.zeros(1, 2, 6, 6, dtype=torch.double)
    with pytest.raises(UsageError, match=r"a convolution of 2 groups: units i, i \+ 3"):
        keep_units(model, x, {"0": torch.tensor([0, 1, 2])})


def test_no_unit_at_all_needs_permission_and_linear_layers():
    model, x = mlp(3, 4, 4, 2), torch.randn(5, 3, dtype=torch.double)
    none: dict[str, Tensor] = {"4": torch.tensor([], dtype=torch.long)}
    with pytest.raises(UsageError, match="'4' would keep no unit; at least one must stay"):
        keep_units(model, x, none)
    empty = keep_units(model, x, none, allow_empty=True)
    assert torch.equal(empty.model(x), model[-1].bias.expand(5, 2))
    assert empty.parameters == 3 * 4 + 4 + 2
    model, x = convnet(norm=False), torch.zeros(1, 2, 6, 6, dtype=torch.double)
    with pytest.raises(UsageError, match="only what consists of linear layers alone"):
        keep_units(model, x, {"0": torch.tensor([])}, allow_empty=True)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"2": [0]}, "no conv or linear layer '2'"),
        ({"hidden": [0]}, "no conv or linear layer 'hidden'"),
        ({"1": [0, 4]}, "'1' has units 0 to 3"),
        ({"1": [-1]}, "'1' has units 0 to 3"),
        ({"1": [True]}, "units of layer '1' are indices"),
        ({"7": [1]}, "'7' must keep all 2 units: its units are the network's outputs"),
    ],
)
def test_units_that_do_not_exist_or_must_stay(keep, words):
    model, x = mlp(3, 4, 4, 2), torch.zeros(1, 3, dtype=torch.double)
    with unchanged(model), pytest.raises(UsageError, match=words):
        keep_units(model, x, {layer: torch.tensor(units) for layer, units in keep.items()})


class Wired(nn.Module):
    """conv a → some wiring → conv b."""

    def __init__(self, wiring: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.wiring, self.b = nn.Conv2d(1, 4, 3), wiring, nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.wire(self.a(x)))

    def wire(self, x: Tensor) -> Tensor:
        assert self.wiring is not None
        return self.wiring(x)


class Reversed(Wired):
    def wire(self, x: Tensor) -> Tensor:
        return x.flip(1)


class Detached(Wired):
    def wire(self, x: Tensor) -> Tensor:
        return x.detach()


class Shuffled(Wired):
    def wire(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, self.matrix)


class Several(Wired):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.b(self.a(x)), x


def shared() -> nn.Module:
    model = nn.Sequential(*(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    model[2].weight = model[1].weight
    return nn.Sequential(*model, nn.Conv2d(4, 2, 1))


def parametrised() -> nn.Module:
    model = Wired(nn.ReLU())
    nn.utils.parametrizations.weight_norm(model.b)
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Reversed, "units of layer 'a' cannot be removed: the smaller network computes something"),
        (Shuffled, "units of layer 'a' cannot be removed: the smaller network fails: shape"),
        (lambda: Wired(Mixer()), r"layer 'a' cannot be removed.*does not know: 'wiring' \(Mixer\)"),
        (Detached, "cannot trace Detached: layer 'a' runs where autograd does not follow"),
        (Several, "returns a tuple, not a tensor"),
        (shared, "layer '1' shares a parameter with another layer"),
        (parametrised, "layer 'b' computes its weight"),
        (lambda: nn.Sequential(nn.Linear(3, 2)), "cannot take inputs of shape 1×6×6"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(make, words):
    with seeded(1):
        model, x = make(), torch.zeros(1, 1, 6, 6)

    def cut() -> None:
        found = groups(model, x)
        keep_units(model, x, {group.layers[0]: torch.tensor([0, 1, 2]) for group in found})

    with unchanged(model), pytest.raises(ModelError, match=words):
        cut()


def test_a_layer_that_cannot_be_cut_does_not_keep_others_from_it():
    model, x = nn.Sequential(nn.Conv2d(1, 3, 1), Reversed()), torch.zeros(1, 1, 6, 6)
    model[1].a = nn.Conv2d(3, 4, 3)
    small = keep_units(model, x, {"0": torch.tensor([1])})
    assert small.units["0"].tolist() == [1]
    with pytest.raises(ModelError, match=r"units of layer '1\.a' cannot be removed"):
        keep_units(model, x, {"0": torch.tensor([1]), "1.a": torch.tensor([0, 1, 2])})


def test_units_behind_a_layer_norm_can_go_although_the_others_change():
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    small = keep_units(model, torch.zeros(1, 3), {"0": torch.tensor([0, 3])}).model
    hidden = F.layer_norm(model[0](torch.ones(1, 3))[:, [0, 3]], (2,))
    expected = F.linear(hidden, model[2].weight[:, [0, 3]], model[2].bias)
    assert torch.allclose(small(torch.ones(1, 3)), expected, atol=1e-6)


def test_attention_stays_and_its_neighbours_can_go():
    with seeded(0):
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(block, nn.Flatten(), nn.Linear(24, 2)).eval()
    x = torch.zeros(1, 3, 8)
    assert [group.layers for group in groups(model, x)] == [("0.linear1",)]
    small = keep_units(model, x, {"0.linear1": torch.tensor([1, 5, 6])})
    assert small.notices == ()
    unread = copy.deepcopy(model)
    gone = [unit for unit in range(16) if unit not in (1, 5, 6)]
    unread[0].linear2.weight.data[:, gone] = 0
    x = torch.randn(4, 3, 8, generator=generator(0))
    assert torch.allclose(small.model(x), unread(x), atol=1e-5)
    assert not torch.allclose(small.model(x), model(x), atol=1e-2)
    with pytest.raises(UsageError, match=r"it is coupled with 0.self_attn \(MultiheadAttention\)"):
        keep_units(model, x, {"0.linear2": torch.arange(4)})


def test_layers_that_evaluation_does_not_reach_are_named():
    class Sided(Wired):
        def __init__(self) -> None:
            super().__init__(nn.ReLU())
            self.side = nn.Conv2d(4, 2, 1)

    small = keep_units(Sided(), torch.zeros(1, 1, 6, 6), {"a": torch.tensor([0])})
    assert small.notices == ("layers that evaluation does not reach are left as they were: side",)
    with pytest.raises(UsageError, match="'side' must keep all 2 units: evaluation does not reach"):
        keep_units(Sided(), torch.zeros(1, 1, 6, 6), {"side": torch.tensor([0])})
