"""Splits of data in memory or read on demand, and a user's own data as `Data`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from polykit.errors import DataError
from polykit.runtime.seeds import generator
from polykit.types import Data, Split

Task = Literal["classification", "regression"]
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
        _check_finite(x, "inputs")
        _check_finite(y, "targets")
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
    of what was skipped. One batch is in memory at a time (two per worker, with workers).
    """

    def __init__(
        self, dataset: Dataset[Any], *, workers: int = 0, notes: Sequence[str] = ()
    ) -> None:
        self.dataset, self.workers, self.notes = dataset, workers, tuple(notes)
        self._reasons: dict[int, str] = {}
        if len(self) == 0:
            raise DataError("the split is empty; give at least one sample")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the samples in `order`; raise DataError where none of them could be read."""
        indices = list(range(len(self))) if order is None else order.tolist()
        loader = DataLoader(
            _Guarded(self.dataset),
            batch_size,
            sampler=indices,
            num_workers=self.workers,
            collate_fn=list,
            generator=torch.Generator(),  # or each pass would draw from the global one
        )
        found = not indices
        for samples in loader:
            readable = []
            for sample in samples:
                if isinstance(sample, _Skip):
                    self._reasons[sample.index] = sample.reason
                else:
                    readable.append(sample)
            if readable:
                found = True
                yield _stack(readable)
        if not found:
            raise DataError(
                f"none of the {len(indices)} samples could be read; the first: "
                f"{self._reasons[indices[0]]}"
            )

    def skipped(self) -> Sequence[str]:
        """The notes, then the samples found unreadable so far, in the dataset's order."""
        return (*self.notes, *(self._reasons[index] for index in sorted(self._reasons)))


def as_data(
    source: Any,
    *,
    name: str,
    task: Task | None = None,
    outputs: int | None = None,
    classes: Sequence[str] = (),
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> Data:
    """Turn a user's own data into `Data`.

    `source` is a polykit `Data` (returned as it is), a map-style torch Dataset, a DataLoader (only
    its dataset is used: order and batch size are polykit's), a pair `(x [n, *shape], y)`, or a
    mapping with the keys train, validation and test to any of the last three. What is not split
    already is split by `seed` and `fractions`, keeping the share of each class.

    Integer targets mean classification, float targets regression, unless `task` says otherwise;
    `outputs` is the number of classes or of target columns unless given. Floats come in torch's
    default float type, class targets as int64 `[n]`, regression targets as `[n, outputs]`. Targets
    are read once, from tensors or `dataset.targets` where possible, else by one pass over the
    samples. Raises DataError for data that cannot serve: empty, misshapen, NaN, one class only.

    >>> data = as_data((torch.rand(20, 3), torch.arange(20) % 2), name="mine")
    >>> data.task, data.outputs, data.input_shape, len(data.train), len(data.test)
    ('classification', 2, (3,), 14, 3)
    """
    if isinstance(source, Data):
        return source
    names = {key: f"{name} ({key})" for key in SPLITS}
    targets: Mapping[str, Tensor]
    if isinstance(source, Mapping):
        if set(source) != set(SPLITS):
            raise DataError(
                f"{name}: the mapping has the keys {', '.join(map(str, source)) or 'none'}; "
                f"it needs {', '.join(SPLITS)}"
            )
        datasets = {key: _as_dataset(source[key], names[key]) for key in SPLITS}
        targets = {key: _targets(datasets[key], names[key])[1] for key in SPLITS}
    else:
        whole = _as_dataset(source, name)
        places, values = _targets(whole, name)
        subsets = split_dataset(whole, seed, fractions, strata=_strata(whole, places, values))
        targets = {
            key: values[torch.isin(places, torch.as_tensor(subset.indices))]
            for key, subset in subsets.items()
        }
        datasets = {**subsets}
    task = task or ("regression" if targets["train"].is_floating_point() else "classification")
    splits, shapes = {}, {}
    for key in SPLITS:
        with _naming(names[key]):
            splits[key] = _as_split(datasets[key], task)
            shapes[key] = _input_shape(splits[key])
            targets = {**targets, key: _as_targets(targets[key], task)}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the splits' inputs differ in shape: {shapes}")
    if task == "classification":
        outputs = outputs or len(classes) or max(int(y.max()) + 1 for y in targets.values())
        if len(classes) not in (0, outputs):
            raise DataError(f"{name}: {len(classes)} class names for {outputs} classes")
        _check_classes(name, targets, outputs, classes)
    else:
        outputs = outputs or targets["train"].shape[1]
        if wrong := {y.shape[1] for y in targets.values()} - {outputs}:
            raise DataError(f"{name}: targets have {wrong.pop()} columns, not {outputs}")
    return Data(
        name,
        splits["train"],
        splits["validation"],
        splits["test"],
        task,
        shapes["train"],
        outputs,
        tuple(classes),
    )


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
class _Skip:
    index: int
    reason: str


@dataclass(frozen=True)
class _Guarded(Dataset[Any]):
    """Gives `(index, x, y)`, or a `_Skip`: exceptions would end a worker's whole batch."""

    dataset: Dataset[Any]

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor] | _Skip:
        try:
            x, y = _pair(self.dataset[index], index)
        except Unreadable as error:
            return _Skip(index, str(error))
        return index, x, y


@dataclass(frozen=True)
class _Conformed(Dataset[Any]):
    """A user's dataset with inputs and targets of the types and shapes that `Data` promises."""

    dataset: Dataset[Any]
    task: Task

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = _pair(self.dataset[index], index)
        with _naming(f"sample {index}"):
            return _as_inputs(x), _as_targets(y[None], self.task)[0]


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say in a DataError which part of the data it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{what}: {error}") from None


