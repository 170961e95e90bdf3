"""Splits in memory and on demand, and a user's own data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

from polykit.errors import DataError
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import (
    SPLITS,
    LoaderSplit,
    TensorSplit,
    Unreadable,
    indexed,
    split_dataset,
    split_indices,
)
from polykit.types import Split


class Listed(Dataset[Any]):
    """Samples from tensors, some of them unreadable; counts how often it is read."""

    def __init__(self, x: Tensor, y: Tensor, broken: tuple[int, ...] = ()) -> None:
        self.x, self.y, self.broken, self.reads = x, y, broken, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        if index in self.broken:
            raise Unreadable(f"sample-{index}: truncated")
        return self.x[index], self.y[index]


def numbered(n: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    return torch.arange(3.0 * n).view(n, 3), torch.arange(n) % classes


def joined(split: Split, batch_size: int, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*split.batches(batch_size, order=order), strict=True)
    return torch.cat(xs), torch.cat(ys)


KINDS = {"tensors": TensorSplit, "loader": lambda x, y: LoaderSplit(Listed(x, y))}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), n=st.integers(1, 20), batch_size=st.integers(1, 25))
def test_batches_do_not_depend_on_their_size_and_follow_the_order(
    kind: str, data: st.DataObject, n: int, batch_size: int
) -> None:
    x, y = numbered(n)
    split = KINDS[kind](x, y)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    assert isinstance(split, Split)
    for index in (None, order):
        expected = (x, y) if index is None else (x[index], y[index])
        sizes = [len(part) for part, _ in split.batches(batch_size, order=index)]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert all(map(torch.equal, joined(split, batch_size, index), expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_samples_are_left_out_and_named_once(workers: int) -> None:
    x, y = numbered(6)
    split = LoaderSplit(Listed(x, y, broken=(4, 1)), workers=workers, notes=("a note",))
    assert split.skipped() == ("a note",)
    for _ in range(2):
        got, _ = joined(split, 2, torch.tensor([5, 4, 1, 3, 2, 0]))
        assert torch.equal(got, x[[5, 3, 2, 0]])
    assert split.skipped() == ("a note", "sample-1: truncated", "sample-4: truncated")
    assert len(split) == 6


class Elsewhere:
    """A third party's split, which leaves unreadable samples out without a word."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        with suppress(DataError):  # nothing could be read
            yield from self._split.batches(batch_size, order=order)

    def skipped(self) -> Sequence[str]:
        return ()


@pytest.mark.parametrize("kind", ["loader", "elsewhere"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), batch_size=st.integers(1, 15))
def test_indexed_batches_say_which_samples_could_be_read(
    kind: str, data: st.DataObject, n: int, batch_size: int
) -> None:
    broken = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    order = data.draw(st.none() | st.permutations(range(n)))
    split: Split = LoaderSplit(Listed(*numbered(n), broken=tuple(broken)))
    split = Elsewhere(split) if kind == "elsewhere" else split
    found = list(indexed(split, batch_size, None if order is None else torch.tensor(order)))
    indices, x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert indices.tolist() == [i for i in order or range(n) if i not in broken]
    assert torch.equal(x, numbered(n)[0][indices])
    assert torch.equal(y, numbered(n)[1][indices])
    assert max(len(batch[0]) for batch in found) <= batch_size


def test_samples_in_memory_have_all_their_indices() -> None:
    x, y = numbered(5)
    found = list(indexed(TensorSplit(x, y), 2, torch.tensor([4, 0, 0])))
    assert [indices.tolist() for indices, _, _ in found] == [[4, 0], [0]]
    assert torch.equal(found[0][1], x[[4, 0]])
    assert torch.equal(found[1][2], y[[0]])


