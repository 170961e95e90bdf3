"""Edge-popup: which weights of an untouched network to keep, learned by gradient descent."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polykit.api import Field, Pruner, Train
from polykit.runtime.progress import tell
from polykit.types import Batches, Candidates, Mask, Objective, Scores
from polykit_builtins.pruners.soft_mask import SoftMask, mean_loss


class EdgePopup(Pruner):
    """Gives each element a score, keeps the top k of |score|, and lets the scores learn.

    Only kept weights take part in the forward pass; the backward pass goes straight through the
    choice, so that every score moves, those of removed elements too: ∂L/∂|s| = Σ w ∂L/∂(w·m).
    Scores start uniform in ±1/√fan-in and follow SGD with momentum under a rate that falls by a
    cosine; the published rate of 0.1 wants more steps than a thousand samples give (digits, 850
    steps, layer scope, three seeds: accuracy .91–.93 at 0.1, .93–.94 at 1). Weights never change.
    They are those of the network as given, or with `weights` drawn anew: He's uniform (kaiming), or
    ±√(2/fan-in) with random signs (signed), biases at zero. The published choice is within each
    layer: `--scope layer`. An objective that is no loss is kept by minimising its squared distance
    from the dense network's.

    A step looks at `batch_size` samples, in the order given. Cost: one forward and backward pass
    over the samples an epoch. Memory: a score, a gradient and a momentum for each element, and one
    batch. Source: Ramanujan et al. 2020, What's hidden in a randomly weighted neural network?, §3.
    """

    minimises: ClassVar[bool] = True

    weights: Literal["given", "kaiming", "signed"] = Field(
        "given", description="weights to search in: as they are, or drawn anew"
    )
    epochs: int = Field(50, ge=1, description="passes over the samples")
    lr: float = Field(
        1.0, gt=0, description="learning rate of the scores at the start; published: 0.1"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the scores")
    batch_size: int = Field(64, ge=1, description="samples per step")

    def prepare(
        self,
        model: nn.Module,
        *,
        candidates: Candidates,
        generator: torch.Generator,
        train: Train | None = None,
    ) -> nn.Module:
        """Return a copy with the weights drawn anew, if that is asked for."""
        if self.weights == "given":
            return model
        network = copy.deepcopy(model)
        layers = {name.rpartition(".")[0] for name in candidates.shapes}
        with torch.no_grad():
            for name in candidates.shapes:
                weight = network.get_parameter(name)
                drawn = torch.empty(weight.shape).uniform_(-1, 1, generator=generator)
                fan_in = weight[0].numel()
                if self.weights == "signed":
                    drawn = drawn.sign() * sqrt(2 / fan_in)
                else:
                    drawn *= sqrt(6 / fan_in)
                weight.copy_(drawn)
            for layer in layers:
                if (bias := getattr(network.get_submodule(layer), "bias", None)) is not None:
                    bias.zero_()
        return network

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
        """Learn the scores; what `mask` has removed stays removed."""
        begin = candidates.full() if mask is None else mask
        soft = SoftMask(model, candidates, begin)
        own = dict(model.named_parameters())
        scores = {
            name: start_scores(shape, candidates.element_shape(name), generator)
            .to(own[name])
            .requires_grad_()
            for name, shape in candidates.shapes.items()
        }
        optimizer = torch.optim.SGD(list(scores.values()), lr=self.lr, momentum=self.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        for epoch in range(1, self.epochs + 1):
            total = seen = 0.0
            for x, y in regrouped(batches, self.batch_size):
                kept = candidates.elements(chosen(scores, candidates, begin, density))
                with torch.enable_grad():
                    through = {
                        name: kept[name].to(score) + score.abs() - score.abs().detach()
                        for name, score in scores.items()
                    }
                    loss = mean_loss(objective, model, x, y, soft.parameters(through))
                found = torch.autograd.grad(loss, list(scores.values()), materialize_grads=True)
                for score, slope in zip(scores.values(), found, strict=True):
                    score.grad = slope
                optimizer.step()
                total += float(loss.detach()) * len(x)
                seen += len(x)
            schedule.step()
            tell(epoch, self.epochs, loss=total / seen, density=density)
        return chosen(scores, candidates, begin, density)


def chosen(scores: dict[str, Tensor], candidates: Candidates, begin: Mask, density: float) -> Mask:
    """Keep the best of |score| among what `begin` keeps."""
    sizes = {name: score.detach().abs() for name, score in scores.items()}
    return Scores(sizes, candidates).only(begin).keep(density)


def start_scores(
    shape: tuple[int, ...], elements: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Draw the scores of one weight's elements, uniform in ±1/√fan-in."""
    bound = 1 / sqrt(max(1, torch.Size(shape[1:]).numel()))
    return torch.empty(elements).uniform_(-bound, bound, generator=generator)


def regrouped(batches: Batches, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a stream of batches of any size into batches of `size`; the last may be smaller.

    >>> [len(x) for x, _ in regrouped([(torch.zeros(5), torch.zeros(5))] * 2, 4)]
    [4, 4, 2]
    """
    rest: tuple[Tensor, Tensor] | None = None
    for x, y in batches:
        joined = (x, y) if rest is None else (torch.cat([rest[0], x]), torch.cat([rest[1], y]))
        whole = len(joined[0]) // size * size
        for first in range(0, whole, size):
            yield joined[0][first : first + size], joined[1][first : first + size]
        rest = joined[0][whole:], joined[1][whole:]
    if rest is not None and len(rest[0]):
        yield rest
