"""What a pruner must preserve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from polykit.types.units import UnitRef


class Batches(Protocol):
    """Batches that can be read again and again, the same each time."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Objective(Protocol):
    """A scalar for each sample: the task loss, or a unit's activation."""

    @property
    def is_loss(self) -> bool:
        """Whether less is better; if not, the value itself is what should stay as it is."""
        ...

    @property
    def target(self) -> UnitRef | None:
        """The unit the objective reads, or None where it reads the model's output."""
        ...

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the objective of each sample `[n]`, differentiable.

        `params` stand in for the model's own parameters of those names.
        """
        ...