class OpenFiles(Dataset[Any]):
    """Tells how many files the process that reads a sample has open."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(2), torch.tensor(len(os.listdir("/dev/fd")))


def test_a_batch_from_a_worker_takes_few_open_files() -> None:
    """One per sample would stop the reading for good where few are allowed."""
    _, opened = joined(LoaderSplit(OpenFiles(), workers=1), 100)
    assert opened.max() < len(os.listdir("/dev/fd")) + 50


def test_an_error_in_a_worker_reads_as_it_does_without() -> None:
    x, y = numbered(3)
    x[1, 0] = float("nan")
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            list(LoaderSplit(Listed(x, y), workers=workers).batches(3))
        assert str(caught.value).startswith("sample 1: inputs hold 1 NaN")


def test_a_split_without_readable_samples_is_an_error() -> None:
    split = LoaderSplit(Listed(*numbered(3), broken=(0, 1, 2)))
    with pytest.raises(DataError, match=r"none of the 3 samples.*sample-0: truncated"):
        list(split.batches(2))


def test_reading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    list(LoaderSplit(Listed(*numbered(4))).batches(2))
    as_data(numbered(20), name="mine")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2), "3 inputs but 2 targets"),
        (torch.zeros(0, 2), torch.zeros(0), "empty"),
        (torch.tensor([[0.0], [torch.nan]]), torch.zeros(2), "inputs hold 1 NaN"),
        (torch.zeros(2, 1), torch.tensor([0.0, torch.inf]), "targets hold 1 NaN or infinite"),
    ],
)
def test_tensor_split_refuses(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorSplit(x, y)


class Returning(Dataset[Any]):
    """Gives the same odd samples to everyone who asks."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], r"sample 1 has shapes \(3,\)"),
        ([(torch.zeros(2), 0), (torch.full((2,), torch.nan), 1)], "sample 1: inputs hold 2 NaN"),
        ([(torch.zeros(2), 0), "picture"], "sample 1 is not a pair"),
        ([(object(), 0), (object(), 1)], "ToTensor"),
    ],
)
def test_loader_split_names_the_sample_that_does_not_fit(samples: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(LoaderSplit(Returning(*samples)).batches(2))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(10, 200), seed=st.integers(0, 5), classes=st.integers(1, 6))
def test_parts_are_disjoint_complete_and_proportional(n: int, seed: int, classes: int) -> None:
    strata = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    fractions = (0.6, 0.2, 0.2)
    parts = split_indices(n, fractions, seed, strata=strata)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * n) <= 1
        for stratum in range(classes):
            size = float((strata == stratum).sum())
            found = float((strata[part] == stratum).sum())
            assert abs(found - fraction * size) <= 1 + (classes + 1) * size / n


