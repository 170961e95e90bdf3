"""How many of a network's weights count: the local learning coefficient, by Langevin sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from polykit.api import Field, Metric
from polykit.errors import DataError
from polykit.runtime.objectives import task_loss
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.seeds import generator
from polykit.runtime.training.langevin import Chains, Losses, langevin
from polykit.types import Column, Measurement, Subject

_LOG = logging.getLogger("polykit")

STIFF, UNMIXED = 0.1, 1.1
"""Above these a result is announced as doubtful: h nβ a_max / 4, and R̂."""


class LearningCoefficient(Metric):
    """The local learning coefficient λ, and the effective number of parameters 2λ.

    λ̂ = nβ (mean sampled loss − loss at the weights), over chains of Langevin steps around the
    weights; n are the training samples looked at, nβ = n / ln n. The behavioral loss is (1/n)
    Σ‖f_w(x) − f_w*(x)‖², 0 at the weights themselves; the training loss is the task's, and its
    coefficient is negative where the weights are not at a minimum. Weights that a mask removed stay
    0 and are not counted. `loss_scale` is the mean excess loss λ̂ / nβ at which the parameters are
    counted: another `temperature` looks at another scale. All gradients are over all samples. The
    arrays `losses` and `warm_up` `[steps, chains]` are the traces. Source: Lau et al. 2023,
    arXiv:2308.12108; Bushnaq et al. 2024, arXiv:2405.10927, §2.
    """

    columns: ClassVar[dict[str, Column]] = {
        "learning_coefficient": Column("local learning coefficient λ̂"),
        "effective_parameters": Column("effective number of parameters, 2λ̂", "parameters"),
        "effective_share": Column(
            "effective parameters / parameters that are not removed", "share"
        ),
        "parameters": Column("parameters that are not removed", "parameters", 0),
        "standard_error": Column("of λ̂, from the spread of the chains", "", 0),
        "r_hat": Column("split R̂ of the losses; 1 if the chains agree", "", 0),
        "stiffness": Column("h·nβ·a_max/4; λ̂ is too large by up to this share", "", 0),
        "step": Column("step size h", "", 0),
        "loss_scale": Column("mean loss above that of the weights", ""),
    }
    headline: ClassVar[str] = "learning_coefficient"

    loss: Literal["behavioral", "training"] = Field(
        "behavioral", description="distance to the network's own outputs, or the task's loss"
    )
    samples: int = Field(500, ge=3, description="training samples to look at, the first ones")
    chains: int = Field(8, ge=2, le=10_000, description="chains, all sampled at once")
    steps: int = Field(500, ge=4, description="steps of each chain that are averaged")
    burn_in: int = Field(500, ge=0, description="steps of each chain before those")
    step: float | None = Field(None, gt=0, description="step size h; none: by the curvature")
    temperature: float | None = Field(None, gt=0, description="nβ; none: n / ln n")
    localisation: float = Field(1.0, ge=0, description="γ, the pull back to the weights")
    seed: int = Field(0, ge=0, description="of the noise")

    def measure(self, subject: Subject) -> Measurement:
        """Sample the chains and average; doubtful results are announced in the log.

        Raises ModelError for chains that diverge, with a step size that would not.
        """
        found, free = self.sample(subject)
        if found.stiffness > STIFF or found.r_hat > UNMIXED:
            _LOG.warning(
                "learning-coefficient is doubtful: h·nβ·a_max/4 = %.2g (small enough below %g), "
                "R̂ = %.3g (below %g); take a smaller step, or more steps and burn_in",
                found.stiffness, STIFF, found.r_hat, UNMIXED,
            )  # fmt: skip
        values = {
            "learning_coefficient": found.estimate,
            "effective_parameters": 2 * found.estimate,
            "effective_share": 2 * found.estimate / max(1, free),
            "parameters": float(free),
            "standard_error": found.standard_error,
            "r_hat": found.r_hat,
            "stiffness": found.stiffness,
            "step": found.step,
            "loss_scale": found.estimate / found.temperature,
        }
        return Measurement(
            summary=values, arrays={"losses": found.losses, "warm_up": found.warm_up}
        )

    def sample(self, subject: Subject) -> tuple[Chains, int]:
        """Return the chains, and how many parameters moved."""
        x, y = _first(subject, self.samples)
        if len(x) < 3:
            raise DataError(f"{subject.data.name} has {len(x)} training samples; 3 are needed")
        with evaluating(subject.model):
            start, losses = self._losses(subject, x, y)
            free = _free(subject)
            found = langevin(
                losses,
                start,
                temperature=self.temperature or len(x) / math.log(len(x)),
                generator=generator(self.seed, "learning-coefficient"),
                step=self.step,
                localisation=self.localisation,
                chains=self.chains,
                steps=self.steps,
                burn_in=self.burn_in,
                free=free,
            )
        return found, int(free.sum())

    def _losses(self, subject: Subject, x: Tensor, y: Tensor) -> tuple[Tensor, Losses]:
        """Return the weights as one vector, and the loss of such vectors, a row each."""
        own = {name: tensor.detach() for name, tensor in subject.model.named_parameters()}
        sizes = [tensor.numel() for tensor in own.values()]

        def outputs(w: Tensor) -> Tensor:
            parts = zip(own.items(), w.split(sizes), strict=True)
            params = {name: part.view_as(tensor) for (name, tensor), part in parts}
            found: Tensor = functional_call(subject.model, params, (x,))
            return found.flatten(1)

        start = torch.cat([tensor.flatten() for tensor in own.values()])
        with torch.no_grad():
            target = outputs(start)

        def loss(w: Tensor) -> Tensor:
            if self.loss == "training":
                return task_loss(outputs(w), y, subject.data.task).mean()
            return (outputs(w) - target).square().sum(dim=1).mean()

        return start, vmap(loss)


def _first(subject: Subject, count: int) -> tuple[Tensor, Tensor]:
    """The first training samples, on the subject's device."""
    parts: list[tuple[Tensor, Tensor]] = []
    for x, y in subject.data.train.batches(min(count, subject.batch_size)):
        parts.append((x, y))
        if sum(len(x) for x, _ in parts) >= count:
            break
    x, y = (torch.cat(each)[:count].to(subject.device) for each in zip(*parts, strict=True))
    return x, y


def _free(subject: Subject) -> Tensor:
    """Which weights no mask has removed, as one vector."""
    mask: Mapping[str, Tensor] = subject.mask or {}
    parts = [
        mask[name].flatten() if name in mask else torch.ones(tensor.numel(), dtype=torch.bool)
        for name, tensor in subject.model.named_parameters()
    ]
    return torch.cat(parts).to(subject.device)
