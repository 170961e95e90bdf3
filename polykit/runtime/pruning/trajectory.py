"""A pruning trajectory: one network, its parts removed in steps, evaluated at each.

Scores are sorted once. No mask is ever needed for an evaluation: each step sets what goes to zero
in one working copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from polykit.errors import DataError, ModelError, UsageError
from polykit.runtime.objectives import task_loss
from polykit.runtime.passes.trace import evaluating
from polykit.types import Candidates, Mask, Scores, Split

SMALL = 2**20
"""FLOPs of a forward pass below which one over many masks together is quicker."""

TOGETHER = 2**24
"""Weights, of all masks together, that a batched pass may hold: 64 MB in float32."""


@dataclass(frozen=True)
class Removal:
    """At which step each element goes: weight name → int tensor of the element shape.

    Step 0 is the whole network; an element with step s is removed from step s on. What is not
    eligible has step `last + 1`, that is, stays. At the last step nothing eligible is left.
    """

    steps: Mapping[str, Tensor]
    candidates: Candidates
    last: int

    def mask(self, step: int) -> Mask:
        """Return the mask of a step, 0 to `last`."""
        if not 0 <= step <= self.last:
            raise UsageError(f"there is no step {step}; the trajectory has 0 to {self.last}")
        return self.candidates.mask({name: when > step for name, when in self.steps.items()})

    def kept(self) -> Tensor:
        """Return how many eligible parameters are left at each step: int64 `[last + 1]`."""
        total = torch.zeros(self.last + 1, dtype=torch.int64)
        for name, when in self.steps.items():
            eligible = self.candidates.eligible_elements(name)
            gone = torch.bincount(when[eligible], minlength=self.last + 1)[: self.last + 1]
            left = int(eligible.count_nonzero()) - gone.cumsum(0)
            total += left * self.candidates.element_size(name)
        return total

    def on_parameters(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the step at which each parameter goes, biases of units included, on its device."""
        found: dict[str, Tensor] = {}
        for name, when in self.steps.items():
            parameter = model.get_parameter(name)
            view = when.view(*when.shape, *(1,) * (parameter.dim() - when.dim()))
            found[name] = view.to(parameter.device)
            if name in self.candidates.biases:
                bias = self.candidates.biases[name]
                found[bias] = when.to(model.get_parameter(bias).device)
        return found


def removal(scores: Scores, step: float = 0.02) -> Removal:
    """Return when each element goes if each step removes the share `step` of every group.

    Groups are those that compete: layers, or the whole network. The lowest scores go first, of
    equal ones the last by position, so that the mask of each step is `scores.keep` of its density.
    The last step removes the rest. Memory: one sort of a group's scores. Source: Schoots et al.,
    Propensity for density, §3.2.

    Raises UsageError for a step outside (0, 1].

    >>> cut = Candidates({"w": (4,)})
    >>> removal(Scores({"w": torch.tensor([3.0, 1.0, 2.0, 4.0])}, cut), 0.25).steps["w"].tolist()
    [3, 1, 2, 4]
    """
    if not 0 < step <= 1:
        raise UsageError(f"step {step:g} is outside (0, 1]; 0.02 removes 2 % at a time")
    candidates, last = scores.candidates, ceil(1 / step - 1e-9)
    found: dict[str, Tensor] = {}
    for group in candidates.groups:
        eligible = torch.cat([candidates.eligible_elements(name).flatten() for name in group])
        values = torch.cat([scores.values[name].detach().flatten().cpu() for name in group])
        values = values[eligible]
        counts = [round((1 - min(1.0, s * step)) * len(values)) for s in range(last)]
        best_first = values.argsort(descending=True, stable=True)
        place = torch.empty_like(best_first)
        place[best_first] = torch.arange(len(values))
        # an element goes at the first step that keeps no more than come before it
        rising = torch.tensor([0, *reversed(counts)])
        when = torch.full(eligible.shape, last + 1)
        when[eligible] = last + 1 - torch.searchsorted(rising, place, right=True)
        lengths = [scores.values[name].numel() for name in group]
        for name, part in zip(group, when.split(lengths), strict=True):
            found[name] = part.view(candidates.element_shape(name))
    return Removal(found, candidates, last)


@dataclass(frozen=True)
class Trajectory:
    """What was left at each step, and how good it was: `[steps + 1]` each, the dense network first.

    `kept` counts parameters out of `total`; `loss` is the mean over the split, `accuracy` a share
    in [0, 1], or None for regression.
    """

    kept: Tensor
    total: int
    loss: Tensor
    accuracy: Tensor | None

    @property
    def densities(self) -> Tensor:
        """Share of the parameters that is left at each step."""
        return self.kept.double() / self.total

    def effective_step(self, *, drop: float | None = None, rise: float | None = None) -> int | None:
        """Return the first step whose accuracy fell by more than `drop`, or whose loss rose so.

        Give one of them: a share of samples such as 0.05, or a difference of losses such as 0.1.
        None where no step crosses the threshold. Raises UsageError for both or neither, and for
        accuracy where there is none.
        """
        if (drop is None) == (rise is None):
            raise UsageError("give either a drop of accuracy or a rise of loss")
        if rise is not None:
            worse, threshold = self.loss - self.loss[0], rise
        elif self.accuracy is None or drop is None:
            raise UsageError("there is no accuracy to drop; give a rise of loss")
        else:
            worse, threshold = self.accuracy[0] - self.accuracy, drop
        # NaN is worse than any threshold; shares of samples are exact to far less than 1e-9
        crossed = (~(worse <= threshold + 1e-9)).nonzero()
        return int(crossed[0]) if len(crossed) else None

    def effective_density(
        self, *, drop: float | None = None, rise: float | None = None
    ) -> float | None:
        """Return the share left at that step: Schoots et al., §3.2, with `drop=0.05`.

        >>> accuracy = torch.tensor([1.0, 0.9, 0.1])
        >>> found = Trajectory(torch.tensor([4, 2, 0]), 4, torch.tensor([0.1, 0.2, 2.3]), accuracy)
        >>> found.effective_density(drop=0.05), found.effective_density(rise=3)
        (0.5, None)
        """
        step = self.effective_step(drop=drop, rise=rise)
        return None if step is None else float(self.densities[step])


