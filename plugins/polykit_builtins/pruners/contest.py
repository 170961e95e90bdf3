"""Which units stay when whole units compete: overall or by layer, by parameters or by units."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from polykit.errors import UsageError
from polykit.runtime.pruning.structure import OUTPUTS, Group, Structure


@dataclass(frozen=True)
class Side:
    """A group that takes part: `parts` things that can go one by one, of which `least` stay."""

    index: int
    group: Group
    parts: int
    least: int

    @property
    def name(self) -> str:
        """Its layers, for messages."""
        return " + ".join(map(repr, self.group.layers))


def sides_of(structure: Structure, layers: set[str], at_least: int) -> tuple[list[Side], list[str]]:
    """Return the groups whose layers may all be pruned, and what must be said of others."""
    sides, notices = [], []
    for index, group in enumerate(structure.groups):
        outside = [layer for layer in group.layers if layer not in layers]
        if outside and len(outside) < len(group.layers):
            inside = ", ".join(repr(layer) for layer in group.layers if layer in layers)
            notices.append(
                f"layer {inside} stays whole: it is coupled with "
                f"{', '.join(map(repr, outside))}, which is not to be pruned"
            )
        parts = group.size // group.together
        if not outside and parts > 1:
            units = at_least if group.can_empty else max(1, at_least)
            sides.append(Side(index, group, parts, min(parts, ceil(units / group.together))))
    for layer, reason in structure.coupling.stays.items():
        if layer in layers and reason != OUTPUTS:
            notices.append(f"layer {layer!r} stays whole: {reason}")
    if not sides:
        raise UsageError(
            "there is no unit to remove: only the output layer is in scope, or layers that are "
            "coupled with others, or have one unit; widen --prune-layer"
        )
    return sides, notices


def entries_of(side: Side, scores: Tensor) -> Tensor:
    """Scores of what competes: one for each part, and behind them those that stand for no unit."""
    own = scores[: side.group.size].view(side.group.together, side.parts).mean(0)
    return torch.cat([own, scores[side.group.size :]])


def _ascending(scores: Tensor) -> Tensor:
    """Positions from the lowest score to the highest; of equal ones the later come first."""
    return len(scores) - 1 - scores.flip(0).argsort(stable=True)


@dataclass(frozen=True)
class Contest:
    """Who stays. What is left of each side's entries is written as one bool tensor each."""

    structure: Structure
    sides: Sequence[Side]
    entries: Sequence[Tensor]
    counts: Literal["parameters", "units"]
    overflow: Literal["protect", "skip"]
    density: float

    def kept(self, left: Sequence[Tensor]) -> list[Tensor]:
        """Kept units of every group of the network; groups that take no part keep all."""
        kept = [torch.ones(group.size, dtype=torch.bool) for group in self.structure.groups]
        for side, entries in zip(self.sides, left, strict=True):
            kept[side.index] = entries[: side.parts].repeat(side.group.together)
        return kept

    def _count(self, left: Sequence[Tensor]) -> int:
        if self.counts == "units":
            return sum(int(entries.count_nonzero()) for entries in left)
        return self.structure.parameters(self.kept(left))

    @property
    def _total(self) -> int:
        return sum(map(len, self.entries)) if self.counts == "units" else self.structure.original

    def _fits(self, left: Sequence[Tensor]) -> bool:
        slack = 1e-12 if self.counts == "parameters" else 0  # units: torch-pruning's rounding
        return self._count(left) <= self.density * self._total * (1 + slack)

    def overall(self) -> tuple[list[Tensor], list[str]]:
        """Remove the lowest of all, as few as reach the density."""
        order = _ascending(torch.cat(list(self.entries)))
        pairs = zip(self.sides, self.entries, strict=True)
        best = torch.cat([_best(scores, side.parts, side.least) for side, scores in pairs])
        free = order[~best[order]]
        going = free if self.overflow == "protect" else order
        numbers = range(len(going) + 1)
        number = bisect_left(numbers, True, key=lambda n: self._fits(self._without(going[:n])))
        if number > len(going):
            raise UsageError(
                f"density {self.density:g} cannot be reached: "
                f"{self._floor(self._count(self._without(free)) / self._total)}"
            )
        left = self._without(going[:number])
        if self.overflow == "skip":
            return self._skipping(left)
        return left, self._protected(self._without(order[:number]))

    def _without(self, gone: Tensor) -> list[Tensor]:
        """What is left of all entries, numbered through, without those."""
        lengths = [len(scores) for scores in self.entries]
        flat = torch.ones(sum(lengths), dtype=torch.bool)
        flat[gone] = False
        return list(flat.split(lengths))

    def by_layer(self) -> tuple[list[Tensor], list[str]]:
        """Keep the same share of every layer, rounded down: the largest that fits."""
        shares = sorted({n / len(e) for e in self.entries for n in range(len(e) + 1)})
        if self.counts == "units":
            left = self._at(self.density)
        else:
            fitting = bisect_left(shares, True, key=lambda s: not self._fits(self._at(s + 1e-9)))
            left = self._at(shares[max(0, fitting - 1)] + 1e-9)
        if self.overflow == "skip":
            return self._skipping(left)
        short = self._short(left)
        if short:
            least = bisect_left(shares, True, key=lambda s: not self._short(self._at(s + 1e-9)))
            share = shares[least]
            if self.counts == "parameters":
                share = self._count(self._at(share + 1e-9)) / self._total
            named = "; ".join(
                f"layer {side.name} {max(0, count)} of {side.parts}" for side, count in short
            )
            raise UsageError(
                f"density {self.density:g} in every layer would leave too few units ({named}): "
                f"{self._floor(share)}, or let the layers compete globally"
            )
        return left, []

    def _at(self, share: float) -> list[Tensor]:
        """The best entries of each side, the same share of each, rounded down."""
        return [_best(scores, len(scores), int(len(scores) * share)) for scores in self.entries]

    def _floor(self, share: float) -> str:
        return (
            f"with the units that must stay (at_least) it is {share:.4g} of the {self.counts}; "
            f"ask for {ceil(share * 1e4) / 1e4:g} or more"
        )

    def _short(self, left: Sequence[Tensor]) -> list[tuple[Side, int]]:
        """Sides that would keep fewer than they must, and how many. Every entry that goes counts.

        An entry that stands for no unit counts, too, as it does for torch-pruning.
        """
        counts = [
            side.parts - int((~entries).count_nonzero())
            for side, entries in zip(self.sides, left, strict=True)
        ]
        pairs = zip(self.sides, counts, strict=True)
        return [(side, count) for side, count in pairs if count < side.least]

    def _protected(self, asked: Sequence[Tensor]) -> list[str]:
        """Say which sides would have kept too few by score alone."""
        counts = [
            int(entries[: side.parts].count_nonzero())
            for side, entries in zip(self.sides, asked, strict=True)
        ]
        return [
            f"layer {side.name}: by score {count} of {side.parts} units would stay; its best "
            f"{side.least} did (at_least), and others went instead"
            for side, count in zip(self.sides, counts, strict=True)
            if count < side.least
        ]

    def _skipping(self, left: list[Tensor]) -> tuple[list[Tensor], list[str]]:
        """Leave sides whole that would keep too few."""
        short = {side.index: count for side, count in self._short(left)}
        left = [
            torch.ones_like(entries) if side.index in short else entries
            for side, entries in zip(self.sides, left, strict=True)
        ]
        notices = [
            f"layer {side.name}: all but {max(0, short[side.index])} of {side.parts} units were "
            f"selected, so that it is left whole (overflow=skip)"
            for side in self.sides
            if side.index in short
        ]
        if notices:
            share = self._count(left) / self._total
            notices.append(f"{share:.4g} of the {self.counts} are kept, not {self.density:g}")
        return left, notices


def _best(scores: Tensor, parts: int, count: int) -> Tensor:
    """Mark the `count` highest among the first `parts` scores."""
    best = torch.zeros(len(scores), dtype=torch.bool)
    best[_ascending(scores[:parts])[parts - count :]] = True
    return best
