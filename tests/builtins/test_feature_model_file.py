"""Worlds of `feature-model` in files: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from polykit.errors import DataError, RunError
from polykit.runtime.samples.splits import SPLITS
from polykit.session import save_truth
from polykit.types import Data
from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.datasets.ground_truth.files import load_world

Tensors = dict[str, Tensor]


def small(generator: str = "faithful") -> FeatureModel:
    return FeatureModel(
        hidden=(5, 3, 2),
        inputs=4,
        samples=40,
        encoder_epochs=1,
        steps=10,
        generator=generator,  # type: ignore[arg-type]
    )


def same(one: Data, other: Data) -> None:
    for name in SPLITS:
        pairs = zip(getattr(one, name).batches(7), getattr(other, name).batches(7), strict=True)
        for (x, y), (x_other, y_other) in pairs:
            assert torch.equal(x, x_other)
            assert torch.equal(y, y_other)
    assert one.truth.keys() == other.truth.keys()
    assert all(torch.equal(one.truth[name], other.truth[name]) for name in one.truth)
    assert one.features is not None
    assert other.features is not None
    f = torch.rand(5, 10)
    assert torch.equal(one.features.encode(f), other.features.encode(f))
    assert one.features.names == other.features.names
    assert (one.name, one.input_shape, one.outputs) == (
        other.name,
        other.input_shape,
        other.outputs,
    )
    assert one.card() == other.card()


@pytest.mark.parametrize("generator", ["exact", "faithful"])
def test_a_saved_world_is_the_same_data(generator: str, tmp_path: Path) -> None:
    data, path = small(generator).load(), tmp_path / "new" / "world.safetensors"
    save_truth(data, path)
    same(data, FeatureModel(file=str(path)).load())


def test_the_same_options_give_the_same_file_and_nothing_else(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for path in (one, two):
        save_truth(small().load(), path)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [one.name, two.name]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="taken cannot be written"):
        save_truth(small().load(), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: change(tensors[name]).contiguous()}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda tensors: {"0.weight": torch.ones(2, 2)}, r"'feature_model.0.weight' is missing"),
        (without("encoder.1.bias"), r"'encoder.1.bias' is missing"),
        (without("encoder.linear"), r"'encoder.linear' is missing"),
        (without("labels"), "'labels' is missing"),
        (without("test"), "'test' is missing"),
        (without("decoder.1.weight"), r"'decoder.1.bias' do not belong there|not for 10 features"),
        (without("seeds"), "'labels' are not what the networks make"),
        (changed("labels", lambda y: y.double()), r"'labels' is torch.float64, not torch.float32"),
        (changed("labels", lambda y: y + 0.1), "'labels' are not what the networks make"),
        (changed("labels", lambda y: y[:, :1]), r"'labels' is \(40, 1\), not \(40, 2\)"),
        (changed("labels", lambda y: y / 0), "'labels' hold .* NaN or infinite"),
        (changed("inputs", lambda x: x.flip(0)), "'inputs' are not what the networks make"),
        (changed("features", lambda f: f[:, :9]), r"'features' is \(40, 9\), not \(40, 10\)"),
        (changed("features", lambda f: f.sum()), r"'features' is \(\), not \(0, 10\)"),
        (changed("seeds", lambda x: x[:39]), r"'seeds' is \(39, 10\)"),
        (changed("sparsity", lambda s: s[:4]), r"'sparsity' is \(4,\), not \(10,\)"),
        (changed("train", lambda i: i.float()), "'train' is torch.float32, not torch.int64"),
        (changed("train", lambda i: i[:-1]), "do not share out the 40 samples"),
        (changed("test", lambda i: i + 40), "do not share out the 40 samples"),
        (changed("encoder.linear", lambda i: i.repeat(2)), r"'encoder.linear' is \(2,\)"),
        (changed("encoder.1.weight", lambda w: w[:, :2]), "does not take what the layer before"),
        (changed("encoder.0.bias", lambda b: b[:2]), "not those of a linear layer"),
        (changed("encoder.0.weight", lambda w: w[:, :8]), "not for 10 features"),
        (changed("feature_model.0.weight", lambda w: w[:, :8]), r"sizes \(8, 5, 3, 2, 2\)"),
        (lambda tensors: {**tensors, "more": torch.ones(1)}, "'more' do not belong there"),
    ],
)
def test_files_that_hold_no_world_are_refused(
    damage: Callable[[Tensors], Tensors], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "world.safetensors"
    save_truth(small().load(), path)
    assert load_world(path)
    save_file(damage(load_file(path)), path)
    with pytest.raises(DataError, match=f"holds no world of feature-model: .*({reason})"):
        FeatureModel(file=str(path)).load()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"PK\x03\x04" * 20, b"\xff" * 100], ids=str)
def test_files_that_are_not_safetensors_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "world.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"world.safetensors cannot be read.*name a file"):
        FeatureModel(file=str(path)).load()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "world.safetensors"
    save_truth(small().load(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be read"):
        FeatureModel(file=str(path)).load()