def _pair(sample: Any, index: int) -> tuple[Tensor, Tensor]:
    try:
        x, y = sample
        return torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"sample {index} is not a pair (input tensor, target): {error}; pictures need a "
            f"transform such as torchvision.transforms.ToTensor()"
        ) from error


def _stack(samples: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    first, x0, y0 = samples[0]
    for index, x, y in samples:
        if (x.shape, y.shape) != (x0.shape, y0.shape):
            raise DataError(
                f"sample {index} has shapes {tuple(x.shape)} and {tuple(y.shape)}, sample {first} "
                f"{tuple(x0.shape)} and {tuple(y0.shape)}; all must be alike"
            )
        _check_finite(x, f"sample {index}: inputs")
        _check_finite(y, f"sample {index}: targets")
    return torch.stack([x for _, x, _ in samples]), torch.stack([y for _, _, y in samples])


def _check_finite(values: Tensor, what: str) -> None:
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


def _as_dataset(source: Any, name: str) -> Dataset[Any]:
    if isinstance(source, DataLoader):
        source = source.dataset
    if isinstance(source, tuple | list) and len(source) == 2:
        x, y = _pair(source, 0)
        if x.dim() < 2 or y.dim() == 0 or len(x) != len(y):
            raise DataError(
                f"{name}: inputs {tuple(x.shape)} and targets {tuple(y.shape)} must be "
                f"[n, …] and [n] or [n, outputs]"
            )
        source = TensorDataset(x, y)
    if isinstance(source, IterableDataset) or not isinstance(source, Dataset):
        raise DataError(
            f"{name}: cannot read a {type(source).__name__}; give a map-style torch Dataset, a "
            f"DataLoader of one, a pair of tensors, or a mapping of {', '.join(SPLITS)} to these"
        )
    if not hasattr(source, "__len__"):
        raise DataError(f"{name}: {type(source).__name__} has no length; define __len__")
    if len(source) == 0:
        raise DataError(f"{name} is empty; give at least one sample")
    return source


def _tensors(dataset: Dataset[Any]) -> tuple[Tensor, Tensor] | None:
    """The tensors behind a dataset whose reading would add nothing to them."""
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        x, y = dataset.tensors
        return x, y
    if type(dataset) is Subset and (inner := _tensors(dataset.dataset)):
        indices = torch.as_tensor(dataset.indices)
        x, y = inner
        return x[indices.to(x.device)], y[indices.to(y.device)]
    return None


def _targets(dataset: Dataset[Any], name: str) -> tuple[Tensor, Tensor]:
    """Indices of the readable samples `[k]` and their targets `[k, ...]`."""
    if (tensors := _tensors(dataset)) is not None:
        values = tensors[1].cpu()
    elif (
        hasattr(dataset, "targets")
        and len(dataset.targets) == len(dataset)  # type: ignore[arg-type]
        and getattr(dataset, "target_transform", None) is None
    ):
        values = torch.as_tensor(dataset.targets)
    else:
        guarded = _Guarded(dataset)
        samples = (guarded[index] for index in range(len(dataset)))  # type: ignore[arg-type]
        read = [(s[0], s[2]) for s in samples if not isinstance(s, _Skip)]
        if not read:
            raise DataError(f"{name}: no sample could be read")
        if len({y.shape for _, y in read}) > 1:
            raise DataError(f"{name}: the targets differ in shape; all must be alike")
        return torch.tensor([index for index, _ in read]), torch.stack([y for _, y in read])
    return torch.arange(len(values)), values


def _strata(dataset: Dataset[Any], places: Tensor, targets: Tensor) -> Tensor | None:
    """Class of each sample, −1 for the unreadable; None where the targets are no classes."""
    if targets.is_floating_point() or targets.dim() != 1:
        return None
    strata = torch.full((len(dataset),), -1)  # type: ignore[arg-type]
    strata[places] = targets.long()
    return strata


def _as_inputs(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise DataError(f"inputs are {x.dtype}; give floats, e.g. x.float() / 255")
    return x.to(torch.get_default_dtype())


def _as_targets(y: Tensor, task: Task) -> Tensor:
    if task == "classification":
        if y.is_floating_point() or y.dim() != 1:
            raise DataError(
                f"class targets must be integers [n], not {y.dtype} {tuple(y.shape)}; convert "
                f"them, e.g. y.argmax(1) or y.long(), or say task='regression'"
            )
        return y.long()
    if y.dim() > 2:
        raise DataError(f"regression targets must be [n, outputs], not {tuple(y.shape)}")
    return y.to(torch.get_default_dtype()).reshape(len(y), -1)


def _as_split(dataset: Dataset[Any], task: Task) -> Split:
    if (tensors := _tensors(dataset)) is None:
        return LoaderSplit(_Conformed(dataset, task))
    x, y = tensors
    return TensorSplit(_as_inputs(x), _as_targets(y, task))


def _input_shape(split: Split) -> tuple[int, ...]:
    """Shape of the first readable input."""
    x, _ = next(split.batches(1))
    return tuple(x.shape[1:])


def _check_classes(
    name: str, targets: Mapping[str, Tensor], outputs: int, classes: Sequence[str]
) -> None:
    for key, values in targets.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= outputs:
            raise DataError(
                f"{name} ({key}): class targets run from {low} to {high}, outside 0 to "
                f"{outputs - 1}; number the classes from 0"
            )
    seen = set(targets["train"].tolist())
    if len(seen) < 2:
        only = seen.pop()
        label = f"{only} ({classes[only]})" if classes else str(only)
        raise DataError(
            f"{name} is a one-class dataset: all {len(targets['train'])} training samples are of "
            f"class {label}; bring samples of a second class, or float targets for a regression"
        )
