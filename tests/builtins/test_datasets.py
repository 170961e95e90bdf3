"""The built-in datasets: digits, those of torchvision, picture folders, and the autoencoder."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polykit.errors import DataError
from polykit.runtime.samples.splits import SPLITS, TensorSplit, indexed
from polykit.types import Data, Split
from polykit_builtins.datasets.autoencoder import train_autoencoder
from polykit_builtins.datasets.class_names import class_names
from polykit_builtins.datasets.digits import Digits
from polykit_builtins.datasets.imagefolder import ImageFolder
from polykit_builtins.datasets.pictures import MEAN, STD, read_rgb
from polykit_builtins.datasets.vision import ROOT_VARIABLE, Cifar10, FashionMnist, Mnist


def everything(data: Data) -> tuple[Tensor, Tensor]:
    parts = [joined(split) for split in (data.train, data.validation, data.test)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def joined(split: Split) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*split.batches(100), strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_digits_are_scikit_learns_each_once() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x, y = everything(Digits().load())
    expected = {(*row, label) for row, label in zip(pixels.tolist(), labels.tolist(), strict=True)}
    found = {(*r, k) for r, k in zip((x.flatten(1) * 16).tolist(), y.tolist(), strict=True)}
    assert len(x) == len(pixels)
    assert found == expected


def test_digits_keep_the_share_of_each_class_and_follow_the_seed() -> None:
    data = Digits().load()
    for split in (data.train, data.validation, data.test):
        counts = joined(split)[1].bincount()
        assert counts.max() - counts.min() <= 0.08 * counts.sum() / 10 + 2
    again, other = Digits().load(), Digits(split_seed=1).load()
    assert torch.equal(joined(data.test)[0], joined(again.test)[0])
    assert not torch.equal(joined(data.test)[0], joined(other.test)[0])


@pytest.mark.parametrize("linear", [False, True])
def test_the_autoencoder_equals_one_trained_by_autograd(linear: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(70, 6)
    torch.manual_seed(1)
    weights, biases = train_autoencoder(x, (6, 4, 2), epochs=3, linear=linear)
    torch.manual_seed(1)
    layers = [nn.Linear(a, b) for a, b in ((6, 4), (4, 2), (2, 4), (4, 6))]
    between = nn.Identity() if linear else nn.ReLU()
    net = nn.Sequential(layers[0], between, *layers[1:3], between, layers[3])
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(3):
        for indices in torch.split(torch.randperm(70), 32):
            adam.zero_grad()
            loss = nn.functional.mse_loss(net(x[indices]), x[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        torch.testing.assert_close(weight, layer.weight.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(bias, layer.bias.detach(), atol=1e-6, rtol=1e-5)


def write_mnist(root: Path, folder: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Write idx files as MNIST's own, and return the training pictures and labels."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("t10k", "train"):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        head = np.array([0x803, n, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = np.array([0x801, n], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return pixels, labels


@pytest.mark.parametrize(("plugin", "folder"), [(Mnist, "MNIST"), (FashionMnist, "FashionMNIST")])
def test_torchvision_data_is_split_and_normalised(
    plugin: type[Mnist | FashionMnist], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = write_mnist(tmp_path, folder, 100)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    data = plugin().load()
    assert (data.input_shape, data.outputs, len(data.classes)) == ((1, 28, 28), 10, 10)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [90, 10, 100]
    assert joined(data.validation)[1].bincount().tolist() == [1] * 10
    parts = [joined(data.train), joined(data.validation)]
    x, y = (torch.cat(both) for both in zip(*parts, strict=True))
    levels = (x.double() * plugin.std[0] + plugin.mean[0]) * 255
    found = {
        (tuple(np.round(p.ravel())), k) for p, k in zip(levels.numpy(), y.tolist(), strict=True)
    }
    assert found == {(tuple(p.ravel()), int(k)) for p, k in zip(pixels, labels, strict=True)}


def test_colour_pictures_keep_their_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files:
        """What torchvision gives: height × width × channels, labels in a list."""

        data = np.zeros((40, 32, 32, 3), dtype=np.uint8) + np.array([0, 255, 51], dtype=np.uint8)
        targets = (0, 1) * 20
        classes = ("cat", "dog")

        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            assert (root, download) == (Path("here"), True)

    monkeypatch.setattr(Cifar10, "source", Files)
    data = Cifar10(root="here", download=True).load()
    assert (data.input_shape, data.classes) == ((3, 32, 32), ("cat", "dog"))
    mean, std = torch.tensor(Cifar10.mean), torch.tensor(Cifar10.std)
    expected = (torch.tensor([0, 1, 0.2]) - mean) / std
    torch.testing.assert_close(joined(data.test)[0], expected.view(3, 1, 1).expand(40, 3, 32, 32))


def test_limit_takes_samples_of_every_class(tmp_path: Path) -> None:
    write_mnist(tmp_path, "MNIST", 200)
    data = Mnist(root=str(tmp_path), limit=20).load()
    for split in (data.train, data.validation, data.test):
        assert joined(split)[1].bincount().tolist() == [2] * 10


@pytest.mark.parametrize("plugin", [Mnist, FashionMnist, Cifar10])
def test_a_missing_root_is_named_with_the_remedies(
    plugin: type[Mnist | FashionMnist | Cifar10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    with pytest.raises(DataError, match=r"--data-root DIR.*--download"):
        plugin().load()
    with pytest.raises(DataError, match=rf"{tmp_path}/none.*--data-root DIR.*--download"):
        plugin(root=str(tmp_path / "none")).load()


def test_damaged_files_are_an_error(tmp_path: Path) -> None:
    write_mnist(tmp_path, "MNIST", 100)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(DataError, match="mnist cannot be read"):
        Mnist(root=str(tmp_path)).load()


def picture(path: Path, level: int = 128, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 16), level).convert(mode).save(path)
    return path


SMALL = {"size": 12, "crop": 8}


def folder(root: Path, *parts: str, n: int = 10) -> Path:
    """Make classes cat and dog of `n` pictures each, below every part."""
    for part in parts or (".",):
        for level, name in ((0, "cat"), (255, "dog")):
            for number in range(n):
                picture(root / part / name / f"{number}.png", level)
    return root


def test_a_folder_of_classes_is_split(tmp_path: Path) -> None:
    data = ImageFolder(path=str(folder(tmp_path)), **SMALL).load()
    assert (data.input_shape, data.outputs, data.classes) == ((3, 8, 8), 2, ("cat", "dog"))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [14, 3, 3]
    x, y = everything(data)
    assert y.bincount().tolist() == [10, 10]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(x, ((y.view(-1, 1, 1, 1).float() - mean) / std).expand_as(x))


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val", "test"), [20, 20, 20]),
        (("train", "test"), [17, 3, 20]),
        (("train", "valid"), [17, 20, 3]),
        (("train",), [14, 3, 3]),
    ],
)
def test_parts_with_folders_of_their_own_are_used(
    parts: tuple[str, ...], sizes: list[int], tmp_path: Path
) -> None:
    data = ImageFolder(path=str(folder(tmp_path, *parts)), **SMALL).load()
    assert [len(s) for s in (data.train, data.validation, data.test)] == sizes
    assert data.classes == ("cat", "dog")


def test_train_may_be_a_class(tmp_path: Path) -> None:
    for name in ("car", "train"):
        for number in range(10):
            picture(tmp_path / name / f"{number}.png")
    assert ImageFolder(path=str(tmp_path), **SMALL).load().classes == ("car", "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_skipped_and_named(workers: int, tmp_path: Path) -> None:
    folder(tmp_path, "train", "val", "test", n=3)
    cats = tmp_path / "train" / "cat"
    whole = picture(cats / "whole.jpg").read_bytes()
    (cats / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (cats / "notes.txt").write_text("no picture")
    (cats / "empty.png").touch()
    (cats / ".hidden").touch()
    (tmp_path / "train" / "cow").mkdir()
    data = ImageFolder(path=str(tmp_path), workers=workers, **SMALL).load()
    assert len(joined(data.train)[0]) == 7
    named = data.skipped()
    assert len(named) == 4
    for name, line in zip(("cow", "cut.jpg", "empty.png", "notes.txt"), named, strict=True):
        assert name in line


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "RGBA", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    if mode == "I;16":
        Image.fromarray(np.full((16, 20), 65535, dtype=np.uint16)).save(path)
    else:
        picture(path, 255, mode)
    with Image.open(path) as stored:
        assert stored.mode == mode
    rgb = read_rgb(path)
    assert rgb.mode == "RGB"
    assert np.asarray(rgb).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5000, 4000)])
def test_pictures_of_any_size_are_brought_to_the_crop(
    size: tuple[int, int], tmp_path: Path
) -> None:
    folder(tmp_path, n=3)
    Image.new("RGB", size, (255, 0, 51)).save(tmp_path / "cat" / "odd.jpg", quality=100)
    data = ImageFolder(path=str(tmp_path), validation=0.3, test=0.3, **SMALL).load()
    shown = {
        data.source(part, int(index)): data.picture(x)
        for part in SPLITS
        for index, x, _ in indexed(getattr(data, part), 1)
    }
    assert data.skipped() == []
    expected = torch.tensor([1.0, 0.0, 0.2]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(shown["cat/odd.jpg"], expected, atol=0.01, rtol=0)


def test_a_picture_too_thin_to_be_resized_is_skipped(tmp_path: Path) -> None:
    """Its short side at 256 pixels, the long one would take 3 GB."""
    folder(tmp_path, "train", "val", "test", n=3)
    Image.new("RGB", (1, 15_000)).save(tmp_path / "train" / "cat" / "thin.png")
    data = ImageFolder(path=str(tmp_path)).load()
    assert sum(len(x) for x, _ in data.train.batches(2)) == 6
    (line,) = data.skipped()
    assert "thin.png: 1×15000 pixels are too long and thin" in line


def test_pictures_can_be_shown_as_they_are_stored(tmp_path: Path) -> None:
    """Without resizing, what is shown is the file's centre, and the source leads to the file."""
    rng = np.random.default_rng(0)
    for part, name in product(("train", "val"), ("cat", "dog")):
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    data = ImageFolder(path=str(tmp_path), **SMALL).load()
    for part in SPLITS:
        for indices, x, _ in indexed(getattr(data, part), 2):
            for index, shown in zip(indices.tolist(), data.picture(x), strict=True):
                stored = np.asarray(Image.open(tmp_path / data.source(part, index)))
                inner = torch.from_numpy(stored[2:10, 3:11].copy()).permute(2, 0, 1) / 255
                torch.testing.assert_close(shown, inner, atol=1e-5, rtol=0)


