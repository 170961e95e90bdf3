"""Random pruning."""

from __future__ import annotations

import torch
from torch import nn

from polykit.api import SaliencyPruner
from polykit.types import Batches, Candidates, Mask, Objective, Scores


class Random(SaliencyPruner):
    """Scores U(0, 1), drawn from the run's generator: what any method must beat.

    With an iterative schedule and `resurrect=false` each round removes at random from what is
    left, which gives the same distribution of masks as one shot.
    """

    def scores(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        candidates: Candidates,
        mask: Mask,
        generator: torch.Generator,
    ) -> Scores:
        """Return one random number per element."""
        return Scores(
            {
                name: torch.rand(candidates.element_shape(name), generator=generator)
                for name in candidates.shapes
            },
            candidates,
        )
