"""Iterative magnitude pruning: train, remove the smallest, rewind, and again."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from polykit.api import Field, Pruner, Train
from polykit.errors import UsageError
from polykit.runtime.progress import tell
from polykit.types import Batches, Candidates, Mask, Objective
from polykit_builtins.pruners.magnitude import Magnitude

DEFAULT_RATE = 0.2


class IterativeMagnitude(Pruner):
    """Trains, removes the smallest weights by |w|, rewinds the rest, and repeats to the density.

    Each round trains for the retraining epochs and removes ⌈rate · n⌉ of the n weights left; the
    last one stops exactly at the density. `rewind` says from which weights a round's training
    starts: those after so many epochs of training the whole network (0: the network as given), or
    with `none` those that the round before has left (fine-tuning). Pruned at initialisation
    (`--prune-at init`) with rewind 0 this finds lottery tickets; pruned when trained, training
    goes on from the trained weights each round. With rewind k the network after k epochs is what
    the mask is put on.

    `rule=published` removes one more each round, as the published code does: it keeps what lies
    strictly above the sorted weights' place ⌈rate · n⌉, 319 of 400 at the first round. Looks at no
    data itself. Cost: one training a round, 22 rounds of 0.2 to density 0.01. Memory: two copies
    of the network. Source: Frankle & Carbin 2019, §2; Frankle et al. 2020 (rewinding).

    Raises UsageError where nothing can be trained, or the mask to start from keeps too little.

    >>> IterativeMagnitude(rate=0.5).path(100, 100, 0.2)
    [0.5, 0.25, 0.2]
    """

    trains: ClassVar[bool] = True

    rate: float | None = Field(
        None, gt=0, lt=1, description="share of what is left that goes each round; none: 0.2"
    )
    rounds: int | None = Field(
        None, ge=1, le=10_000, description="rounds to the density, instead of a rate"
    )
    rewind: int | None = Field(
        0, ge=0, description="epochs of training to rewind to; none: keep what was trained"
    )
    rule: Literal["exact", "published"] = Field(
        "exact", description="remove exactly the share, or one element more"
    )

    @model_validator(mode="after")
    def _one_pace(self) -> Self:
        if self.rate is not None and self.rounds is not None:
            raise ValueError("rate and rounds both say how fast to prune; give one of them")
        return self

    def path(self, left: int, total: int, density: float) -> list[float]:
        """Return the density after each round, from `left` of `total` parameters to `density`."""
        target = density * total
        rate = self.rate or DEFAULT_RATE
        if self.rounds is not None:
            rate = 1 - min(1.0, target / left) ** (1 / self.rounds)
        found: list[float] = []
        while len(found) + 1 != self.rounds:
            left -= max(1, ceil(rate * left - 1e-9)) + (self.rule == "published")
            if left <= target:
                break
            found.append(left / total)
        return [*found, density]

    def prepare(
        self,
        model: nn.Module,
        *,
        candidates: Candidates,
        generator: torch.Generator,
        train: Train | None = None,
    ) -> nn.Module:
        """Return the network after `rewind` epochs of training."""
        if not self.rewind:
            return model
        return _able(train)(model, candidates.full(), epochs=self.rewind)

    def prune(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        density: float,
        candidates: Candidates,
        generator: torch.Generator,
        mask: Mask | None = None,
        train: Train | None = None,
    ) -> Mask:
        """Train and cut, round by round; what is gone stays gone."""
        train = _able(train)
        current = candidates.full() if mask is None else mask
        slack = max(candidates.element_size(name) for name in candidates.shapes)
        if current.kept + slack < density * current.total:
            raise UsageError(
                f"density {density:g} is above the {current.density:g} that the mask to start "
                f"from keeps; take a lower density"
            )
        path = self.path(current.kept, current.total, density)
        network = model
        for step, share in enumerate(path, start=1):
            network = train(model if self.rewind is not None else network, current)
            scores = Magnitude().scores(
                network,
                objective,
                batches,
                candidates=candidates,
                mask=current,
                generator=generator,
            )
            current = scores.only(current).keep(share)
            tell(step, len(path), density=current.density)
        return current


def _able(train: Train | None) -> Train:
    if train is None:
        raise UsageError(
            "iterative-magnitude trains between rounds, which is not possible here; take magnitude"
        )
    return train
