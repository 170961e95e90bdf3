"""Trace, capture, addresses and the measuring pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from polykit.api import StreamingMetric
from polykit.errors import ModelError, PluginError, UsageError
from polykit.runtime.measuring import measure_all
from polykit.runtime.passes.addressing import select_layers, select_units
from polykit.runtime.passes.capture import capture, collect, unit_values
from polykit.runtime.passes.trace import trace
from polykit.runtime.samples.data import TensorSplit
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.types import At, Batch, Data, Measurement, Site, Subject, UnitRef


class Functional(nn.Module):
    """Conv, batch norm and ReLU by hand, a residual sum in place, one linear layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(4, 4, 1)
        self.shared = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)
        with torch.no_grad():
            self.norm.running_mean += torch.randn(4)
            self.norm.weight += torch.rand(4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.conv(x)))
        h += self.mix(h)
        h = h.mean(dim=(2, 3))
        return self.out(torch.tanh(self.shared(F.relu(self.shared(h)))))


@pytest.fixture
def functional() -> nn.Module:
    with seeded(0, "capture"):
        return Functional().eval()


@pytest.fixture
def inplace() -> nn.Module:
    with seeded(1, "capture"):
        layers = [nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 5, 2), nn.ReLU(True)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(45, 2)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def tiny() -> nn.Sequential:
    with seeded(2, "capture"):
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()


def data(x: Tensor, y: Tensor) -> Data:
    split = TensorSplit(x, y)
    return Data("mine", split, split, split, "regression", tuple(x.shape[1:]), y.shape[1])


def subject(model: nn.Module, found: Data, batch_size: int = 4) -> Subject:
    x, _ = next(iter(found.test.batches(1)))
    path = trace(model, x)

    def no_space(name: str, network: Subject) -> Any:
        raise NotImplementedError

    device = torch.device("cpu")
    return Subject(model, path, select_layers(path), found, device, batch_size, no_space)


def test_trace_tells_order_kinds_shapes_and_activations(functional: nn.Module, x: Tensor) -> None:
    path = trace(functional, x)
    assert path.layers == ("conv", "mix", "shared", "out")
    assert path.output_layer == "out"
    assert [call.call for call in path.of("shared")] == [0, 1]
    conv, mix, norm = path.of("conv")[0], path.of("mix")[0], path.of("norm")[0]
    assert (conv.kind, norm.kind, path.of("out")[0].kind) == ("conv", "other", "linear")
    assert (conv.input_shape, conv.shape, conv.units, conv.positions) == (
        (1, 6, 6),
        (4, 6, 6),
        4,
        36,
    )
    assert conv.activated
    assert norm.activated
    assert not mix.activated
    assert conv.overwritten == {"post"}  # by the sum


def test_trace_uses_one_sample_and_evaluation_mode(x: Tensor) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((len(x), self.training))
            return x

    model = nn.Sequential(Spy()).train()
    with unchanged(model):
        trace(model, x)
    assert seen == [(1, False)]


def test_trace_of_a_wrong_input_names_the_shape() -> None:
    with pytest.raises(ModelError, match=r"Sequential cannot take inputs of shape 4:"):
        trace(tiny(), torch.zeros(1, 4))


def test_pre_and_post_of_functional_relu_behind_batch_norm(
    functional: nn.Module, x: Tensor
) -> None:
    sites = [Site("conv", "pre"), Site("conv", "post"), Site("norm", "pre")]
    values = capture(functional, x, sites, trace(functional, x)).values
    pre = functional.conv(x)
    torch.testing.assert_close(values[sites[0]], pre)
    torch.testing.assert_close(values[sites[1]], F.relu(functional.norm(pre)))
    torch.testing.assert_close(values[sites[2]], functional.norm(pre))


def test_post_without_a_nonlinearity_is_the_output_itself(functional: nn.Module, x: Tensor) -> None:
    pre, post = Site("mix", "pre"), Site("mix", "post")
    values = capture(functional, x, [pre, post], trace(functional, x)).values
    torch.testing.assert_close(values[post], values[pre])


def test_shared_modules_are_read_by_call(functional: nn.Module, x: Tensor) -> None:
    sites = [Site("shared", at, call) for call in (0, 1) for at in ("pre", "post", "input")]
    values = capture(functional, x, sites, trace(functional, x)).values
    first, second = (values[Site("shared", "pre", call)] for call in (0, 1))
    torch.testing.assert_close(values[Site("shared", "post", 0)], F.relu(first))
    torch.testing.assert_close(values[Site("shared", "input", 1)], F.relu(first))
    torch.testing.assert_close(second, functional.shared(F.relu(first)))
    torch.testing.assert_close(values[Site("shared", "post", 1)], torch.tanh(second))


