"""Features that enter behind a layer, and what the attribution metrics share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import DataError, UsageError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.passes.feeding import downstream
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.testing.samples import datasets, networks, subject
from polykit.types import FeatureSpace, Measurement, Subject
from polykit_builtins.metrics.attribution import (
    attribution_matrix,
    captum_attribution_matrix,
    response_matrix,
)
from polykit_builtins.metrics.capacity import Capacity
from polykit_builtins.metrics.feature_dimensionality import FeatureDimensionality
from polykit_builtins.metrics.feature_metric import shares
from polykit_builtins.metrics.ig import IntegratedGradients
from polykit_builtins.metrics.monosemanticity import Monosemanticity

Q = 5
IMAGE = torch.zeros(1, 1, 6, 6)


class Functional(nn.Module):
    """F.relu by hand, a branch beside the layer, a skip connection, an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.beside = nn.Conv2d(1, 3, 1)
        self.second = nn.Conv2d(3, 3, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        h += self.beside(x)
        return self.out(F.relu(self.second(h)).mean(dim=(2, 3)))


def make(kind: str) -> tuple[nn.Module, str, Callable[[Tensor], Tensor], tuple[int, ...]]:
    """A network, the layer to feed, what lies behind it by hand, and the shape of its values."""
    with seeded(0, kind):
        if kind == "mlp":
            hidden = [nn.Linear(36, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 6), nn.Tanh()]
            model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(6, 2))
            return model.double(), "1", model[4], (7,)
        if kind == "conv":
            convs = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
            model = nn.Sequential(*convs, nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten())
            model.append(nn.Linear(24, 2))
            return model.double(), "0", lambda h: model[3](h).mean(dim=(2, 3)), (4, 4, 4)
        if kind == "tokens":
            tokens = [nn.Unflatten(3, (2, 3)), nn.Flatten(1, 3), nn.Linear(3, 4), nn.ReLU()]
            model = nn.Sequential(*tokens, nn.Linear(4, 5), nn.Flatten(), nn.Linear(60, 2))
            return model.double(), "2", lambda h: model[4](h.mT).mean(dim=1), (4, 12)
        functional = Functional().double()

        def behind(h: Tensor) -> Tensor:
            return functional.second(h + functional.beside(IMAGE.double())).mean(dim=(2, 3))

        return functional, "first", behind, (3, 6, 6)


def encoder(shape: tuple[int, ...]) -> nn.Module:
    with seeded(1, "encoder"):
        size = int(torch.tensor(shape).prod())
        return nn.Sequential(nn.Linear(Q, size), nn.Tanh(), nn.Unflatten(1, shape)).double()


KINDS = ["mlp", "conv", "tokens", "functional"]


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_layer_features_take_the_place_of_its_values(kind: str) -> None:
    model, layer, behind, shape = make(kind)
    encode = encoder(shape)
    with unchanged(model, encode):
        M = attribution_matrix(model, encode, Q, layer=layer, inputs=IMAGE)
    model.eval()
    with torch.no_grad():
        start, ends = (encode(x.double()) for x in (torch.zeros(1, Q), torch.eye(Q)))
        expected = (behind(ends) - behind(start)).T
    torch.testing.assert_close(M, expected, rtol=0, atol=1e-12)
    assert M.abs().max() > 0.01


@pytest.mark.parametrize("at", ["pre", "post"])
@pytest.mark.parametrize("kind", KINDS)
def test_riemann_behind_a_layer_equals_captum(kind: str, at: str) -> None:
    model, layer, _, shape = make(kind)
    encode = encoder(shape)
    more = {
        "layer": layer,
        "inputs": IMAGE,
        "steps": 4,
        "at": at,
    }  # fourths: Captum keeps its steps in float32
    with unchanged(model, encode):
        ours = attribution_matrix(model, encode, Q, **more)
        captums = captum_attribution_matrix(model, encode, Q, **more)
        parts = attribution_matrix(model, encode, Q, chunk_size=2, **more)
    torch.testing.assert_close(ours, captums, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, parts, rtol=0, atol=1e-12)
    exact = attribution_matrix(model, encode, Q, layer=layer, inputs=IMAGE, at=at)
    assert (ours - exact).abs().max() > 1e-6


def test_the_pass_ends_at_the_last_layer_and_units_upstream_are_left_out() -> None:
    model, layer, _, shape = make("mlp")
    encode = encoder(shape)
    everything = attribution_matrix(
        model, encode, Q, layers=["1", "4", "6"], layer=layer, inputs=IMAGE
    )
    rows: list[int] = []
    hook = model[6].register_forward_hook(lambda *call: rows.append(len(call[1][0])))
    hidden = attribution_matrix(model, encode, Q, layer=layer, inputs=IMAGE)
    hook.remove()
    assert set(rows) <= {1}  # to see the network's shape; never for the features
    assert (everything.shape, hidden.shape) == ((8, Q), (6, Q))
    assert torch.equal(everything[:6], hidden)
    encode = encoder((6,))
    last = attribution_matrix(model, encode, Q, layers=["6"], layer="4", inputs=IMAGE)
    start, ends = (encode(x.double()) for x in (torch.zeros(1, Q), torch.eye(Q)))
    torch.testing.assert_close(last, (model[6].weight @ (ends - start).T).detach())


