"""The feature space `dictionary`: what a sparse autoencoder finds in activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polykit
from polykit.errors import DataError, ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Data, Subject
from polykit_builtins.features.dictionary import Dictionary, Learned
from polykit_builtins.features.sparse_autoencoder import (
    SparseAutoencoder,
    mean_max_cosine,
    sparse_loss,
)
from polykit_builtins.metrics.ig import IntegratedGradients

CPU = torch.device("cpu")
QUICK = {"epochs": 2, "batch_size": 16}


def planted(n: int = 2000) -> tuple[Tensor, Tensor]:
    """20 random directions in 10 dimensions, each active in a twentieth of the vectors."""
    random = generator(0, "planted")
    directions = F.normalize(torch.randn(20, 10, generator=random))
    codes = torch.rand(n, 20, generator=random) * (torch.rand(n, 20, generator=random) < 0.05)
    return directions, 3 * codes @ directions + 5


@pytest.mark.parametrize(
    "options", [{"l1": 0.5, "lr": 0.003}, {"sparsity": "topk", "k": 2, "lr": 0.005}]
)
def test_planted_directions_are_recovered(options: dict[str, object]) -> None:
    directions, vectors = planted()
    with unchanged():
        found = Dictionary(epochs=40, **options).learn(vectors, CPU)
    chance = torch.randn(len(found.directions), 10, generator=generator(0, "chance"))
    assert mean_max_cosine(directions, found.directions) >= 0.9
    assert mean_max_cosine(directions, chance) < 0.8
    torch.testing.assert_close(found.directions.norm(dim=1), torch.ones(len(found.directions)))
    assert list(found.numbers) == sorted(set(found.numbers))
    close = (found.directions @ directions.T).amax(dim=1) > 0.95
    strength = float(found.strengths[close].median())
    if "k" in options:
        assert 1 < strength < 1.5  # 3/2 where active, less what falls to others
    else:
        assert 0.3 < strength < 1  # the penalty shrinks codes


def test_cosines() -> None:
    truth = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert mean_max_cosine(truth, torch.tensor([[-1.0, 0.0], [0.0, 7.0]])) == 0.5
    assert mean_max_cosine(truth, -truth) == 0
    with pytest.raises(UsageError, match="length 0"):
        mean_max_cosine(truth, torch.zeros(2, 2))


def test_codes_are_sparse_and_directions_have_length_one() -> None:
    autoencoder = SparseAutoencoder(torch.ones(6), 9, k=3, generator=generator(0))
    x = 1 + torch.randn(50, 6, generator=generator(1))
    with torch.no_grad():
        autoencoder.decoder.mul_(torch.rand(9, generator=generator(2)) + 1)
        full = F.relu((x - 1) @ autoencoder.encoder.T)
        codes = autoencoder.encode(x)
        kept = codes > 0
        assert (kept.sum(dim=1) <= 3).all()
        assert torch.equal(codes[kept], full[kept])
        assert ((full - codes).amax(dim=1) <= full.topk(3).values[:, 2]).all()
        columns = autoencoder.decoder / autoencoder.decoder.norm(dim=0)
        torch.testing.assert_close(autoencoder(x), 1 + codes @ columns.T)


def test_the_loss_adds_a_penalty() -> None:
    autoencoder = SparseAutoencoder(torch.zeros(3), 6, generator=generator(0))
    x, y = (torch.randn(8, 3, generator=generator(seed)) for seed in (1, 2))
    plain, sparse = (sparse_loss(l1)(autoencoder, x, y) for l1 in (0.0, 0.5))
    torch.testing.assert_close(plain, (autoencoder(x) - y).square().sum(dim=1).mean())
    torch.testing.assert_close(sparse - plain, 0.5 * autoencoder.encode(x).sum(dim=1).mean())


@pytest.mark.parametrize(("layer", "offsets"), [("", (4, 1, 1)), ("2", (6, 1, 1)), ("input", None)])
def test_features_enter_at_the_layer(layer: str, offsets: tuple[int, ...] | None) -> None:
    found = subject(Registry.discover(), networks()["convnet"].train(), datasets()["classes"], 7)
    with unchanged(found.model), torch.no_grad():
        plugin = Dictionary(layer=layer, **QUICK)
        space = plugin.build(found)
    found.model.eval()
    x = torch.cat([x for x, _ in found.data.train.batches(100)])
    depth = {"": 2, "2": 4, "input": 0}[layer]
    with torch.no_grad():
        mean = found.model[:depth](x).mean(dim=0)
    assert space.layer == {"": "0", "2": "2", "input": ""}[layer]
    assert space.n_features == len(space.names) <= 4 * (offsets[0] if offsets else 36)
    assert all(name.startswith("direction ") for name in space.names)
    origin = space.encode(torch.zeros(1, space.n_features))[0]
    torch.testing.assert_close(origin, mean)
    moved = space.encode(torch.eye(space.n_features)) - origin
    if offsets:  # the same at all positions
        torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved))
        moved = moved[:, :, 0, 0]
    learned = plugin.learn(plugin.activations(found, space.layer)[0], CPU)
    expected = learned.directions * learned.strengths.unsqueeze(1)
    torch.testing.assert_close(moved.flatten(1), expected, rtol=0, atol=1e-5)


class Counted:
    """A split that cannot be held: counts what is read."""

    def __init__(self, n: int) -> None:
        self.n, self.read, self.largest = n, 0, 0

    def __len__(self) -> int:
        return self.n

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(self.n) if order is None else order
        for part in order.split(batch_size):
            self.read += len(part)
            self.largest = max(self.largest, len(part))
            cells = torch.arange(36.0).view(1, 1, 6, 6)
            yield 100 * part.view(-1, 1, 1, 1) + cells, torch.zeros(len(part), 1)

    def skipped(self) -> tuple[str, ...]:
        return ()


def watched(split: Counted, *first: nn.Module) -> Subject:
    data = replace(datasets()["truth"], train=split, outputs=2)
    model = nn.Sequential(*first, nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 1, 6, 6))
    return subject(Registry.discover(), model, data, 7)


def test_activations_kept_are_bounded_and_spread_out() -> None:
    split = Counted(20)
    convolution = nn.Conv2d(1, 1, 1, bias=False)
    convolution.weight.data.fill_(1)
    found = watched(split, convolution)
    vectors, mean = Dictionary(samples=90).activations(found, "0")
    images, cells = vectors[:, 0].long() // 100, vectors[:, 0].long() % 100
    assert images.bincount().tolist() == [4] * 20  # 90 // 20 of each
    for image in range(20):  # 36 // 4 apart
        here = cells[images == image]
        assert len(set(here.tolist())) == 4
        assert len(set((here % 9).tolist())) == 1
    assert len(set(cells.tolist())) > 20
    torch.testing.assert_close(mean, 950 + torch.arange(36.0).view(1, 6, 6).double())
    assert split.largest == 7
    few, _ = Dictionary(samples=5).activations(found, "0")
    assert len(set((few[:, 0].long() // 100).tolist())) == 5
    everything, _ = Dictionary(samples=10_000).activations(found, "0")
    assert sorted(everything[:, 0].tolist()) == sorted(
        100.0 * image + cell for image in range(20) for cell in range(36)
    )
    inputs, mean = Dictionary(samples=5).activations(found, "")
    assert (inputs.shape, mean.shape) == ((5, 36), (1, 6, 6))
    other, _ = Dictionary(samples=5, seed=1).activations(found, "")
    assert not torch.equal(inputs, other)


def learned(seed: int = 0, **options: object) -> Learned:
    _, vectors = planted(200)
    return Dictionary(seed=seed, **{**QUICK, **options}).learn(vectors, CPU)


def test_one_seed_gives_one_dictionary() -> None:
    first, again, other = learned(), learned(), learned(seed=1)
    assert torch.equal(first.directions, again.directions)
    assert torch.equal(first.strengths, again.strengths)
    assert not torch.equal(first.directions[:5], other.directions[:5])


def test_every_option_of_the_training_counts() -> None:
    usual = learned(epochs=4)
    for change in ({"l1": 3.0}, {"lr": 0.01}, {"epochs": 8}, {"batch_size": 50}, {"size": 30}):
        other = learned(**{"epochs": 4, **change})
        assert usual.directions.shape != other.directions.shape or not torch.equal(
            usual.directions, other.directions
        )
    sharp, blunt = (learned(sparsity="topk", k=k, epochs=4) for k in (1, 5))
    assert len(sharp.numbers) < len(blunt.numbers)


def test_directions_that_never_fire_are_left_out_and_keep_their_numbers() -> None:
    found = learned(sparsity="topk", k=1, size=200)
    assert len(found.numbers) < 200 > max(found.numbers) > len(found.numbers)
    assert (found.strengths > 0).all()
    assert torch.isfinite(found.directions).all()
    with pytest.raises(DataError, match="ever active; lower l1"):
        learned(l1=1e6, epochs=10, lr=0.5)


def test_what_cannot_be_learned_is_refused() -> None:
    dead = subject(Registry.discover(), networks()["dying"], datasets()["classes"], 16)
    with pytest.raises(DataError, match="layer '3' is the same for all 32 training activations"):
        Dictionary(layer="3").build(dead)
    with pytest.raises(UsageError, match="no layer matches 'one'"):
        Dictionary(layer="one").build(dead)
    with pytest.raises(UsageError, match=r"one layer; '\*' names 1 and 3"):
        Dictionary(layer="*").build(dead)
    with pytest.raises(UsageError, match="more than fit in memory; give a smaller size"):
        Dictionary(size=10**7).build(dead)
    with pytest.raises(UsageError, match="k=48 codes of 48 directions are not sparse"):
        Dictionary(sparsity="topk", k=48).build(dead)
    with pytest.raises(UsageError, match="no hidden layer"):
        Dictionary().build(watched(Counted(5)))
    broken = networks()["mlp"]
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="layer '1' gives NaN"):
        Dictionary().build(subject(Registry.discover(), broken, datasets()["truth"], 16))


@pytest.mark.parametrize(
    "spec", ["dictionary:epochs=3", "dictionary:input,epochs=3", "dictionary:layer=1,epochs=3"]
)
def test_polysemanticity_without_known_features(spec: str) -> None:
    unknown = replace(datasets()["truth"], features=None)
    found = subject(Registry.discover(), networks()["mlp"], unknown, 16)
    metric = IntegratedGradients(features=spec)
    with unchanged(found.model):
        (result,) = measure_all([metric], found)
    assert result.units is not None
    assert set(result.units["layer"]) == ({"1", "3"} if "input" in spec else {"3"})
    assert result.summary["ratio_responding"] >= 1


def test_a_whole_analysis_with_learned_features(tmp_path) -> None:
    x = torch.randn(80, 6, generator=generator(0))
    with seeded(0, "network"):
        hidden = [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU()]
        model = nn.Sequential(*hidden, nn.Linear(4, 1))
    run = polykit.analyze(
        model,
        (x, x[:, :1]),
        pruners=[],
        control=False,
        metrics=["ig:features=dictionary:layer=0", "capacity:features=dictionary"],
        options={"dictionary": {"size": 7, "epochs": "2"}},
        seeds=(0,),
        epochs=0,
        out=tmp_path / "run",
    )
    rows = run.rows[run.rows["metric"] == "ig"]
    assert set(rows["layer"]) == {"all", "2"}
    ratio = rows[(rows["layer"] == "2") & (rows["statistic"] == "ratio_responding")]["value"]
    assert 1 <= ratio.item() <= 7


def test_data_of_the_training_holds_a_tenth_out() -> None:
    vectors = torch.arange(30.0).view(30, 1)
    data: Data = Dictionary()._data(vectors)
    assert isinstance(data.train, TensorSplit)
    assert isinstance(data.validation, TensorSplit)
    assert (len(data.train), len(data.validation)) == (27, 3)
    both = torch.cat([data.train.x, data.validation.x]).flatten()
    assert both.sort().values.tolist() == vectors.flatten().tolist()
