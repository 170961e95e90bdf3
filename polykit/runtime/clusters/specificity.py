"""Whether a part of a network is one of its own, or was made: scores that a detector cannot win.

A mask over many weights is a classifier: it can tell nearly any two groups of pictures apart. A
part that the unit really has does more. The unit, masked to it, tells one picture of the cluster
from another as the whole unit does (fidelity), and without it the unit loses this cluster and
keeps the others (dissociation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polykit.errors import UsageError
from polykit.runtime.clusters.separation import (
    Floats,
    auc,
    auc_of_draws,
    correlation,
    correlation_of_draws,
    draws,
    interval,
)
from polykit.types import Candidates, Mask

BOOTSTRAPS = 1000
NULLS = 2000


@dataclass(frozen=True)
class Estimated:
    """A score with its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Groups:
    """A unit's values on three groups of pictures, `[n]` each.

    `cluster` is the cluster that a part is for, `other` the unit's other clusters, and `neither`
    pictures of none.
    """

    cluster: Floats
    other: Floats
    neither: Floats

    @property
    def response(self) -> float:
        """How far the unit's mean on the cluster lies above that on pictures of no cluster."""
        return float(self.cluster.mean() - self.neither.mean())

    @property
    def response_other(self) -> float:
        """The same for the other clusters."""
        return float(self.other.mean() - self.neither.mean())


@dataclass(frozen=True)
class Specificity:
    """How well a masked unit does at one cluster, on pictures that no pruner has seen.

    `separation`: AUC of the masked unit's values, the cluster against the other clusters.
    `fidelity`: correlation of the masked with the dense unit within the cluster, in [−1, 1].
    `specificity`: min(fidelity, 2·AUC − 1), in [−1, 1]; 1 for a part of the unit's own.
    """

    separation: Estimated
    fidelity: Estimated
    specificity: Estimated


def specificity(before: Groups, after: Groups, rng: np.random.Generator) -> Specificity:
    """Return the scores of a masked unit (`after`) beside the dense one (`before`).

    No score changes when the masked unit's values are shifted, or scaled by a positive number.
    Fidelity alone is won by keeping the whole unit, separation alone by making a detector; their
    minimum by neither. `rng` draws the bootstrap samples.

    >>> rng, rest = np.random.default_rng(0), np.array([0.0, 1.0])
    >>> before = Groups(np.array([1.0, 2.0, 3.0, 4.0]), rest, rest)
    >>> part = specificity(before, Groups(np.array([2.0, 4.0, 6.0, 8.0]), rest, rest), rng)
    >>> part.separation.value, part.specificity.value
    (1.0, 1.0)
    >>> detector = specificity(before, Groups(np.array([8.0, 6.0, 7.0, 8.0]), rest, rest), rng)
    >>> detector.separation.value, round(detector.specificity.value, 2)
    (1.0, 0.13)
    """
    _check_alike(before, after)
    dense, masked, rest = before.cluster, after.cluster, after.other
    drawn, drawn_rest = (draws(len(part), BOOTSTRAPS, rng) for part in (masked, rest))
    apart = auc_of_draws(masked, rest, drawn, drawn_rest)
    faithful = correlation_of_draws(dense, masked, drawn)
    area, kept = auc(masked, rest), correlation(dense, masked)
    return Specificity(
        Estimated(area, *interval(apart)),
        Estimated(kept, *interval(faithful)),
        Estimated(min(kept, 2 * area - 1), *interval(np.minimum(faithful, 2 * apart - 1))),
    )


def dissociation(before: Groups, without: Groups) -> float:
    """Return what the dense unit loses of the cluster without the part, less what of the others.

    `without` is the unit with everything but the part. Falls of the mean are in units of the
    larger of the two responses to cluster and others: Δ_cluster − |Δ_other|, cut to [−1, 1]. 1 if
    the whole cluster is lost and nothing else changes; 0 for a unit that responds to neither. No
    pruner is asked for this, so none is made to do well at it. Both clusters' scores together make
    the double dissociation of neuropsychology (Teuber 1955).

    >>> zeros, twos = np.zeros(3), np.full(3, 2.0)
    >>> dissociation(Groups(twos, twos, zeros), Groups(zeros, twos, zeros))
    1.0
    >>> dissociation(Groups(twos, twos, zeros), Groups(zeros, zeros, zeros))
    0.0
    """
    _check_alike(before, without)
    scale = max(before.response, before.response_other)
    if scale <= 0:
        return 0.0
    lost = float(before.cluster.mean() - without.cluster.mean()) / scale
    lost_other = float(before.other.mean() - without.other.mean()) / scale
    return float(np.clip(lost - abs(lost_other), -1, 1))


def ownership(specificity: float, dissociation: float) -> float:
    """Return how far a part is the unit's own: (2·specificity + dissociation) / 3, in [−1, 1].

    Each catches what slips past the other: a detector that happens to follow the unit within one
    cluster is not necessary for it, and what is necessary may carry both clusters. On planted units
    the sum told real parts from made ones with every pruner (docs/dissect.md).

    >>> ownership(1.0, 1.0), ownership(0.5, -1.0)
    (1.0, 0.0)
    """
    return (2 * specificity + dissociation) / 3


def _check_alike(before: Groups, after: Groups) -> None:
    for name in ("cluster", "other", "neither"):
        if len(getattr(before, name)) != len(getattr(after, name)):
            raise UsageError(f"before and after are not read from the same pictures of {name}")


@dataclass(frozen=True)
class Overlap:
    """Intersection over union of two masks, beside what chance gives at their layer densities."""

    iou: float
    chance: float
    low: float
    high: float


def chance_overlap(a: Mask, b: Mask, candidates: Candidates, rng: np.random.Generator) -> Overlap:
    """Return how much two masks share, and how much random masks of their layer densities would.

    Two random masks that keep k_a and k_b of a layer's n elements share a hypergeometric number of
    them; 2,000 draws of all layers give the mean and the middle 95 %. Parameters that may not go
    are left out. Raises UsageError for masks that are not over `candidates`.
    """
    kept = [candidates.elements(mask) for mask in (a, b)]
    both, union, shared = 0, 0, np.zeros(NULLS)
    for name in candidates.shapes:
        eligible = candidates.eligible_elements(name)
        first, second = (part[name] & eligible for part in kept)
        size = candidates.element_size(name)
        counts = [int(part.count_nonzero()) for part in (first, second)]
        both += size * int((first & second).count_nonzero())
        union += size * sum(counts)
        total = int(eligible.count_nonzero())
        shared += size * rng.hypergeometric(counts[0], total - counts[0], counts[1], NULLS)
    if not union:
        return Overlap(1.0, 1.0, 1.0, 1.0)
    null = shared / (union - shared)
    return Overlap(both / (union - both), float(null.mean()), *interval(null))


def shuffled(mask: Mask, candidates: Candidates, generator: torch.Generator) -> Mask:
    """Return a random mask that keeps as many elements of each layer as `mask` does."""
    keep = {}
    for name, kept in candidates.elements(mask).items():
        eligible = candidates.eligible_elements(name)
        values = kept[eligible]
        order = torch.randperm(len(values), generator=generator)
        keep[name] = torch.zeros_like(kept).masked_scatter(eligible, values[order])
    return candidates.mask(keep)
