"""Data as plugins hand it on: splits, batches, and the features behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from polykit.types.pictures import stretch
from polykit.types.units import At


@runtime_checkable
class Split(Protocol):
    """One part of a dataset, read in batches as often as wanted."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `(inputs [n, *shape], targets [n, ...])`, in `order` (indices) or as stored."""
        ...

    def skipped(self) -> Sequence[str]:
        """Name the samples found unreadable so far, with the reason."""
        ...


@dataclass(frozen=True)
class FeatureSpace:
    """Feature coefficients and the way from them into a model.

    `encode` maps coefficients `[n, n_features]` to inputs `[n, *input_shape]`, row by row, and is
    differentiable almost everywhere. The zero vector is the space's origin. Where `layer` is
    named, they become that layer's values after the nonlinearity instead, `[n, units, ...]`, and
    only what lies behind it can be attributed to the features.
    """

    name: str
    n_features: int
    encode: Callable[[Tensor], Tensor]
    names: tuple[str, ...] = ()
    layer: str = ""


@dataclass(frozen=True)
class Fact:
    """A number that a reader should know about data, such as how noisy its labels are."""

    name: str
    value: float
    summary: str
    unit: str = ""


def no_source(split: str, index: int) -> str:
    """Name no sample: what data says that cannot tell where its samples come from."""
    return ""


@dataclass(frozen=True)
class Data:
    """A loaded dataset: three splits and what is known about them.

    `outputs` is the number of classes, or of regression targets. `features` is the ground truth,
    where there is one, and `truth` the tensors it is made of, from which the dataset's plugin can
    load it again. `card()` computes what a reader should know before believing results.

    For people: `names` are the classes' readable names, one per class, or empty where they are no
    better than `classes`. `picture` turns inputs `[n, c, h, w]` into RGB `[n, 3, h, w]` in [0, 1].
    `source(split, index)` says where a sample comes from, such as its file; empty if unknown.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    task: Literal["classification", "regression"]
    input_shape: tuple[int, ...]
    outputs: int
    classes: tuple[str, ...] = ()
    features: FeatureSpace | None = None
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    card: Callable[[], tuple[Fact, ...]] = tuple
    names: tuple[str, ...] = ()
    picture: Callable[[Tensor], Tensor] = stretch
    source: Callable[[str, int], str] = no_source

    def skipped(self) -> list[str]:
        """Name all samples found unreadable so far, each once, in order."""
        parts = (self.train, self.validation, self.test)
        return list(dict.fromkeys(line for part in parts for line in part.skipped()))


@dataclass(frozen=True)
class Batch:
    """One chunk of a measurement pass: what went in, what came out, what was read on the way.

    `activations[at][layer]` is `[n, units, *positions]`, the unit axis always second.
    """

    inputs: Tensor
    targets: Tensor
    outputs: Tensor | None = None
    activations: Mapping[At, Mapping[str, Tensor]] = field(default_factory=dict)
