"""Splits: parts of a dataset in memory or read on demand, and how to cut one into parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from polykit.errors import DataError
from polykit.runtime.seeds import generator
from polykit.types import Data, Split

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.15, 0.15)


class Unreadable(DataError):
    """Raised by a dataset's `__getitem__` for a sample that cannot be read; the text says why."""


class TensorSplit:
    """A split in memory: inputs `[n, *shape]` and targets `[n, ...]`.

    Raises DataError where they are empty, differ in length, or hold NaN or infinity.

    >>> split = TensorSplit(torch.arange(3.0).unsqueeze(1), torch.tensor([0, 1, 0]))
    >>> [y.tolist() for _, y in split.batches(2, order=torch.tensor([1, 2, 0]))]
    [[1, 0], [0]]
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y):
            raise DataError(f"{len(x)} inputs but {len(y)} targets; each input needs its target")
        if len(x) == 0:
            raise DataError("the split is empty; give at least one sample")
        check_finite(x, "inputs")
        check_finite(y, "targets")
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield slices of the tensors, or the samples that `order` names."""
        for start in range(0, len(self if order is None else order), batch_size):
            part = slice(start, start + batch_size)
            if order is None:
                yield self.x[part], self.y[part]
            else:
                indices = order[part].to(self.x.device)
                yield self.x.index_select(0, indices), self.y.index_select(0, indices)

    def skipped(self) -> Sequence[str]:
        """Nothing: what is in memory was readable."""
        return ()


class LoaderSplit:
    """A split read on demand from a map-style dataset of pairs (input tensor, target).

    A sample whose `__getitem__` raises `Unreadable` is left out of its batch and named in
    `skipped()`; `len` counts it. `workers` processes read ahead (0: none). `notes` open the list
    of what was skipped. `ends` tells where one archive of samples ends and the next begins. One
    batch is in memory at a time (two per worker, with workers).
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        workers: int = 0,
        notes: Sequence[str] = (),
        ends: Sequence[int] = (),
    ) -> None:
        self.dataset, self.workers = dataset, workers
        self.notes, self.ends = tuple(notes), tuple(ends)
        self._reasons: dict[int, str] = {}
        if len(self) == 0:
            raise DataError("the split is empty; give at least one sample")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the samples in `order`; raise DataError where none of them could be read."""
        return ((x, y) for _, x, y in self.indexed(batch_size, order=order))

    def indexed(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Read as `batches` does, and say which samples they are: `(indices [n], x, y)`."""
        indices = list(range(len(self))) if order is None else order.tolist()
        loader = DataLoader(
            Guarded(self.dataset),
            batch_size,
            sampler=indices,
            num_workers=self.workers,
            collate_fn=_gather,
            generator=torch.Generator(),  # or each pass would draw from the global one
        )
        found = not indices
        for batch, skips in loader:
            self._reasons |= {skip.index: skip.reason for skip in skips}
            if isinstance(batch, DataError):
                raise batch
            if batch is not None:
                found = True
                yield batch
        if not found:
            raise DataError(
                f"none of the {len(indices)} samples could be read; the first: "
                f"{self._reasons[indices[0]]}"
            )

    def skipped(self) -> Sequence[str]:
        """The notes, then the samples found unreadable so far, in the dataset's order."""
        return (*self.notes, *(self._reasons[index] for index in sorted(self._reasons)))


def indexed(
    split: Split, batch_size: int, order: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `(indices [n], x, y)`: batches of any split, and which of its samples they are.

    Unreadable samples are missing from both. A `LoaderSplit` reads ahead as it always does; of
    another split, a batch that comes back short is read again sample by sample.

    >>> split = TensorSplit(torch.arange(3.0).unsqueeze(1), torch.tensor([0, 1, 0]))
    >>> [indices.tolist() for indices, _, _ in indexed(split, 2)]
    [[0, 1], [2]]
    """
    if isinstance(split, LoaderSplit):
        yield from split.indexed(batch_size, order=order)
        return
    for part in (torch.arange(len(split)) if order is None else order).split(batch_size):
        if found := _readable(split, part):
            indices, x, y = (torch.cat(tensors) for tensors in zip(*found, strict=True))
            yield indices, x, y


def stretches(split: Split, most: int) -> list[tuple[int, int]]:
    """Cut a split into stretches `(first, last)` of at most `most` samples, all of about one size.

    `last` is not included. No stretch goes on from one archive into the next, so that a damaged
    archive costs its own stretches only.

    >>> split = TensorSplit(torch.zeros(5, 1), torch.zeros(5))
    >>> stretches(split, 2)
    [(0, 2), (2, 3), (3, 5)]
    """
    ends = split.ends if isinstance(split, LoaderSplit) else ()
    found = []
    for start, end in pairwise((0, *ends, len(split))):
        parts = ceil((end - start) / most)
        places = [start + round(number * (end - start) / parts) for number in range(parts + 1)]
        found += list(pairwise(places))
    return found


def left_out(data: Data) -> tuple[str, ...]:
    """Name what was left out of data before a sample was read: the notes of their splits."""
    parts = (data.train, data.validation, data.test)
    return tuple(note for part in parts if isinstance(part, LoaderSplit) for note in part.notes)


def _readable(split: Split, indices: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Read samples together or, where some of them are missing, one by one."""
    found = [(x, y) for x, y in split.batches(len(indices), order=indices)]
    if sum(len(x) for x, _ in found) == len(indices):
        ends = torch.tensor([len(x) for x, _ in found]).cumsum(0)[:-1].tolist()
        parts = indices.tensor_split(ends)
        return [(part, x, y) for part, (x, y) in zip(parts, found, strict=True)]
    if len(indices) == 1:
        return []
    return [piece for index in indices.split(1) for piece in _readable(split, index)]


@dataclass(frozen=True)
class Samples:
    """A fixed choice of a split's samples, read in chunks as often as a pruner wants."""

    split: Split
    order: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.split.batches(self.batch_size, order=self.order)


def split_dataset(
    dataset: Dataset[Any],
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
    *,
    strata: Tensor | None = None,
) -> dict[str, Subset[Any]]:
    """Split a map-style dataset into train, validation and test; see `split_indices`."""
    parts = split_indices(len(dataset), fractions, seed, strata=strata)  # type: ignore[arg-type]
    return {key: Subset(dataset, part.tolist()) for key, part in zip(SPLITS, parts, strict=True)}


def split_indices(
    n: int, fractions: Sequence[float], seed: int, *, strata: Tensor | None = None
) -> list[Tensor]:
    """Split `range(n)` at random into one part per fraction, each sorted, none empty.

    `strata [n]` (integers) keeps the share of each stratum to about a sample in every part. Raises
    DataError where the fractions are not positive with sum 1, or `n` is too small for them.

    >>> [len(part) for part in split_indices(20, (0.7, 0.15, 0.15), seed=0)]
    [14, 3, 3]
    """
    shares = torch.tensor(fractions, dtype=torch.float64)
    if not (bool((shares > 0).all()) and abs(float(shares.sum()) - 1) < 1e-6):
        raise DataError(f"fractions {tuple(fractions)} must be positive and sum to 1")
    order = torch.randperm(n, generator=generator(seed, "split"))
    if strata is not None:
        order = _interleave(order, strata)
    ends = (shares.cumsum(0) * n).round().long().tolist()
    parts = [order[a:b].sort().values for a, b in zip([0, *ends], ends, strict=False)]
    if not all(len(part) for part in parts):
        raise DataError(
            f"{n} samples are too few to split {' / '.join(f'{f:g}' for f in fractions)}; "
            f"bring more samples or other fractions"
        )
    return parts


@dataclass(frozen=True)
class Skip:
    """A sample that could not be read, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Guarded(Dataset[Any]):
    """Gives `(index, x, y)`, or a `Skip`: exceptions would end a worker's whole batch."""

    dataset: Dataset[Any]

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor] | Skip:
        try:
            x, y = sample_pair(self.dataset[index], index)
        except Unreadable as error:
            return Skip(index, str(error))
        return index, x, y


def sample_pair(sample: Any, index: int) -> tuple[Tensor, Tensor]:
    """Return one sample as two tensors; raise DataError if it is no such pair."""
    try:
        x, y = sample
        return torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"sample {index} is not a pair (input tensor, target): {error}; pictures need a "
            f"transform such as torchvision.transforms.ToTensor()"
        ) from error