def test_digits_and_vision_data_are_shown_in_grey_or_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, _ = write_mnist(tmp_path, "MNIST", 50)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    data = Mnist().load()
    x = torch.cat([joined(data.train)[0], joined(data.validation)[0]])
    shown = (data.picture(x) * 255).round().to(torch.uint8)
    assert torch.equal(shown[:, 0], shown[:, 2])
    assert {p.numpy().tobytes() for p in shown[:, 1]} == {p.tobytes() for p in pixels}
    digits = Digits().load()
    x, _ = joined(digits.test)
    assert torch.equal(digits.picture(x), x.expand(-1, 3, -1, -1))
    assert digits.source("test", 0) == ""


@pytest.mark.parametrize("separator", ["\t", " "])
def test_a_file_names_the_classes(separator: str, tmp_path: Path) -> None:
    rows = [("n1", "crane"), ("n2", "crane, bird"), ("n3", "tench, Tinca tinca"), ("n9", "cat")]
    file = tmp_path / "words.txt"
    file.write_text("\n".join(separator.join(row) for row in rows) + "\n\n", encoding="utf-8")
    for name in ("n1", "n2", "n3", "other"):
        for number in range(4):
            picture(tmp_path / "data" / name / f"{number}.png")
    options = {"path": str(tmp_path / "data"), "names": str(file), **SMALL}
    data = ImageFolder(**options).load()
    assert data.classes == ("n1", "n2", "n3", "other")
    assert data.names == ("crane", "crane, bird", "tench", "other")
    assert ImageFolder(**{**options, "names": ""}).load().names == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\xff", "cannot be read"),
        (b"n1 crane\nn2\n", "line 2: 'n2' has no folder and name"),
        (b"n7 crane\n", "names none of the 2 class folders, such as cat"),
    ],
)
def test_files_that_name_no_classes_are_refused(
    text: bytes | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "words.txt"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(DataError, match=message):
        ImageFolder(path=str(folder(tmp_path / "data")), names=str(file)).load()


def test_a_thousand_other_folders_are_not_taken_for_imagenet() -> None:
    assert class_names([f"n{number:08}" for number in range(1000)], "") == ()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((4, 4), 0x8080, dtype=np.uint16)).save(path)
    assert np.asarray(read_rgb(path)).tolist() == [[[128] * 3] * 4] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "none is no folder"),
        (lambda root: root, "no class"),
        (lambda root: picture(root / "cat" / "1.png").parents[1], "one class only: cat"),
        (lambda root: folder(root, "train", "test", n=0), "no class"),
    ],
)
def test_folders_without_two_classes_are_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        ImageFolder(path=str(make(tmp_path))).load()


def test_an_empty_class_is_named_when_only_one_is_left(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"one class only: cat.*dog: class folder without files"):
        ImageFolder(path=str(tmp_path)).load()


def test_a_class_unknown_to_training_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "train", "test")
    picture(tmp_path / "test" / "emu" / "1.png")
    with pytest.raises(DataError, match="without training pictures: emu"):
        ImageFolder(path=str(tmp_path)).load()


def test_a_part_of_unreadable_files_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.png").write_text("no picture")
    data = ImageFolder(path=str(tmp_path)).load()
    with pytest.raises(DataError, match="none of the 14 samples could be read"):
        joined(data.train)


@pytest.mark.parametrize(
    "options", [{"size": 8, "crop": 9}, {"validation": 0.5, "test": 0.5}, {"workers": -1}]
)
def test_imagefolder_refuses_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageFolder(path="x", **options)


def test_the_small_datasets_are_in_memory() -> None:
    assert isinstance(Digits().load().train, TensorSplit)
