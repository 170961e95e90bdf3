"""Objectives of one unit and one cluster of pictures: tell them apart, keep them, or keep a value.

Labels are y = 1 for a picture of the cluster and y = 0 for any other. Both groups weigh the same,
however many pictures each has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import DataError, UsageError
from polykit.runtime.passes.reading import Reader
from polykit.runtime.passes.trace import evaluating
from polykit.types import Batches, UnitRef

Normalise = Literal["dense", "batch"]
"""By what a unit's value becomes a logit: the dense network's figures, or each batch's own."""


@dataclass(frozen=True)
class UnitValue:
    """The unit's value on each sample: what pruners for feature-preserving circuits preserve.

    Source: Hamblin et al. 2023, Pruning for feature-preserving circuits in CNNs, §3.
    """

    is_loss: ClassVar[bool] = False

    target: UnitRef
    read: Reader

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the unit's value on each sample `[n]`; `y` is not looked at."""
        return self.read(model, x, params=params)[:, self.target.index]


@dataclass(frozen=True)
class Balance:
    """How many samples are in the cluster and off it, so that each group weighs one half."""

    positives: int
    negatives: int

    def __post_init__(self) -> None:
        if self.positives < 1 or self.negatives < 1:
            raise UsageError(
                f"a cluster objective needs pictures in the cluster and off it, but there are "
                f"{self.positives} and {self.negatives}"
            )

    def weigh(self, values: Tensor, y: Tensor) -> Tensor:
        """Weigh `values [n]` so that their mean over all samples is the mean of the group means.

        >>> Balance(1, 3).weigh(torch.ones(4), torch.tensor([1, 0, 0, 0])).tolist()
        [2.0, 0.6666666865348816, 0.6666666865348816, 0.6666666865348816]
        """
        half = (self.positives + self.negatives) / 2
        return torch.where(
            y > 0, values * (half / self.positives), values * (half / self.negatives)
        )


@dataclass(frozen=True)
class Contrast:
    """How badly the unit's value tells the cluster from the rest: weighted BCE with logits.

    The logit is (a − mean) / std. With `normalise="dense"` these are the dense network's, over
    the training pictures; with "batch" they are each batch's own mean and
    max(std of the batch, dense std), for networks whose soft masks shift the unit's scale; the
    result then depends on how samples are batched. Without the floor the scale would collapse.

    Source: Pandiarajan et al., Subnetworks and Superposition, §3.3, with a normalised logit.
    """

    is_loss: ClassVar[bool] = True

    target: UnitRef
    read: Reader
    mean: float
    std: float
    balance: Balance
    normalise: Normalise = "dense"

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return each sample's weighted loss `[n]`; the mean over all samples weighs 1:1."""
        value = self.read(model, x, params=params)[:, self.target.index]
        if self.normalise == "dense":
            logit = (value - self.mean) / self.std
        else:
            variance = value.var(correction=0).clamp(min=self.std**2)  # a root of 0 has no slope
            logit = (value - value.mean()) / variance.sqrt()
        loss = F.binary_cross_entropy_with_logits(logit, y.to(logit), reduction="none")
        return self.balance.weigh(loss, y)


@dataclass(frozen=True)
class Preservation:
    """How far the unit is from its dense value on the cluster, and from silence off it.

    (a − a_dense)² on the cluster and max(0, a)² off it, in units of `scale`², the mean square of
    the dense unit on the cluster: 1/2 is what a unit that is always silent loses, 0 the ideal.
    Unlike `Contrast` it is not served by any detector of the cluster: the unit must also tell the
    cluster's pictures from one another as the dense one does. `model` must hold the dense weights
    and `params` the pruned ones.
    """

    is_loss: ClassVar[bool] = True

    target: UnitRef
    read: Reader
    scale: float
    balance: Balance

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return each sample's weighted squared distance `[n]`."""
        with torch.no_grad():
            dense = self.read(model, x)[:, self.target.index]
        value = self.read(model, x, params=params)[:, self.target.index]
        distance = torch.where(y > 0, value - dense, value.clamp(min=0)) / self.scale
        return self.balance.weigh(distance.square(), y)


def contrast(
    model: nn.Module,
    target: UnitRef,
    read: Reader,
    batches: Batches,
    normalise: Normalise = "dense",
) -> Contrast:
    """Return the contrast of the samples with y = 1 against those with y = 0.

    One pass through the dense network measures the unit's mean and standard deviation. Raises
    UsageError for other labels or an empty group, DataError for a unit that never moves or is not
    finite.
    """
    value, balance, _ = _dense(model, target, read, batches)
    std = float(value.std(correction=0))
    if std == 0:
        raise DataError(f"unit {target} has the same value on all {len(value)} pictures")
    return Contrast(target, read, float(value.mean()), std, balance, normalise)


def preservation(model: nn.Module, target: UnitRef, read: Reader, batches: Batches) -> Preservation:
    """Return the objective that keeps the unit on samples with y = 1 and silences it elsewhere.

    One pass through the dense network measures the unit on the cluster. Raises what `contrast`
    raises, and DataError for a unit that is zero on the whole cluster.
    """
    value, balance, member = _dense(model, target, read, batches)
    scale = float(value[member].square().mean().sqrt())
    if scale == 0:
        raise DataError(f"unit {target} is zero on all of the cluster: nothing to preserve")
    return Preservation(target, read, scale, balance)


def _dense(
    model: nn.Module, target: UnitRef, read: Reader, batches: Batches
) -> tuple[Tensor, Balance, Tensor]:
    """Read the dense unit on all samples: values `[n]` in float64, and who is in the cluster."""
    device = next(model.parameters()).device
    values, labels = [], []
    with evaluating(model), torch.no_grad():
        for x, y in batches:
            values.append(read(model, x.to(device))[:, target.index].double().cpu())
            labels.append(y.cpu())
    value, label = torch.cat(values), torch.cat(labels)
    if label.dim() != 1 or not bool(((label == 0) | (label == 1)).all()):
        raise UsageError("a cluster objective takes labels 1 (in the cluster) and 0 (off it)")
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"unit {target} has values that are NaN or infinite")
    member = label > 0
    positives = int(member.count_nonzero())
    return value, Balance(positives, len(member) - positives), member