def _gather(
    samples: Sequence[tuple[int, Tensor, Tensor] | Skip],
) -> tuple[tuple[Tensor, Tensor, Tensor] | DataError | None, list[Skip]]:
    """Make a batch in the process that read it, and set the unreadable samples apart.

    Tensors handed on one by one would keep an open file each, and reading would stop for good
    where there are too many of them. An error is handed on, or its text would be a traceback.
    """
    skips = [sample for sample in samples if isinstance(sample, Skip)]
    readable = [sample for sample in samples if not isinstance(sample, Skip)]
    try:
        return (_stack(readable) if readable else None), skips
    except DataError as error:
        return error, skips


def _stack(samples: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    first, x0, y0 = samples[0]
    for index, x, y in samples:
        if (x.shape, y.shape) != (x0.shape, y0.shape):
            raise DataError(
                f"sample {index} has shapes {tuple(x.shape)} and {tuple(y.shape)}, sample {first} "
                f"{tuple(x0.shape)} and {tuple(y0.shape)}; all must be alike"
            )
        check_finite(x, f"sample {index}: inputs")
        check_finite(y, f"sample {index}: targets")
    indices, xs, ys = zip(*samples, strict=True)
    return torch.tensor(indices), torch.stack(xs), torch.stack(ys)


def check_finite(values: Tensor, what: str) -> None:
    """Raise DataError where `values` hold NaN or infinity; `what` names them."""
    if values.is_floating_point() and values.numel():
        # aminmax passes NaN on and, unlike isfinite, makes no second tensor of that size
        low, high = values.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            count = int((~torch.isfinite(values)).sum())
            raise DataError(f"{what} hold {count} NaN or infinite values; clean the data first")


def _interleave(order: Tensor, strata: Tensor) -> Tensor:
    """Reorder so that any run of samples holds each stratum in proportion, to about a sample.

    A sample's place is its (random) rank within its stratum, as a share of the stratum.
    """
    shuffled = strata[order]
    place = torch.empty(len(order), dtype=torch.float64)
    for stratum in set(strata.tolist()):
        members = (shuffled == stratum).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[place.argsort(stable=True)]