def test_only_what_depends_on_the_layer_counts_as_behind_it() -> None:
    model, *_ = make("functional")
    passed = trace(model, IMAGE.double())
    assert [call.layer for call in passed.calls] == ["first", "beside", "second", "out"]
    found = downstream(model, IMAGE.double(), "first", passed, ["first", "beside", "second", "out"])
    assert found == ("second", "out")
    with torch.no_grad(), unchanged(model):
        assert downstream(model, IMAGE.double(), "beside", passed, passed.layers) == found
        assert downstream(model, IMAGE.double(), "out", passed, passed.layers) == ()


def test_what_a_model_never_passes_on_is_not_behind() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            torch.relu_(h)  # its result goes unused
            return self.b(h.detach())

    model, x = Deaf(), torch.zeros(1, 3)
    assert downstream(model, x, "a", trace(model, x), ["b"]) == ()
    with pytest.raises(UsageError, match=r"enter behind layer 'a', which none of .* b depends on"):
        attribution_matrix(model, nn.Linear(Q, 4), Q, layers=["b"], layer="a", inputs=x)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layer": "1"}, "give inputs=, an input"),
        ({"layer": "4", "inputs": IMAGE}, r"'encoder' enter behind layer '4', .* such as.*'6'"),
        ({"layer": "one", "inputs": IMAGE}, "no layer matches 'one'"),
        ({"layer": "[14]", "inputs": IMAGE}, "'.14.' names 1, 4"),
        (
            {"layer": "1", "inputs": IMAGE, "wide": True},
            r"shape \(7,\), units first; \(8,\) cannot",
        ),
    ],
)
def test_features_that_enter_nowhere_are_refused(more: dict[str, object], words: str) -> None:
    model, *_ = make("mlp")
    encode = encoder((8,) if more.pop("wide", False) else (7,))
    with unchanged(model), pytest.raises(UsageError, match=words):
        attribution_matrix(model, encode, Q, **more)


def test_responses_are_values_not_differences() -> None:
    model, layer, behind, shape = make("mlp")
    encode = encoder(shape)
    with unchanged(model):
        parts = response_matrix(model, encode, Q, layer=layer, inputs=IMAGE, chunk_size=2)
    model.eval()
    with torch.no_grad():
        expected = torch.tanh(behind(encode(torch.eye(Q).double()))).T
    torch.testing.assert_close(parts, expected, rtol=0, atol=1e-12)


def test_shares_of_numbers_whose_sum_underflows() -> None:
    tiny = torch.tensor([[5e-324, 5e-324]], dtype=torch.float64)
    assert shares(tiny)[1].tolist() == [[0.5, 0.5]]


METRICS = [IntegratedGradients, Capacity, FeatureDimensionality, Monosemanticity]


def deep(found: Subject, layer: str, shape: tuple[int, ...]) -> Subject:
    """A subject whose feature spaces enter at a layer."""
    encode = encoder(shape).float()
    space = FeatureSpace("deep", Q, encode, layer=layer)
    return replace(found, spaces=lambda *_: space)


def measured(metric: object, found: Subject) -> Measurement:
    with unchanged(found.model):
        return measure_all([metric], found)[0]  # type: ignore[list-item]


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_measure_what_lies_behind_the_layer(metric: type) -> None:
    found = subject(Registry.discover(), networks()["mlp"], datasets()["classes"], 16)
    result = measured(metric(features="deep"), deep(found, "1", (12,)))
    layers = {layer for layer, *_ in result.rows()}
    assert layers == {"all", "3"}
    if result.units is not None:
        assert result.units[["layer", "unit"]].values.tolist() == [["3", i] for i in range(8)]
    with pytest.raises(UsageError, match=r"'deep' enter behind layer '3', which none of .* 1, 3"):
        measured(metric(), deep(found, "3", (8,)))


@pytest.mark.parametrize("metric", METRICS)
def test_features_must_exist(metric: type) -> None:
    unknown = replace(datasets()["truth"], features=None)
    found = subject(Registry.discover(), networks()["mlp"], unknown, 16)
    with pytest.raises(DataError, match=r"'truth'.*'classes'.*features=dictionary"):
        measured(metric(), found)


def test_maps_are_reduced_and_chunks_bounded_as_asked() -> None:
    found = subject(Registry.discover(), networks()["convnet"], datasets()["truth"], 16)
    whole, peak, parts = (
        measured(IntegratedGradients(**more), found).arrays["attributions"]
        for more in ({}, {"reduce": "max"}, {"chunk_size": 1})
    )
    assert (whole - peak).abs().max() > 1e-3
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
