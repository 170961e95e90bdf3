"""Continuous sparsification: learns a mask by gradient descent while it hardens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from polykit.api import Field, Pruner, Train
from polykit.errors import UsageError
from polykit.runtime.progress import tell
from polykit.types import Batches, Candidates, Mask, Objective, Scores
from polykit_builtins.pruners.mask_descent import Learned, MaskDescent
from polykit_builtins.pruners.soft_mask import SoftMask

Group = tuple[str, ...]
"""Weights that compete with one another, and share a price λ."""

_PACE = 0.7
"""The quantile of the first slopes that the learning rate counts in, where λ is smaller."""
_FALL = 0.7
"""How much the log-odds of the density fall with log λ, as long as nothing better is known."""
_STRIDE = math.log(100)
"""The furthest that a guess of log λ goes beyond what has been tried."""


@dataclass(frozen=True)
class _Trial:
    """One descent: what it cost and what it came to, by group."""

    prices: Mapping[Group, float]
    densities: Mapping[Group, float]
    learned: Learned

    def distance(self, density: float) -> float:
        """How far the worst group is from a density, in log-odds."""
        return max(abs(_log_odds(found) - _log_odds(density)) for found in self.densities.values())


class ContinuousSparsification(Pruner):
    """Learns a mask that makes the objective small and itself sparse; the weights stay frozen.

    Each element has a logit s and the multiplier σ(t·s). SGD with momentum minimises the mean
    objective + λ · Σ σ(t·s) over parameters, while the temperature t rises exponentially from 1,
    so that the soft mask hardens into the final one, s > 0. An objective that is no loss, such as
    a unit's value, is kept: its squared distance from the dense value is minimised.

    With density 1 the method finds its own density, at a λ that is the `quantile` of
    |∂objective/∂multiplier| at the start. Any other density is met: up to `searches` descents
    look for a λ whose density is within `tolerance`, and the logits are cut to the element there.
    By layer, each layer has a λ. The learning rate counts in units of the slopes' 0.7 quantile, or
    of λ where that is larger, so it fits objectives of any scale. A kernel or unit has one logit
    and pays λ for each parameter. What the mask to start from has removed stays out.

    An epoch passes over the samples in a new order, in smaller batches where they are few. Memory:
    the samples, the masked weights and their gradient, a logit and a momentum for each element.
    Source: Savarese et al. 2020, Winning the lottery with continuous sparsification, §3;
    Pandiarajan et al., Subnetworks and Superposition, §3.3.
    """

    chooses_density: ClassVar[bool] = True
    minimises: ClassVar[bool] = True

    epochs: int = Field(30, ge=2, le=10_000, description="epochs, each at one temperature")
    batch: int = Field(64, ge=1, description="samples per step, at most")
    steps: int = Field(8, ge=1, description="steps of an epoch, at least, if there are samples")
    quantile: float = Field(
        0.7, gt=0, lt=1, description="quantile of the first slopes that λ is, or is sought from"
    )
    lr: float = Field(0.001, gt=0, description="learning rate of the logits, in units of slope")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    temperature: float = Field(200.0, gt=1, description="temperature of the last epoch")
    start: float = Field(0.1, description="logit that every element starts from")
    searches: int = Field(8, ge=1, le=100, description="descents to meet a density, at most")
    tolerance: float = Field(
        0.1, gt=0, lt=1, description="relative distance from the density that ends the search"
    )

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
        """Learn the mask and tell how it goes; the last word has the hard mask's loss, too.

        Raises UsageError where no element matters, where nothing would be kept, or where `mask`
        keeps less than `density` already; DataError where the objective is NaN.
        """
        begin = candidates.full() if mask is None else mask
        slack = max(candidates.element_size(name) for name in candidates.shapes)
        if density < 1 and begin.kept + slack < density * begin.total:
            raise UsageError(
                f"density {density:g} is above the {begin.density:g} that the mask to start from "
                f"keeps; take a lower density"
            )
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        descent = MaskDescent(
            model=model,
            objective=objective,
            x=x,
            y=y,
            soft=SoftMask(model, candidates, begin),
            epochs=self.epochs,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            momentum=self.momentum,
            hottest=self.temperature,
            start=self.start,
        )
        trials = self._search(descent, density, generator)
        best = min(trials, key=lambda trial: trial.distance(density))
        logits = best.learned.logits
        if density < 1:
            found = Scores(logits, candidates).only(begin).keep(density)
        else:
            found = candidates.mask(descent.soft.kept(logits))
        if not found.kept:
            raise UsageError(
                "no element is worth its price λ; take a smaller quantile, or ask for a density"
            )
        hard = candidates.elements(found)
        tell(
            self.epochs,
            self.epochs,
            density=found.density,
            learned_density=descent.soft.density(logits),
            loss=best.learned.loss,
            hard_loss=descent.loss({n: kept.to(logits[n]) for n, kept in hard.items()}),
            penalty=best.learned.penalty,
            price=sum(best.prices.values()) / len(best.prices),
            descents=len(trials),
        )
        return found

    def _search(
        self, descent: MaskDescent, density: float, generator: torch.Generator
    ) -> list[_Trial]:
        """Descend until every group has the density, or once if none is wanted."""
        soft = descent.soft
        groups = soft.candidates.groups
        seed = int(torch.randint(2**62, (), generator=generator))
        slopes = descent.first_slopes()
        prices, paces = (
            {group: _quantile(slopes, group, q) for group in groups} for q in (self.quantile, _PACE)
        )
        trials: list[_Trial] = []
        for _ in range(1 if density == 1 else self.searches):
            scales = {group: max(prices[group], paces[group]) for group in groups}
            learned = descent.run(_by_name(prices), _by_name(scales), seed)
            densities = {group: soft.density(learned.logits, group) for group in groups}
            trials.append(_Trial(prices, densities, learned))
            if all(self._meets(densities[group], density, group, soft) for group in groups):
                break
            prices = {
                group: next_price([(t.prices[group], t.densities[group]) for t in trials], density)
                for group in groups
            }
        return trials

    def _meets(self, found: float, wanted: float, group: Group, soft: SoftMask) -> bool:
        """Whether a density is within the tolerance, or one element, of the one wanted."""
        element = max(soft.candidates.element_size(name) for name in group)
        return abs(found - wanted) <= max(self.tolerance * wanted, element / soft.total(group))


def next_price(tried: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return the price to try next, from pairs of a price and the density it led to.

    Log-odds of the density fall about linearly with log λ: between the nearest prices on either
    side it interpolates, beyond all it goes on as far as the line says, or a hundredfold at most.

    >>> round(next_price([(1e-4, 0.3), (1e-2, 0.1)], 0.2), 5)
    0.00063
    """
    line = sorted((math.log(price), _log_odds(density)) for price, density in tried)
    goal = _log_odds(wanted)
    dense = [point for point in line if point[1] > goal]
    sparse = [point for point in line if point[1] <= goal]
    if dense and sparse:
        (left, high), (right, low) = dense[-1], sparse[0]
        share = min(0.9, max(0.1, (high - goal) / (high - low)))
        return math.exp(left + share * (right - left))
    nearest = dense[-1] if dense else sparse[0]
    stride = (nearest[1] - goal) / _FALL
    return math.exp(nearest[0] + min(_STRIDE, max(-_STRIDE, stride)))


def _log_odds(share: float) -> float:
    share = min(1 - 1e-6, max(1e-6, share))
    return math.log(share / (1 - share))


def _by_name(values: Mapping[Group, float]) -> dict[str, float]:
    return {name: value for group, value in values.items() for name in group}


def _quantile(slopes: Mapping[str, Tensor], group: Iterable[str], q: float) -> float:
    """Return a quantile of |slope| over a group's elements that have any; over all, if none has.

    Raises UsageError if nothing has a slope.
    """
    for names in (group, slopes):
        sizes = torch.cat([slopes[name].abs().flatten() for name in names])
        sizes = sizes[sizes > 0]
        if len(sizes):
            return float(sizes.kthvalue(max(1, math.ceil(q * len(sizes)))).values)
    raise UsageError(
        "the objective depends on no element of the network as it is at the start; a larger "
        "start, such as 5, begins closer to the whole network"
    )
