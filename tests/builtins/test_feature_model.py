"""The dataset `feature-model`: what is drawn, how labels come about, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from polykit.registry import Registry
from polykit.runtime.samples.splits import SPLITS, TensorSplit
from polykit.runtime.seeds import seeded
from polykit.types import Data
from polykit_builtins.datasets.autoencoder import train_autoencoder
from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.datasets.ground_truth import seeds as searching
from polykit_builtins.datasets.ground_truth.features import draw_features, tilt
from polykit_builtins.datasets.ground_truth.maps import FeatureMaps, draw_feature_maps, draw_weight
from polykit_builtins.datasets.ground_truth.seeds import search_seeds, solve_seeds
from polykit_builtins.datasets.ground_truth.sizes import draw_sizes
from polykit_builtins.datasets.ground_truth.world import World


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**options: Any) -> FeatureModel:
    """Three layers, ten features, four inputs, quickly made."""
    return FeatureModel(
        **{"hidden": (5, 3, 2), "inputs": 4, "samples": 40, "encoder_epochs": 1, **options}
    )


def maps_of(hidden: tuple[int, ...], *, linear: bool, seed: int = 0) -> FeatureMaps:
    return draw_feature_maps(
        hidden, 2, importance="uniform", threshold=0.05, linear=linear, generator=random(seed)
    )


def values(maps: FeatureMaps, seed: Tensor, bent: tuple[bool, ...]) -> list[np.ndarray]:
    """Value of each layer for one seed vector, in float64; `bent`: which maps get a ReLU before."""
    h, found = seed.double().numpy(), []
    for weight, bias, relu in zip(maps.weights, maps.biases, bent, strict=True):
        if relu:
            h = np.maximum(h, 0)
        h = weight.double().numpy() @ h + bias.double().numpy()
        found.append(h)
    return found


def one_by_one(maps: FeatureMaps, features: Tensor, start: Tensor, steps: int) -> Tensor:
    """The published way: autograd and torch's own Adam, one sample at a time."""
    layers = []
    for weight, bias in zip(maps.weights[:-1], maps.biases[:-1], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(layer)
    found = []
    for target, begin in zip(features, start, strict=True):
        seed = begin.clone().requires_grad_()
        adam = torch.optim.Adam([seed], lr=0.01)
        for _ in range(steps):
            h, reached = seed, []
            for depth, layer in enumerate(layers):
                h = layer(torch.relu(h) if depth > 1 and not maps.straight else h)
                reached.append(h)
            adam.zero_grad()
            loss = nn.functional.mse_loss(torch.cat(reached), target)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        found.append(seed.detach())
    return torch.stack(found)


# Labels


def test_exact_labels_continue_from_the_drawn_features() -> None:
    world = small(outputs=3).make()
    weights, biases = world.feature_model.weights[1:], world.feature_model.biases[1:]
    expected = []
    for f in world.features.double():
        h = [*f[:5]]
        for layer, (start, size) in enumerate(((5, 3), (8, 2))):
            h = [
                f[start + i]
                + max(0.0, sum(float(w) * v for w, v in zip(weights[layer][i], h, strict=True)) + b)
                for i, b in zip(range(size), biases[layer].tolist(), strict=True)
            ]
        expected.append([float(weights[2][k].double() @ torch.stack(h)) for k in range(3)])
    torch.testing.assert_close(
        world.labels, torch.tensor(expected) + biases[2], atol=1e-5, rtol=1e-5
    )


def test_linear_exact_labels_are_affine_in_the_features() -> None:
    labels = small(linear=True).make().feature_model.readout
    f, g = torch.randn(2, 30, 10)
    middle = (labels(f) + labels(g)) / 2
    torch.testing.assert_close(labels((f + g) / 2), middle, atol=1e-5, rtol=1e-5)
    bent = small().make().feature_model.readout
    assert (bent((f + g) / 2) - (bent(f) + bent(g)) / 2).abs().max() > 0.1


@pytest.mark.parametrize(
    ("hidden", "linear", "bent"),
    [
        ((10,), False, (False, False)),
        ((6, 4), False, (False, False, True)),
        ((5, 3, 2), False, (False, False, True, True)),
        ((5, 3, 2), True, (False, False, False, False)),
    ],
)
def test_faithful_labels_are_the_feature_models_for_the_seed_vectors(
    hidden: tuple[int, ...], linear: bool, bent: tuple[bool, ...]
) -> None:
    options = {"hidden": hidden, "linear": linear, "generator": "faithful", "steps": 20}
    world = small(**options).make()
    assert world.seeds is not None
    reached = world.feature_model.activations(world.seeds)
    for seed, activation, label in zip(world.seeds, reached, world.labels, strict=True):
        *layers, output = values(world.feature_model, seed, bent)
        np.testing.assert_allclose(activation, np.concatenate(layers), atol=1e-4)
        np.testing.assert_allclose(label, output, atol=1e-4)


@pytest.mark.parametrize(
    ("hidden", "linear"), [((10,), False), ((6, 4), False), ((5, 3, 2), False), ((5, 3, 2), True)]
)
def test_the_batched_search_equals_one_sample_after_the_other(
    hidden: tuple[int, ...], linear: bool
) -> None:
    maps = maps_of(hidden, linear=linear)
    features = draw_features(4, torch.full((10,), 0.5), generator=random(1))
    start = torch.randn(4, 10, generator=random(2))
    found = search_seeds(maps, features, start, steps=1001)
    torch.testing.assert_close(found, one_by_one(maps, features, start, 1001), atol=1e-4, rtol=0)
    assert (found - start).abs().max() > 0.5


@pytest.mark.parametrize("linear", [False, True])
def test_the_search_does_not_depend_on_the_chunk_size(
    linear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = maps_of((5, 3, 2), linear=linear)
    features, start = torch.rand(2, 23, 10, generator=random(1))
    found = []
    for chunk in (1, 70, 10_000):
        monkeypatch.setattr(searching, "CHUNK", chunk)
        found.append(search_seeds(maps, features, start, steps=300))
    torch.testing.assert_close(found[0], found[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], found[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("hidden", "linear"), [((8,), False), ((5, 3), False), ((4, 3, 1), True)])
def test_least_squares_seed_vectors_are_the_closest(hidden: tuple[int, ...], linear: bool) -> None:
    maps = maps_of(hidden, linear=linear, seed=3)
    features = torch.rand(5, 8, generator=random(1))
    zero = np.concatenate(values(maps, torch.zeros(8), (False,) * len(maps.weights))[:-1])
    columns = [
        np.concatenate(values(maps, unit, (False,) * len(maps.weights))[:-1]) - zero
        for unit in torch.eye(8)
    ]
    for seed, target in zip(solve_seeds(maps, features), features, strict=True):
        expected = np.linalg.lstsq(np.stack(columns, 1), target.double().numpy() - zero)[0]
        np.testing.assert_allclose(seed, expected, rtol=1e-4, atol=1e-4)


def test_a_long_search_comes_to_the_least_squares_solution() -> None:
    maps = FeatureMaps((torch.eye(3) + 0.2, torch.ones(2, 3)), (torch.ones(3), torch.ones(2)), True)
    features, start = torch.rand(2, 6, 3, generator=random())
    found = search_seeds(maps, features, start, steps=3000)
    torch.testing.assert_close(found, solve_seeds(maps, features), atol=1e-4, rtol=0)


def test_generators_and_searches_differ_in_the_labels_only() -> None:
    worlds = [
        small(linear=True, **options).make().tensors()
        for options in (
            {},
            {"generator": "faithful"},
            {"generator": "faithful", "search": "least-squares"},
            {"generator": "faithful", "steps": 10},
            {"generator": "faithful", "lr": 0.1},
        )
    ]
    for world in worlds:
        for name in worlds[0].keys() - {"labels"}:
            assert torch.equal(world[name], worlds[0][name]), name
    labels = {tuple(world["labels"].flatten().tolist()) for world in worlds}
    assert len(labels) == len(worlds)


# What is drawn


@pytest.mark.parametrize(
    ("scenario", "hidden", "inputs", "low", "high", "linear"),
    [
        ("L1", (32,), 10, 0.6, 0.8, True),
        ("L2", (32, 24, 8), 10, 0.8, 0.9, True),
        ("N1", (12, 4), 5, 0.65, 0.75, False),
        ("N2", (32,), 10, 0.6, 0.8, False),
        ("N3", (32, 24, 8), 10, 0.8, 0.9, False),
        ("N4", (64, 48, 16), 10, 0.85, 0.95, False),
    ],
)
def test_scenarios_are_those_of_the_source(
    scenario: Any, hidden: tuple[int, ...], inputs: int, low: float, high: float, linear: bool
) -> None:
    world = FeatureModel(scenario=scenario, samples=3000, encoder_epochs=1).make()
    q = sum(hidden)
    assert world.feature_model.sizes == (q, *hidden, 2)
    assert world.encoder.sizes == world.decoder.sizes[::-1] == (q, q // 2, inputs)
    assert {maps.straight for maps in (world.feature_model, world.encoder, world.decoder)} == {
        linear
    }
    assert low <= float(world.sparsity.min()) < float(world.sparsity.max()) <= high
    share = (world.features == 0).float().mean(0)
    assert float((share - world.sparsity).abs().max()) < 5 * 0.5 / 3000**0.5
    assert 0 <= float(world.features.min()) < float(world.features.max()) < 1
    for weight, bias in zip(world.feature_model.weights, world.feature_model.biases, strict=True):
        torch.testing.assert_close(bias, 0.5 - weight @ torch.full(weight.shape[1:], 0.5))
        assert bool(((weight == 0) | (weight.abs() >= 0.05)).all())


def test_the_number_of_samples_follows_the_source() -> None:
    assert len(FeatureModel(outputs=3, encoder_epochs=1).make().features) == 50 * 16 * 3


def test_options_override_the_scenario() -> None:
    world = FeatureModel(
        scenario="L1", hidden=(4, 3), inputs=2, outputs=5, linear=False, samples=50,
        sparsity_low=0.2, sparsity_high=0.3, encoder_epochs=1,
    ).make()  # fmt: skip
    assert world.feature_model.sizes == (7, 4, 3, 5)
    assert world.encoder.sizes == (7, 3, 2)
    assert not world.feature_model.straight
    assert 0.2 <= float(world.sparsity.min()) <= float(world.sparsity.max()) <= 0.3
    listed = tuple(j / 9 for j in range(10))
    drawn = small(sparsity=listed, samples=200).make()
    assert drawn.sparsity.tolist() == pytest.approx(listed)
    assert bool((drawn.features[:, 9] == 0).all())
    assert bool((drawn.features[:, 0] > 0).all())


@given(st.integers(2, 200), st.integers(1, 40), st.integers(0, 40), st.integers(0, 99))
def test_drawn_sizes_hold_all_features_within_the_bounds(
    features: int, minimum: int, more: int, seed: int
) -> None:
    maximum = minimum + more
    sizes = draw_sizes(features, minimum, maximum, random(seed))
    assert sum(sizes) == features
    assert max(sizes) <= maximum
    assert all(size >= minimum for size in sizes[:-1])
    if sizes[-1] < minimum:
        assert set(sizes[:-1]) <= {maximum}


def test_sizes_without_choice_are_as_computed_by_hand() -> None:
    assert draw_sizes(10, 4, 4) == (4, 4, 2)
    assert draw_sizes(3, 4, 8) == (3,)
    first = {draw_sizes(64, 8, 32, random(seed))[0] for seed in range(200)}
    assert first == set(range(20, 33))
    # of 12 (bounds 2 to 10) a first layer of 6 leaves 6, and the second is from [4, 6]; the 1 that
    # a second one of 5 leaves goes into the first
    drawn = {draw_sizes(12, 2, 10, random(seed)) for seed in range(200)}
    assert {sizes for sizes in drawn if sizes[0] == 6} == {(6, 4, 2), (6, 6)}
    assert (7, 5) in drawn
    # the first layer is 6, 7 or 8; the rest, below 5, fills it up to 8, and 1 is left
    assert all(draw_sizes(9, 5, 8, random(seed)) == (8, 1) for seed in range(20))


def test_sizes_are_drawn_where_features_or_bounds_are_given() -> None:
    drawn = {small(hidden=None, features=40, seed=seed).sizes for seed in range(8)}
    assert len(drawn) > 1
    assert {sum(sizes) for sizes in drawn} == {40}
    assert max(max(sizes) for sizes in drawn) <= 20
    assert FeatureModel(min_neurons=2, max_neurons=2).sizes == (2,) * 8
    assert FeatureModel(features=16, hidden=(10, 6)).sizes == (10, 6)
    assert FeatureModel(max_neurons=1).sizes == (1,) * 16


def test_small_weights_are_cut_but_two_are_left_in_each_row() -> None:
    wide = draw_weight(100, 100, "uniform", 0.05, random())
    assert 0.03 < float((wide == 0).float().mean()) < 0.07
    assert float(wide[wide != 0].abs().min()) >= 0.05
    cut = draw_weight(300, 6, "uniform", 0.9, random())
    counts = (cut != 0).sum(1)
    assert int(counts.min()) == 2
    refilled = cut.abs() < 0.9
    assert bool((counts[((cut != 0) & refilled).any(1)] == 2).all())
    assert {int(j) for j in ((cut != 0) & refilled).nonzero()[:, 1]} == set(range(6))
    assert bool((draw_weight(5, 1, "uniform", 2.0, random()) != 0).all())


@pytest.mark.parametrize(
    ("importance", "kurtosis"), [("uniform", 1.8), ("normal", 3.0), ("laplace", 6.0)]
)
def test_importance_functions_are_equally_wide(importance: Any, kurtosis: float) -> None:
    weight = draw_weight(400, 500, importance, 0.0, random()).double()
    assert float(weight.mean()) == pytest.approx(0, abs=0.01)
    assert float(weight.square().mean()) == pytest.approx(1 / 3, rel=0.02)
    found = float((weight**4).mean() / weight.square().mean() ** 2)
    assert found == pytest.approx(kurtosis, rel=0.05)


def test_features_of_a_group_occur_together_and_keep_their_frequency() -> None:
    sparsity = torch.tensor([0.7, 0.7, 0.7, 0.7, 0.4, 0.9])
    features = draw_features(40_000, sparsity, correlation=0.5, groups=2, generator=random())
    active = (features > 0).double().numpy()
    np.testing.assert_allclose(1 - active.mean(0), sparsity, atol=0.012)
    found = np.corrcoef(active.T)
    assert found[0, 2] == pytest.approx(0.5, abs=0.025)
    assert found[1, 3] == pytest.approx(0.5, abs=0.025)
    # common decisions, joint frequency min(p, p'): phi = ρ (min − p p') / √(p q p' q')
    assert found[0, 4] == pytest.approx(0.5 * (0.3 - 0.18) / (0.21 * 0.24) ** 0.5, abs=0.025)
    for a, b in ((0, 1), (2, 5), (3, 4)):
        assert found[a, b] == pytest.approx(0, abs=0.025)
    both = features[(features[:, 0] > 0) & (features[:, 2] > 0)]
    sizes = np.corrcoef(both[:, 0], both[:, 2])[0, 1]
    assert sizes == pytest.approx(0, abs=0.05)


def test_full_correlation_is_one_decision_for_all_of_a_group() -> None:
    world = small(correlation=1, groups=1, sparsity=(0.5,) * 10, samples=100).make()
    active = world.features > 0
    assert torch.equal(active, active[:, :1].expand(-1, 10))
    assert 0 < int(active[:, 0].sum()) < 100
    loose = small(correlation=1, groups=10, sparsity=(0.5,) * 10, samples=100).make()
    assert len({tuple(column) for column in (loose.features > 0).T.tolist()}) == 10


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 5), st.integers(0, 1000))
def test_a_power_law_keeps_the_mean_frequency(
    sparsity: list[float], exponent: float, seed: int
) -> None:
    tilted = tilt(torch.tensor(sparsity), exponent, random(seed))
    assert bool(((tilted >= 0) & (tilted <= 1)).all())
    assert float(tilted.double().mean()) == pytest.approx(sum(sparsity) / len(sparsity), abs=1e-5)


def test_frequencies_fall_as_the_power_law_says() -> None:
    p = 1 - tilt(torch.full((50,), 0.9), 0.5, random()).double().sort().values
    ranks = torch.arange(1, 51, dtype=torch.float64)
    expected = 5 * ranks**-0.5 / (ranks**-0.5).sum()
    torch.testing.assert_close(p, expected, atol=1e-6, rtol=0)
    # by hand: ranks 1, 2, 3 at exponent 1, mean 1/2: c = 9/11 would give .82, .41, .27
    three = 1 - tilt(torch.full((3,), 0.5), 1.0, random()).double().sort().values
    torch.testing.assert_close(three, torch.tensor([9, 4.5, 3]).double() / 11, atol=1e-6, rtol=0)
    # mean 4/5: the first is full, the others share 1.4 as 1/2 : 1/3
    full = 1 - tilt(torch.full((3,), 0.2), 1.0, random()).double().sort().values
    torch.testing.assert_close(full, torch.tensor([1, 0.84, 0.56]).double(), atol=1e-6, rtol=0)
    world = small(power_law=1.0).make()
    frequency = (1 - world.sparsity).sort().values
    assert float(frequency[-1] / frequency[0]) > 5


# As data


def parts(data: Data) -> dict[str, TensorSplit]:
    found = {name: getattr(data, name) for name in SPLITS}
    assert all(isinstance(part, TensorSplit) for part in found.values())
    return found


def test_data_is_the_world_in_three_parts() -> None:
    dataset = small(samples=100)
    world, data = dataset.make(), dataset.load()
    assert (data.task, data.input_shape, data.outputs) == ("regression", (4,), 2)
    assert [len(part) for part in parts(data).values()] == [70, 15, 15]
    for name, part in parts(data).items():
        assert torch.equal(part.x, world.inputs[world.parts[name]])
        assert torch.equal(part.y, world.labels[world.parts[name]])
    assert data.features is not None
    assert (data.features.name, data.features.n_features) == ("truth", 10)
    assert len(set(data.features.names)) == 10
    assert torch.equal(data.features.encode(world.features), world.inputs)
    assert {value.dtype for value in data.truth.values()} == {torch.float32, torch.int64}


def test_the_encoder_is_differentiable_and_follows_the_type_of_its_input() -> None:
    encode = small().make().encoder
    f = torch.rand(4, 10, dtype=torch.float64, requires_grad=True)
    encode(f).sum().backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    assert bool((f.grad != 0).any())
    assert encode(f).dtype == torch.float64
    assert encode(torch.rand(4, 10, device="meta")).device.type == "meta"
    straight = small(linear=True).make().encoder
    g, h = torch.rand(2, 3, 10)
    torch.testing.assert_close(straight((g + h) / 2), (straight(g) + straight(h)) / 2)


@pytest.mark.parametrize("linear", [False, True])
def test_encoder_and_decoder_are_the_autoencoders_halves(linear: bool) -> None:
    world = small(linear=linear, seed=5).make()
    with seeded(5, "feature-model", "encoder"):
        weights, biases = train_autoencoder(world.features, (10, 5, 4), epochs=1, linear=linear)
    assert all(map(torch.equal, weights, world.encoder.weights + world.decoder.weights))
    assert all(map(torch.equal, biases, world.encoder.biases + world.decoder.biases))
    h = world.features @ weights[0].T + biases[0]
    h = (h if linear else torch.relu(h)) @ weights[1].T + biases[1]
    torch.testing.assert_close(world.inputs, h)


@pytest.mark.parametrize("generator", ["exact", "faithful"])
def test_one_seed_is_one_world(generator: str) -> None:
    before = torch.get_rng_state()
    made = [small(generator=generator, steps=5, seed=seed).make().tensors() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = made
    assert first.keys() == again.keys() == other.keys()
    for name in first:
        assert torch.equal(first[name], again[name]), name
        assert name.endswith(".linear") or not torch.equal(first[name], other[name]), name


def test_data_can_go_to_another_process() -> None:
    data = small().load()
    copy: Data = pickle.loads(pickle.dumps(data))
    assert copy.card() == data.card()
    assert copy.features is not None
    assert data.features is not None
    f = torch.rand(2, 10)
    assert torch.equal(copy.features.encode(f), data.features.encode(f))


def test_names_and_scenarios_on_the_command_line() -> None:
    registry = Registry.discover()
    chosen = registry.create("dataset", "feature-model:N2,generator=faithful,hidden=8,4,inputs=3")
    assert chosen.instance == FeatureModel(
        scenario="N2", generator="faithful", hidden=(8, 4), inputs=3
    )
    listed = registry.create("dataset", "feature-model:hidden=3,2,inputs=2,sparsity=.5,.5,0,1,.25")
    assert listed.instance.sparsity == (0.5, 0.5, 0, 1, 0.25)
    assert registry.recreate("dataset", listed.record).instance == listed.instance
    assert registry.create("dataset", "toy").instance == FeatureModel()


# What is refused


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hidden": (12, 4), "features": 20}, "hold 16 features, not features=20"),
        ({"hidden": ()}, "at least one feature in every layer"),
        ({"hidden": (12, 0)}, "at least one feature in every layer"),
        ({"hidden": (12, 4), "min_neurons": 2}, "drop them, or hidden"),
        ({"min_neurons": 9, "max_neurons": 8}, "min_neurons 9 is above max_neurons 8"),
        ({"hidden": (3, 1)}, "4 features are fewer than the 5 inputs"),
        ({"scenario": "L1", "features": 9}, "9 features are fewer than the 10 inputs"),
        ({"hidden": (1,), "inputs": 1}, "two features at least"),
        ({"sparsity_low": 0.9}, "sparsity_low 0.9 is above sparsity_high 0.75"),
        ({"sparsity_high": 1.1}, "less than or equal to 1"),
        ({"sparsity_low": -0.1}, "greater than or equal to 0"),
        ({"sparsity": (0.5,) * 15}, "15 probabilities for 16 features"),
        ({"sparsity": (0.5,) * 15 + (1.5,)}, r"a probability in \[0, 1\]"),
        ({"sparsity": (0.5,) * 15 + (float("nan"),)}, r"a probability in \[0, 1\]"),
        ({"sparsity": (0.5,) * 16, "sparsity_low": 0.1}, "drop sparsity_low"),
        ({"search": "least-squares"}, "add generator=faithful"),
        (
            {"scenario": "N3", "generator": "faithful", "search": "least-squares"},
            "have a ReLU between",
        ),
        ({"correlation": 0.5, "groups": 17}, "17 groups are more than the 16 features"),
        ({"correlation": 1.5}, "less than or equal to 1"),
        ({"samples": 10}, "greater than or equal to 20"),
        ({"scenario": "N5"}, "'L1', 'L2'"),
        ({"file": "x.safetensors", "scenario": "N2", "steps": 3}, "drop scenario, steps"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        FeatureModel(**options)


def test_least_squares_is_taken_wherever_no_relu_lies_between() -> None:
    for options in ({"scenario": "L2"}, {"scenario": "N1"}, {"scenario": "N3", "linear": True}):
        world = FeatureModel(
            generator="faithful", search="least-squares", samples=30, encoder_epochs=1, **options
        ).make()
        assert isinstance(world, World)
        assert world.feature_model.is_affine
