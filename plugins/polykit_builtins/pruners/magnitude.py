"""Magnitude pruning."""

from __future__ import annotations

import torch
from torch import nn

from polykit.api import SaliencyPruner
from polykit.types import Batches, Candidates, Mask, Objective, Scores


class Magnitude(SaliencyPruner):
    """Scores |w|; a kernel or unit scores the mean |w| of its weights.

    Looks at no data, so the objective does not matter.
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
        """Return the mean |w| of each element."""
        own = dict(model.named_parameters())
        return Scores(
            {name: candidates.reduce(name, own[name].detach().abs()) for name in candidates.shapes},
            candidates,
        )
