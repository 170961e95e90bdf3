"""Pictures in Hugging Face datasets: made on the spot, saved, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from polykit.entries import Found
from polykit.errors import DataError, PluginError
from polykit.registry import Registry
from polykit.runtime.samples.splits import SPLITS, indexed
from polykit.types import Data
from polykit_builtins.datasets.huggingface import HuggingFace, Rows

SMALL = {"size": 8, "crop": 8}
CLASSES = datasets.ClassLabel(names=["wolf", "ant"])


def table(
    first: int, count: int, labels: Any = None, kind: Any = CLASSES, name: str = "label"
) -> datasets.Dataset:
    """Flat pictures whose level is their number, of two classes in turn unless said otherwise."""
    numbers = range(first, first + count)
    values = [labels[n % len(labels)] if labels else n % 2 for n in numbers]
    pixels = [np.full((9, 9, 3), number, dtype=np.uint8) for number in numbers]
    features = datasets.Features(
        {"n": datasets.Value("int64"), "img": datasets.Image(), name: kind}
    )
    columns = {"n": list(numbers), "img": pixels, name: values}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(made: Any, folder: Path) -> str:
    made.save_to_disk(str(folder))
    return str(folder)


def seen(data: Data) -> dict[int, tuple[str, int, str]]:
    """Level of each picture → its part, class and source."""
    found = {}
    for part in SPLITS:
        for indices, x, y in indexed(getattr(data, part), 4):
            levels = (data.picture(x)[:, 0, 0, 0] * 255).round().int().tolist()
            for index, level, label in zip(indices.tolist(), levels, y.tolist(), strict=True):
                assert level not in found
                found[level] = part, label, data.source(part, index)
    return found


def test_one_table_is_split_and_every_row_is_found_once(tmp_path: Path) -> None:
    path = saved(table(0, 20), tmp_path / "rows")
    before = sorted(tmp_path.rglob("*"))
    data = HuggingFace(path=path, **SMALL).load()
    assert (data.classes, data.outputs, data.input_shape) == (("wolf", "ant"), 2, (3, 8, 8))
    assert [len(getattr(data, part)) for part in SPLITS] == [14, 3, 3]
    found = seen(data)
    assert sorted(found) == list(range(20))
    for level, (_, label, source) in found.items():
        assert (label, source) == (level % 2, f"train:{level}")
    assert sorted(tmp_path.rglob("*")) == before  # no cache beside the user's files


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val", "test"), [8, 8, 8]),
        (("train", "validation"), [7, 8, 1]),
        (("x",), [6, 1, 1]),
    ],
)
def test_splits_become_parts(parts: tuple[str, ...], sizes: list[int], tmp_path: Path) -> None:
    made = datasets.DatasetDict({name: table(8 * n, 8) for n, name in enumerate(parts)})
    data = HuggingFace(path=saved(made, tmp_path / "rows"), **SMALL).load()
    assert [len(getattr(data, part)) for part in SPLITS] == sizes
    assert sorted(seen(data)) == list(range(8 * len(parts)))


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "numbers"),
    [
        ([3, 1], datasets.Value("int64"), ("0", "1", "2", "3"), [3, 1]),
        (["dog", "Cat"], datasets.Value("string"), ("Cat", "dog"), [1, 0]),
    ],
)
def test_other_columns_can_hold_the_class(
    labels: list[Any], kind: Any, classes: tuple[str, ...], numbers: list[int], tmp_path: Path
) -> None:
    path = saved(table(0, 12, labels, kind, "kind"), tmp_path / "rows")
    with pytest.raises(DataError, match=r"no column of type ClassLabel; .* label=…, one of n, img"):
        HuggingFace(path=path).load()
    data = HuggingFace(path=path, label="kind", **SMALL).load()
    assert data.classes == classes
    assert all(label == numbers[level % 2] for level, (_, label, _) in seen(data).items())


def test_rows_without_a_class_are_left_out_and_damaged_pictures_skipped(tmp_path: Path) -> None:
    made = table(0, 24, [0, 1, -1, None])
    columns = made.cast_column("img", datasets.Image(decode=False)).to_dict()
    columns["img"][4] = {"bytes": b"no picture", "path": None}
    columns["img"][5] = None
    path = saved(datasets.Dataset.from_dict(columns, features=made.features), tmp_path / "rows")
    data = HuggingFace(path=path, **SMALL).load()
    assert sorted(seen(data)) == sorted({n for n in range(24) if n % 4 < 2} - {4, 5})
    skipped = sorted(data.skipped())
    assert skipped[0] == "train: 12 rows without a class, left out"
    assert [line.partition(": ")[0] for line in skipped[1:]] == ["train:4", "train:5"]


def test_a_row_may_name_a_file_that_is_there_and_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    names = [str(tmp_path / "a.png"), str(tmp_path / "none.png"), str(tmp_path)]
    rows = [{"img": {"bytes": None, "path": name}} for name in names]
    files = Rows(rows, "img", "train", np.arange(3))
    assert files.open(0) == tmp_path / "a.png"
    for number in (1, 2):
        with pytest.raises(DataError, match="there is no file"):
            files.open(number)


def test_workers_read_the_same(tmp_path: Path) -> None:
    path = saved(table(0, 20), tmp_path / "rows")
    one, two = (HuggingFace(path=path, workers=n, **SMALL).load() for n in (0, 1))
    order = torch.randperm(14)
    for (x, y), (v, w) in zip(
        one.train.batches(5, order=order), two.train.batches(5, order=order), strict=True
    ):
        assert torch.equal(x, v)
        assert torch.equal(y, w)


def test_what_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset was named"):
        HuggingFace().load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty cannot be opened .*there is imagefolder"):
        HuggingFace(path=str(tmp_path / "empty")).load()
    path = saved(table(0, 12), tmp_path / "rows")
    with pytest.raises(DataError, match=r"no column 'kind'; .* label=…, one of n, img, label"):
        HuggingFace(path=path, label="kind").load()
    with pytest.raises(DataError, match="fewer than two classes"):
        HuggingFace(path=saved(table(0, 12, [1]), tmp_path / "one")).load()
    several = datasets.DatasetDict({"a": table(0, 8), "b": table(8, 8)})
    with pytest.raises(DataError, match="has no split train, but a, b"):
        HuggingFace(path=saved(several, tmp_path / "several")).load()
    other = datasets.DatasetDict({"train": table(0, 8), "test": table(8, 8, name="y")})
    with pytest.raises(DataError, match="test has not the columns img and label of train"):
        HuggingFace(path=saved(other, tmp_path / "other")).load()
    (arrow,) = (tmp_path / "rows").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match=r"rows cannot be opened"):
        HuggingFace(path=path).load()


def test_without_the_library_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Found, "missing", ["datasets"])
    with pytest.raises(
        PluginError, match="requires datasets; install it with: pip install datasets"
    ):
        Registry.discover().create("dataset", "huggingface:x")