@pytest.mark.parametrize("wanted", [("pre",), ("post",), ("pre", "post", "input")])
def test_an_in_place_relu_overwrites_nothing(
    inplace: nn.Module, x: Tensor, wanted: tuple[At, ...]
) -> None:
    sites = [Site(layer, at) for layer in ("0", "2") for at in wanted]
    captured = capture(inplace, x, sites, trace(inplace, x), outputs=True)
    first = inplace[0](x)
    second = inplace[2](F.relu(first))
    expected = {
        Site("0", "input"): x,
        Site("0", "pre"): first,
        Site("0", "post"): F.relu(first),
        Site("2", "input"): F.relu(first),
        Site("2", "pre"): second,
        Site("2", "post"): F.relu(second),
    }
    for site in sites:
        torch.testing.assert_close(captured.values[site], expected[site], rtol=0, atol=0)
    torch.testing.assert_close(captured.outputs, inplace(x), rtol=0, atol=0)


def test_a_module_that_overwrites_its_own_input(inplace: nn.Module, x: Tensor) -> None:
    sites = [Site("1", "input"), Site("2", "pre")]
    values = capture(inplace, x, sites, trace(inplace, x)).values
    torch.testing.assert_close(values[sites[0]], inplace[0](x), rtol=0, atol=0)


def test_a_sum_in_place_leaves_post_as_it_was(functional: nn.Module, x: Tensor) -> None:
    site = Site("conv", "post")
    captured = capture(functional, x, [site], trace(functional, x), outputs=True)
    expected = F.relu(functional.norm(functional.conv(x)))
    torch.testing.assert_close(captured.values[site], expected, rtol=0, atol=0)
    torch.testing.assert_close(captured.outputs, functional(x), rtol=0, atol=0)


def test_the_pass_stops_behind_the_last_site() -> None:
    class Fuse(nn.Module):
        lit = False

        def forward(self, x: Tensor) -> Tensor:
            if self.lit:
                raise RuntimeError("reached")
            return x

    model, x = nn.Sequential(*tiny()[:2], Fuse(), nn.Linear(5, 1)), torch.randn(4, 3)
    path = trace(model, x)
    model[2].lit = True
    for at in ("input", "pre", "post"):
        assert capture(model, x, [Site("0", at)], path).outputs is None
    with unchanged(model), pytest.raises(RuntimeError, match="reached"):
        capture(model, x, [Site("0")], path, outputs=True)


def test_nothing_is_left_behind(functional: nn.Module, x: Tensor) -> None:
    functional.train()
    functional.norm.eval()
    with unchanged(functional):
        path = trace(functional, x)
        sites = [Site("conv", at) for at in ("pre", "post", "input")]
        capture(functional, x, sites, path, outputs=True)
        batches = [(part, part) for part in x.split(3)]
        collect(functional, batches, sites[:2], path)


def test_units_come_second_for_tokens_too() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 6, 3)
    values = capture(model, x, [Site("0")], trace(model, x)).values[Site("0")]
    torch.testing.assert_close(values, model[0](x).transpose(1, 2))


def test_an_unreached_site_is_refused(functional: nn.Module, x: Tensor) -> None:
    with pytest.raises(UsageError, match="never reaches shared@2"):
        capture(functional, x, [Site("shared", "pre", 2)], trace(functional, x))


@pytest.mark.parametrize("model", ["functional", "inplace"])
def test_works_under_forward_mode(model: str, x: Tensor, request: pytest.FixtureRequest) -> None:
    network: nn.Module = request.getfixturevalue(model)
    network = network.double()
    path = trace(network, x.double())
    layer = path.layers[0]
    sites = [Site(layer, at) for at in ("pre", "post")]
    direction = torch.randn_like(x, dtype=torch.float64)

    def values(inputs: Tensor) -> Tensor:
        return torch.stack([*capture(network, inputs, sites, path).values.values()])

    with torch.no_grad(), unchanged(network):
        _, slopes = jvp(values, (x.double(),), (direction,))
        step = 1e-6 * direction
        differences = (values(x.double() + step) - values(x.double() - step)) / 2e-6
    torch.testing.assert_close(slopes, differences, rtol=1e-5, atol=1e-6)
    assert bool(slopes.any())


