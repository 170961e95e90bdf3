"""Prune and grow: a sparse network exchanges its smallest weights for others as it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polykit.api import Field, Pruner, Train
from polykit.errors import UsageError
from polykit.runtime.progress import tell
from polykit.runtime.pruning.masking import masked_parameters
from polykit.types import Batches, Candidates, Mask, Objective, Scores
from polykit_builtins.pruners.magnitude import Magnitude
from polykit_builtins.pruners.random import Random


class PruneAndGrow(Pruner):
    """Starts from a random mask and keeps its density: drop the smallest weights, enable others.

    Each round trains the masked network for the retraining epochs, drops the share `rate` of the
    kept elements with the smallest |w|, and enables as many others, which start at zero: at random,
    or where the objective's gradient is largest. What was dropped comes back in the same round only
    if nothing else is left. The last round only trains and exchanges; the network that the mask is
    put on keeps its own weights. Cost: one training a round. Memory: two copies of the network, and
    for `grow=gradient` one set of gradients. Source: Mocanu et al. 2018 (random); Evci et al. 2020,
    RigL (gradient).

    Raises UsageError where nothing can be trained.
    """

    trains: ClassVar[bool] = True

    rounds: int = Field(10, ge=1, le=10_000, description="rounds of training and exchange")
    rate: float = Field(0.3, gt=0, lt=1, description="share of the kept that is exchanged a round")
    grow: Literal["random", "gradient"] = Field(
        "random", description="which others are enabled: any, or those of the largest gradient"
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
        """Train and exchange, round by round; `mask` is where to start, if one is given."""
        if train is None:
            raise UsageError(
                "prune-and-grow trains between rounds, which is not possible here; take force"
            )

        def drawn() -> Scores:
            return Random().scores(
                model,
                objective,
                batches,
                candidates=candidates,
                mask=candidates.full(),
                generator=generator,
            )

        first = drawn()
        current = (first if mask is None else first.only(mask)).keep(density)
        network = model
        for step in range(1, self.rounds + 1):
            network = train(network, current)
            smallest = Magnitude().scores(
                network,
                objective,
                batches,
                candidates=candidates,
                mask=current,
                generator=generator,
            )
            stay = smallest.only(current).keep(density * (1 - self.rate))
            worth = (
                drawn().values
                if self.grow == "random"
                else slopes(network, objective, batches, current, candidates)
            )
            current = exchange(worth, current, stay, candidates).keep(density)
            tell(step, self.rounds, density=current.density)
        return current


def exchange(
    worth: Mapping[str, Tensor], current: Mask, stay: Mask, candidates: Candidates
) -> Scores:
    """Rank what stays first, then by `worth` (not negative) what was out, then what just went."""
    kept, staying = candidates.elements(current), candidates.elements(stay)
    return Scores(
        {
            name: value / (1 + value) + 2.0 * ~kept[name] + 4.0 * staying[name]
            for name, value in ((name, worth[name].cpu()) for name in candidates.shapes)
        },
        candidates,
    )


def slopes(
    model: nn.Module, objective: Objective, batches: Batches, mask: Mask, candidates: Candidates
) -> dict[str, Tensor]:
    """Return |∂f/∂w| of the mean objective f of the masked network, removed weights included.

    By parameter name, in element shape: the mean over an element's weights.
    """
    params = {
        name: value.requires_grad_() for name, value in masked_parameters(model, mask).items()
    }
    weights = [params[name] for name in candidates.shapes]
    total = [torch.zeros_like(weight) for weight in weights]
    for x, y in batches:
        inputs, targets = x.to(weights[0].device), y.to(weights[0].device)
        with torch.enable_grad():
            value = objective.values(model, inputs, targets, params=params).sum()
        found = torch.autograd.grad(value, weights, materialize_grads=True)
        total = [so_far + slope for so_far, slope in zip(total, found, strict=True)]
    sums = zip(candidates.shapes, total, strict=True)
    return {name: candidates.reduce(name, slope.abs()) for name, slope in sums}