def test_parts_depend_on_the_seed_alone() -> None:
    first, again, other = (split_indices(50, (0.5, 0.5), seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("n", "fractions", "message"),
    [(2, (0.7, 0.15, 0.15), "too few"), (9, (0.5, 0.2), "sum to 1"), (9, (1.5, -0.5), "positive")],
)
def test_impossible_splits_are_refused(n: int, fractions: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_indices(n, fractions, seed=0)


def test_split_dataset_covers_the_dataset() -> None:
    parts = split_dataset(Listed(*numbered(20)), seed=3)
    assert list(parts) == list(SPLITS)
    assert sorted(i for part in parts.values() for i in part.indices) == list(range(20))


def loader(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader(Listed(x, y), batch_size=3, shuffle=True)


def mapping(x: Tensor, y: Tensor) -> dict[str, Any]:
    parts = random_split(TensorDataset(x, y), [20, 10, 10], torch.Generator().manual_seed(0))
    return dict(zip(SPLITS, parts, strict=True))


SOURCES = {
    "pair": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.double().numpy(), y.numpy()),
    "tensor dataset": TensorDataset,
    "dataset": Listed,
    "loader": loader,
    "mapping": mapping,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_as_data_takes_a_users_data_in_any_form(kind: str) -> None:
    x, y = numbered(40, classes=4)
    data = as_data(SOURCES[kind](x, y), name="mine")
    assert (data.task, data.outputs, data.input_shape) == ("classification", 4, (3,))
    parts = [joined(split, 7) for split in (data.train, data.validation, data.test)]
    inputs, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    order = inputs[:, 0].argsort()
    assert torch.equal(inputs[order], x)
    assert torch.equal(labels[order], y)
    assert inputs.dtype == torch.float32


@pytest.mark.parametrize("kind", SOURCES)
def test_as_data_finds_a_regression(kind: str) -> None:
    x, _ = numbered(40)
    data = as_data(SOURCES[kind](x, x.sum(1)), name="mine")
    assert (data.task, data.outputs) == ("regression", 1)
    for split in (data.train, data.test):
        inputs, targets = joined(split, 7)
        assert torch.equal(targets, inputs.sum(1, keepdim=True))


def test_as_data_keeps_what_is_said() -> None:
    x, y = numbered(40)
    assert as_data((x, y), name="a", task="regression").task == "regression"
    assert as_data((x, y), name="a", outputs=7).outputs == 7
    assert as_data((x, y), name="a", classes=("u", "v", "w")).outputs == 3
    data = as_data((x, torch.stack([x[:, 0], x[:, 1]], 1)), name="a")
    assert data.outputs == 2
    assert as_data(data, name="b") is data


def test_tensors_stay_in_memory_also_behind_subsets() -> None:
    data = as_data(mapping(*numbered(40)), name="mine")
    assert isinstance(data.train, TensorSplit)


def test_targets_come_from_the_attribute_where_the_dataset_has_it() -> None:
    x, y = numbered(40)
    dataset = Listed(x, y)
    dataset.targets = y.tolist()  # type: ignore[attr-defined]
    as_data(dataset, name="mine")
    assert dataset.reads == len(SPLITS)  # one look per split, at the shape
    dataset.target_transform = int  # type: ignore[attr-defined]
    as_data(dataset, name="mine")
    assert dataset.reads > 40


def test_unreadable_samples_of_a_users_dataset_are_named() -> None:
    data = as_data(Listed(*numbered(40), broken=(3, 30)), name="mine")
    for split in (data.train, data.validation, data.test):
        list(split.batches(8))
    assert set(data.skipped()) == {"sample-3: truncated", "sample-30: truncated"}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


X, Y = numbered(20)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((X, torch.full((20,), 1)), "one-class dataset: all 14 training samples are of class 1"),
        ((X, Y - 1), "run from -1 to 0"),
        ((X, Y[:5]), "must be"),
        ((X[:0], Y[:0]), "empty"),
        ((X.int(), Y), r"mine \(train\): inputs are torch.int32.*x.float"),
        ((X.where(X > 0, torch.nan), Y.float()), "NaN"),
        ((X, torch.eye(20).long()), r"argmax"),
        ({"train": (X, Y)}, "keys train; it needs"),
        (Stream(), "map-style"),
        ([1, 2, 3], "cannot read a list"),
        (Listed(X, Y, broken=tuple(range(20))), "no sample could be read"),
        (dict.fromkeys(SPLITS, (X, torch.rand(20, 2))) | {"test": (X, X)}, "3 columns, not 2"),
        (dict.fromkeys(SPLITS, (X, Y)) | {"test": (X[:, :1], Y)}, "differ in shape"),
    ],
)
def test_as_data_refuses_what_cannot_serve(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_data(source, name="mine")


def test_more_classes_than_outputs_are_refused() -> None:
    with pytest.raises(DataError, match="outside 0 to 2"):
        as_data(numbered(20, classes=4), name="mine", outputs=3)
    with pytest.raises(DataError, match="outside 0 to 1"):
        as_data(numbered(20, classes=4), name="mine", classes=("cat", "dog"))
    with pytest.raises(DataError, match="2 class names for 4 classes"):
        as_data(numbered(20, classes=4), name="mine", outputs=4, classes=("cat", "dog"))


def test_a_one_class_dataset_names_the_class() -> None:
    with pytest.raises(DataError, match=r"class 1 \(dog\)"):
        as_data((X, torch.ones(20).long()), name="mine", classes=("cat", "dog"))