def test_gradients_flow_and_parameters_can_be_replaced() -> None:
    model, x = tiny(), torch.randn(4, 3)
    params = {"0.weight": torch.ones(5, 3, requires_grad=True)}
    site = Site("0")
    with unchanged(model):
        value = capture(model, x, [site], trace(model, x), params=params).values[site]
        (gradient,) = torch.autograd.grad(value.sum(), params["0.weight"])
    torch.testing.assert_close(value, x.sum(1, keepdim=True) + model[0].bias)
    torch.testing.assert_close(gradient, x.sum(0).expand(5, 3))


@pytest.mark.parametrize("layer", ["conv", "mix", "shared"])
def test_fed_values_take_the_place_of_a_layers_own(
    functional: nn.Module, x: Tensor, layer: str
) -> None:
    path, site = trace(functional, x), Site(layer, "post")
    last = Site("out")
    with unchanged(functional):
        own = capture(functional, x, [site], path).values[site].clone()
        same = capture(functional, x, [last], path, feed=(site, own)).values[last]
        other = torch.randn(own.shape, generator=torch.Generator().manual_seed(1))
        before = other.clone()
        fed = capture(functional, x, [site, last], path, feed=(site, other)).values
    torch.testing.assert_close(same, functional(x))
    assert torch.equal(other, before)  # though the network works on it in place
    torch.testing.assert_close(fed[site], other)
    assert (fed[last] - same).abs().max() > 1e-3


def test_feeding_behind_an_in_place_relu(inplace: nn.Module, x: Tensor) -> None:
    path, site = trace(inplace, x), Site("0", "post")
    values = torch.randn(
        capture(inplace, x, [site], path).values[site].shape,
        generator=torch.Generator().manual_seed(0),
    ).requires_grad_()
    captured = capture(inplace, x, [Site("2")], path, feed=(site, values), outputs=True)
    torch.testing.assert_close(captured.values[Site("2")], inplace[2](values))
    torch.testing.assert_close(captured.outputs, inplace[2:](values))
    (gradient,) = torch.autograd.grad(captured.values[Site("2")].sum(), values)
    assert gradient.abs().sum() > 0


def test_feeding_the_wrong_thing_is_refused(inplace: nn.Module, x: Tensor) -> None:
    path, values = trace(inplace, x), torch.zeros(7, 1, 1, 1)
    with unchanged(inplace):
        with pytest.raises(UsageError, match=r"layer 0 has values of shape .*; \(1, 1, 1\) cannot"):
            capture(inplace, x, [Site("2")], path, feed=(Site("0", "post"), values))
        with pytest.raises(UsageError, match="fed in at post, behind 0's nonlinearity, not at pre"):
            capture(inplace, x, [Site("2")], path, feed=(Site("0", "pre"), values))
        with pytest.raises(UsageError, match="never reaches nowhere"):
            capture(inplace, x, [Site("2")], path, feed=(Site("nowhere", "post"), values))


def test_collect_does_not_depend_on_the_chunks(functional: nn.Module, x: Tensor) -> None:
    functional, x = functional.double().train(), x.double()
    sites, path = [Site("conv"), Site("shared", "post", 1)], trace(functional, x)
    whole = collect(functional, [(x, x)], sites, path)
    parts = collect(functional, [(part, part) for part in x.split(2)], sites, path)
    for site in sites:
        assert whole[site].shape == (7, 4)
        torch.testing.assert_close(parts[site], whole[site], rtol=1e-12, atol=1e-12)


def test_unit_values() -> None:
    maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
    assert torch.equal(unit_values(maps, "center"), maps[:, :, 2, 2])
    assert torch.equal(unit_values(maps, "max"), maps[:, :, 3, 4])
    torch.testing.assert_close(unit_values(maps), maps.mean(dim=(2, 3)))
    assert unit_values(maps[..., 0, 0], "max").shape == (2, 3)


def test_globs_choose_hidden_layers_first(functional: nn.Module, x: Tensor) -> None:
    path = trace(functional, x)
    assert select_layers(path) == ("conv", "mix", "shared")
    assert select_layers(path, ["shared", "c*"]) == ("conv", "shared")
    assert select_layers(path, ["out"]) == ("out",)
    assert select_layers(path, ["no?m"]) == ("norm",)
    with pytest.raises(UsageError, match=r"no layer matches 'cnov'. Did you mean 'conv'\?.*shared"):
        select_layers(path, ["*", "cnov"])


