"""What structural pruning gives back: a smaller network and where its units came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Smaller:
    """A network with fewer units than the one it was made of.

    `units` maps each layer to the indices that its units had before, in order `[kept]`; layers
    that keep all their units are in it, too. `parameters` and `original` count parameters after
    and before. `notices` say what a reader should know, such as which layer was protected.
    """

    model: nn.Module
    units: Mapping[str, Tensor]
    parameters: int
    original: int
    notices: tuple[str, ...] = ()

    @property
    def density(self) -> float:
        """Parameters after / parameters before, in [0, 1]."""
        return self.parameters / self.original

    @property
    def ratio(self) -> float:
        """The pruning ratio: 1 − density."""
        return 1 - self.density
