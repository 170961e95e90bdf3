"""Cutting one part out of one network, and reading what is left: no names, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from polykit.api import Pruner
from polykit.errors import DataError, PluginError
from polykit.runtime.blame import blaming
from polykit.runtime.clusters.objectives import UnitValue, contrast, preservation
from polykit.runtime.clusters.separation import Floats
from polykit.runtime.clusters.specificity import Groups
from polykit.runtime.passes.reading import Reader
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.masking import candidates, masked_parameters
from polykit.types import Candidates, Competition, Granularity, Mask, Objective, Trace, UnitRef

Aim = Literal["contrast", "preserve"]
"""What a learned mask is to do: tell the cluster from the others, or keep the unit on it alone."""

NEITHER = -1
"""The cluster number of pictures that are in none."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a unit's clusters and of none, in memory.

    `x [n, *shape]`; `index [n]` where they are in the split; `cluster [n]`, NEITHER for none;
    `held_out [n]` those that no pruner sees. Pictures of no cluster are all held out.
    """

    x: Tensor
    index: Tensor
    cluster: Tensor
    held_out: Tensor

    @property
    def clusters(self) -> tuple[int, ...]:
        """The clusters' numbers."""
        return tuple(int(c) for c in self.cluster.unique() if c != NEITHER)

    def count(self, cluster: int, *, held_out: bool) -> int:
        """How many of a cluster's pictures are held out, or are not."""
        return int(((self.cluster == cluster) & (self.held_out == held_out)).count_nonzero())

    def shuffled(self, generator: torch.Generator) -> Pictures:
        """The same pictures with the clusters' labels dealt out anew, seen and held out apart."""
        labels = self.cluster.clone()
        for held_out in (False, True):
            rows = ((self.cluster != NEITHER) & (self.held_out == held_out)).nonzero().squeeze(1)
            labels[rows] = self.cluster[rows[torch.randperm(len(rows), generator=generator)]]
        return replace(self, cluster=labels)


@dataclass(frozen=True)
class Seen:
    """What a pruner may look at: pictures and whether they are in the cluster, in batches."""

    x: Tensor
    y: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True)


@dataclass(frozen=True)
class Surgery:
    """One cluster of pictures, and the unit of a network in which its part is sought.

    `model` is in evaluation mode. A part is made of parameters on the way to `target`, its own
    weights included.
    """

    model: nn.Module
    trace: Trace
    read: Reader
    target: UnitRef
    pictures: Pictures
    cluster: int
    granularity: Granularity = "weight"
    scope: Competition = "global"
    batch_size: int = 64

    @cached_property
    def candidates(self) -> Candidates:
        """What may be cut away."""
        return candidates(self.model, self.trace, self.granularity, self.scope, target=self.target)

    @cached_property
    def before(self) -> Floats:
        """The dense unit on every picture `[n]`."""
        return self.values()

    def values(self, mask: Mask | None = None, rows: Tensor | None = None) -> Floats:
        """Return the unit on every picture `[n]`, or some, in the network masked by `mask`."""
        params = masked_parameters(self.model, mask) if mask is not None else None
        pictures = self.pictures.x if rows is None else self.pictures.x[rows]
        device = next(self.model.parameters()).device
        with evaluating(self.model), torch.no_grad():
            parts = [
                self.read(self.model, x.to(device), params=params)[:, self.target.index].cpu()
                for x in pictures.split(self.batch_size)
            ]
        return torch.cat(parts).double().numpy()

    def groups(self, values: Floats, *, held_out: bool = True) -> Groups:
        """Sort values `[n]` by cluster, others and neither; those held out, or those seen."""
        labels, out = self.pictures.cluster.numpy(), self.pictures.held_out.numpy()
        here = out == held_out
        return Groups(
            values[here & (labels == self.cluster)],
            values[here & (labels != self.cluster) & (labels != NEITHER)],
            values[labels == NEITHER],
        )

    def find(self, pruner: Pruner, density: float, aim: Aim, generator: torch.Generator) -> Mask:
        """Let a pruner find the part; it sees no picture that is held out.

        A pruner that minimises gets `aim`, with the other clusters' pictures to tell apart; any
        other gets the unit's value on the cluster's pictures alone, which it is to keep.

        Raises DataError for a unit that has one value for all pictures, PluginError where the
        pruner gives no mask.
        """
        objective, seen = self._task(pruner.minimises, aim)
        with blaming(pruner), evaluating(self.model):
            found = pruner.prune(
                self.model,
                objective,
                seen,
                density=density,
                candidates=self.candidates,
                generator=generator,
            )
        if not isinstance(found, Mask):
            raise PluginError(f"{type(pruner).__name__} gave {type(found).__name__}, no Mask")
        return found

    def seen(self, *, others: bool) -> Seen:
        """The pictures a pruner may see: the cluster's, and those of the `others`; mixed evenly."""
        labels = self.pictures.cluster
        member = labels == self.cluster
        shown = ~self.pictures.held_out & (member | ((labels != NEITHER) if others else member))
        rows = shown.nonzero().squeeze(1)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows = rows[order]
        return Seen(self.pictures.x[rows], member[rows].long(), self.batch_size)

    def _task(self, minimises: bool, aim: Aim) -> tuple[Objective, Seen]:
        seen = self.seen(others=minimises)
        if not minimises:
            return UnitValue(self.target, self.read), seen
        if aim == "contrast":
            return contrast(self.model, self.target, self.read, seen), seen
        return preservation(self.model, self.target, self.read, seen), seen

    def without(self, mask: Mask) -> Mask:
        """Return the mask that keeps everything but what `mask` keeps."""
        keep = {name: ~mask[name] | ~mask.eligible(name) for name in mask}
        return Mask(keep, {name: mask.eligible(name) for name in mask})


def held_out_rows(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw which pictures `[n]` to hold out: a share of each cluster's, and all of no cluster.

    Rounds to the nearest picture but leaves at least one on either side. Raises DataError for a
    cluster with a single picture.
    """
    out = labels == NEITHER
    for label in labels[~out].unique():
        rows = (labels == label).nonzero().squeeze(1)
        if len(rows) < 2:
            raise DataError(
                f"cluster {int(label)} has {len(rows)} picture; one to look at and one to hold out "
                f"are the least"
            )
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        out[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return out