def test_units_by_pattern(functional: nn.Module, x: Tensor) -> None:
    path = trace(functional, x)
    assert select_units(path, "conv:1,3") == (UnitRef("conv", 1), UnitRef("conv", 3))
    assert select_units(path, "out:*") == (UnitRef("out", 0), UnitRef("out", 1))
    assert [unit.index for unit in select_units(path, "mix:0-2")] == [0, 1, 2]
    with pytest.raises(UsageError, match="'conv' has units 0 to 3, not 4"):
        select_units(path, "conv:2-4")
    for pattern in ("conv", "conv:", ":1", "conv:a", "conv:1-"):
        with pytest.raises(UsageError, match="names no units"):
            select_units(path, pattern)


class Watch(StreamingMetric):
    """Sums one reading, and what came with it."""

    at: At = "pre"
    outputs: bool = False

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at,)

    @property
    def needs_outputs(self) -> bool:
        return self.outputs

    def update(self, subject: Subject, state: Any, batch: Batch) -> Any:
        sums = {name: v.sum().item() for name, v in batch.activations[self.at].items()}
        if self.outputs:
            assert batch.outputs is not None
            sums["outputs"] = batch.outputs.sum().item()
        return {name: value + (state or {}).get(name, 0) for name, value in sums.items()}

    def finish(self, subject: Subject, state: Any) -> Measurement:
        return Measurement(summary=state)


class Blind(Watch):
    """Looks at the targets only."""

    @property
    def reads(self) -> tuple[At, ...]:
        return ()

    def update(self, subject: Subject, state: Any, batch: Batch) -> Any:
        return {"targets": (state or {"targets": 0.0})["targets"] + batch.targets.sum().item()}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_one_pass_serves_all_metrics(batch_size: int) -> None:
    model, passes = tiny(), []
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    found = subject(model, data(x, y), batch_size)
    hook = model[0].register_forward_hook(lambda *_: passes.append(1))
    metrics = [Watch(), Watch(at="post", outputs=True), Blind()]
    first, second, third = (measurement.summary for measurement in measure_all(metrics, found))
    hook.remove()
    assert len(passes) == -(-7 // batch_size)
    assert first == pytest.approx({"0": model[0](x).sum().item()}, abs=1e-5)
    assert second["0"] == pytest.approx(F.relu(model[0](x)).sum().item(), abs=1e-5)
    assert second["outputs"] == pytest.approx(model(x).sum().item(), abs=1e-5)
    assert third["targets"] == pytest.approx(y.sum().item(), abs=1e-5)


def test_a_pass_nobody_needs_is_not_made() -> None:
    model = tiny()
    found = subject(model, data(torch.randn(7, 3), torch.randn(7, 2)))
    model[0].register_forward_hook(lambda *_: pytest.fail("the model ran"))
    measure_all([Blind()], found)


def test_measuring_holds_one_chunk_at_a_time() -> None:
    class Lazy:
        def __init__(self) -> None:
            self.alive: list[weakref.ref[Tensor]] = []
            self.most = 0

        def __len__(self) -> int:
            return 40

        def batches(self, batch_size: int, **_: Any) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(40):
                x = torch.randn(1, 3)
                self.alive.append(weakref.ref(x))
                self.most = max(self.most, sum(ref() is not None for ref in self.alive))
                yield x, torch.zeros(1, 2)

        def skipped(self) -> tuple[str, ...]:
            return ()

    split = Lazy()
    found = Data("lazy", split, split, split, "regression", (3,), 2)
    measure_all([Watch(outputs=True)], subject(tiny(), found))
    assert len(split.alive) > 40
    assert split.most <= 3  # the one being read, the one being measured


@pytest.mark.parametrize(("layer", "place"), [(0, "layer '0'"), (2, "the network")])
def test_nan_is_refused_where_it_comes_up(layer: int, place: str) -> None:
    model = tiny()
    found = subject(model, data(torch.randn(7, 3), torch.randn(7, 2)))
    with torch.no_grad():
        model[layer].weight[0, 0] = torch.nan
    with unchanged(model), pytest.raises(ModelError, match=f"{place} gives NaN"):
        measure_all([Watch(outputs=True)], found)


def test_what_is_no_metric_and_what_breaks_is_named() -> None:
    class Breaks(Watch):
        def update(self, subject: Subject, state: Any, batch: Batch) -> Any:
            raise ZeroDivisionError("oh")

    found = subject(tiny(), data(torch.randn(7, 3), torch.randn(7, 2)))
    with pytest.raises(PluginError, match=r"Breaks .*ZeroDivisionError: oh"):
        measure_all([Breaks()], found)
    with pytest.raises(PluginError, match="str is no metric"):
        measure_all(["ig"], found)  # type: ignore[list-item]
