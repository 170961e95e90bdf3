"""A user's own data as `Data`, checked and brought into form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from polykit.errors import DataError
from polykit.runtime.samples.splits import (
    FRACTIONS,
    SPLITS,
    Guarded,
    LoaderSplit,
    Skip,
    TensorSplit,
    sample_pair,
    split_dataset,
)
from polykit.types import Data, Split

Task = Literal["classification", "regression"]


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


@dataclass(frozen=True)
class _Conformed(Dataset[Any]):
    """A user's dataset with inputs and targets of the types and shapes that `Data` promises."""

    dataset: Dataset[Any]
    task: Task

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = sample_pair(self.dataset[index], index)
        with _naming(f"sample {index}"):
            return _as_inputs(x), _as_targets(y[None], self.task)[0]


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say in a DataError which part of the data it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{what}: {error}") from None


def _as_dataset(source: Any, name: str) -> Dataset[Any]:
    if isinstance(source, DataLoader):
        source = source.dataset
    if isinstance(source, tuple | list) and len(source) == 2:
        x, y = sample_pair(source, 0)
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
        guarded = Guarded(dataset)
        samples = (guarded[index] for index in range(len(dataset)))  # type: ignore[arg-type]
        read = [(s[0], s[2]) for s in samples if not isinstance(s, Skip)]
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