def evaluate_steps(
    model: nn.Module,
    split: Split,
    task: str,
    when: Removal,
    *,
    device: torch.device,
    flops: float | None = None,
    batch_size: int = 1024,
) -> Trajectory:
    """Evaluate a network at every step of a trajectory, in one pass over `split`.

    Equal to pruning a copy and evaluating it at each step. The network is left as it was. Where a
    forward pass of one batch takes fewer than `SMALL` FLOPs (`flops` are those of one sample), many
    steps run as one. Memory: one more copy of the weights that may go, or `TOGETHER` weights; one
    batch.

    Raises ModelError where the whole network gives NaN or infinite values.
    """
    steps = range(when.last + 1)
    loss = torch.zeros(len(steps), dtype=torch.double)
    correct = torch.zeros_like(loss)
    goes = when.on_parameters(model)
    weights = {name: model.get_parameter(name).detach() for name in goes}
    together = flops is not None and flops * min(batch_size, len(split)) < SMALL
    size = max(1, TOGETHER // max(1, sum(weight.numel() for weight in weights.values())))
    count = 0
    with evaluating(model), torch.no_grad():
        for x, y in split.batches(batch_size):
            inputs, targets = x.to(device), y.to(device)
            outputs = (
                _in_chunks(model, weights, goes, inputs, len(steps), size)
                if together
                else _one_by_one(model, weights, goes, inputs, len(steps))
            )
            for step, output in zip(steps, outputs, strict=True):
                if step == 0 and not bool(torch.isfinite(output).all()):
                    raise ModelError(
                        "the network gives NaN or infinite values; train with a lower lr"
                    )
                loss[step] += task_loss(output, targets, task).sum().cpu().double()
                if task == "classification":
                    correct[step] += (output.argmax(1) == targets).sum().cpu()
            count += len(x)
    kept = when.kept()
    accuracy = correct / count if task == "classification" else None
    return Trajectory(kept, int(kept[0]), loss / count, accuracy)


def _one_by_one(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    goes: Mapping[str, Tensor],
    x: Tensor,
    steps: int,
) -> Iterator[Tensor]:
    """Yield the outputs at each step; one copy of the weights loses a little more each time."""
    left = {name: weight.clone() for name, weight in weights.items()}
    for step in range(steps):
        for name, when in goes.items():
            left[name].masked_fill_(when == step, 0)
        yield functional_call(model, left, (x,))


def _in_chunks(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    goes: Mapping[str, Tensor],
    x: Tensor,
    steps: int,
    size: int,
) -> Iterator[Tensor]:
    """Yield the outputs at each step, `size` steps computed at once."""

    def outputs(left: dict[str, Tensor]) -> Tensor:
        return functional_call(model, left, (x,))  # type: ignore[no-any-return]

    for first in range(0, steps, size):
        step = torch.arange(first, min(steps, first + size), device=x.device)
        left = {
            name: weight * (goes[name] > step.view(-1, *(1,) * weight.dim()))
            for name, weight in weights.items()
        }
        yield from vmap(outputs)(left)


def doubts(
    found: Trajectory,
    targets: Tensor,
    classes: Sequence[str],
    *,
    drop: float | None,
    rise: float | None,
) -> list[str]:
    """Say what makes an effective density mean little: chance, missing classes, no crossing.

    `targets [n]` are the split's classes by number, `classes` what all are called; the chance level
    is the share of the most frequent one. Nothing is said of regression but that the threshold was
    never crossed.

    Raises DataError where there are no targets.
    """
    if len(targets) == 0:
        raise DataError("there is no sample to evaluate on")
    said = []
    if found.accuracy is not None:
        counts = torch.bincount(targets, minlength=len(classes))
        missing = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
        if missing:
            said.append(
                f"no validation sample of class {', '.join(missing)}: what its weights do is not "
                f"seen"
            )
        chance, start = float(counts.max()) / len(targets), float(found.accuracy[0])
        if start <= chance:
            said.append(
                f"accuracy before pruning is {start:.3f}, at chance ({chance:.3f}, the most "
                f"frequent class): there is nothing to lose"
            )
        elif drop is not None and start <= chance + drop:
            said.append(
                f"accuracy before pruning is {start:.3f}, and chance {chance:.3f} (the most "
                f"frequent class): there is no more to lose than the threshold of {drop:g}"
            )
    if found.effective_step(drop=drop, rise=rise) is None:
        threshold = (
            f"accuracy never fell by more than {drop:g}"
            if drop is not None
            else f"loss never rose by more than {rise:g}"
        )
        said.append(f"{threshold}, not even with all weights removed: no effective density")
    return said
