"""What is measured along the line between two networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.pairs.paths import barrier, between, holding, renew_statistics
from polykit.runtime.pairs.symmetry import State
from polykit.runtime.seeds import generator
from polykit.runtime.training.loop import evaluate
from polykit.types import Split
from polykit.types.measurement import ALL_LAYERS
from polykit.workflows.compare.setup import Setup
from polykit.workflows.measuring import headlines


@dataclass(frozen=True)
class Part:
    """Some samples of a split, which are a split themselves."""

    split: Split
    order: Tensor

    def __len__(self) -> int:
        return len(self.order)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as the split does."""
        chosen = self.order if order is None else self.order[order]
        return self.split.batches(batch_size, order=chosen)

    def skipped(self) -> Sequence[str]:
        """Name what the split could not read."""
        return self.split.skipped()


@dataclass(frozen=True)
class Line:
    """What was measured at points `t` in [0, 1] of a line, by quantity, at each of them."""

    t: tuple[float, ...]
    found: tuple[Mapping[str, float], ...]

    def barriers(self) -> dict[str, float]:
        """How far each loss rises, and each accuracy falls, beyond the line between its ends."""
        return {
            f"{name}_barrier": barrier(
                self.t, [point[name] for point in self.found], falls=name.endswith("accuracy")
            )
            for name in self.found[0]
            if name.endswith(("_loss", "_accuracy"))
        }


def part(setup: Setup, name: str) -> Part:
    """Return the samples of a split, train or test, that are looked at."""
    split: Split = getattr(setup.data, name)
    order = torch.randperm(len(split), generator=generator(setup.config.seed, "samples", name))
    return Part(split, order[: setup.config.samples].sort().values)


def look(setup: Setup, model: nn.Module, *, metrics: bool = True) -> dict[str, float]:
    """Measure a network: loss and accuracy on training and test samples, and the headlines.

    Raises ModelError where a loss is not a finite number.
    """
    found: dict[str, float] = {}
    for name in ("train", "test"):
        samples = part(setup, name)
        loss, accuracy = evaluate(
            model, samples, setup.data.task, setup.device, setup.config.eval_batch_size
        )
        if not torch.isfinite(torch.tensor(loss)):
            raise ModelError(f"the {name} loss on the line is {loss}; look for very large weights")
        found[f"{name}_loss"] = loss
        if accuracy is not None:
            found[f"{name}_accuracy"] = accuracy
    if setup.metrics and metrics:
        found |= {
            row["metric"]: row["value"]
            for row in headlines(setup.metrics, setup.subject(model))
            if row["layer"] == ALL_LAYERS
        }
    return found


def along(setup: Setup, a: State, b: State, *, metrics: bool = True) -> Line:
    """Measure at the points of the line from state `a` to state `b`, with the metrics or without.

    Running statistics of batch normalisations are estimated anew at each point, the ends included.
    """
    model = copy.deepcopy(setup.first.model)
    points = setup.config.points
    t = tuple(step / (points - 1) for step in range(points))
    found = []
    for at in t:
        with holding(model, between(a, b, at)):
            renew_statistics(model, setup.data.train, setup.device)
            found.append(look(setup, model, metrics=metrics))
    return Line(t, tuple(found))
