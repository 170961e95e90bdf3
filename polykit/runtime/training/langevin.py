"""Langevin sampling around a network's weights: how much of weight space computes the same.

All chains move at once: their weights are the rows of one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polykit.errors import ModelError, UsageError

Losses = Callable[[Tensor], Tensor]
"""From weights `[chains, p]` to losses `[chains]`, differentiable."""

STIFFNESS = 0.02
"""What h nβ a_max / 4 is held to when the step size h is chosen."""

_PILOT = 200
_PILOTS = 40
"""Steps of a short run that finds out where chains go, and the largest number of such runs."""

_PLACES = 15
"""Chains of a short run, and how many chains' ends are asked for their curvature: fewer miss it."""


@dataclass(frozen=True)
class Chains:
    """What sampling gave: `losses [steps, chains]` behind the burn-in, less the loss at the start.

    `warm_up [burn_in, chains]` are those before. `positions [chains, p]` is where the chains ended.
    `stiffness` is h nβ a_max / 4, with the largest curvature a_max at the start and at those ends.
    """

    losses: Tensor
    warm_up: Tensor
    positions: Tensor
    temperature: float
    step: float
    stiffness: float

    @property
    def estimate(self) -> float:
        """The local learning coefficient λ̂ = nβ (mean sampled loss − loss at the start)."""
        return self.temperature * float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """Of the estimate, from the spread of the chains' means; needs two chains."""
        means = self.losses.mean(dim=0)
        return self.temperature * float(means.std() / math.sqrt(len(means)))

    @property
    def r_hat(self) -> float:
        """The split R̂ of the losses, 1 where chains and their halves agree.

        Gelman et al. 2013, Bayesian Data Analysis, eq. 11.4.
        """
        length = len(self.losses) // 2
        halves = torch.cat([self.losses[:length], self.losses[-length:]], dim=1)
        within = halves.var(dim=0).mean()
        between = halves.mean(dim=0).var()
        if not float(within) > 0:
            return 1.0
        return math.sqrt((length - 1) / length + float(between / within))


def langevin(
    losses: Losses,
    start: Tensor,
    *,
    temperature: float,
    generator: torch.Generator,
    step: float | None = None,
    localisation: float = 1.0,
    chains: int = 64,
    steps: int = 1000,
    burn_in: int = 500,
    free: Tensor | None = None,
) -> Chains:
    """Sample weights w from exp(−nβ L(w) − γ/2 |w − w*|²) near `start` w* `[p]`, in all chains.

    w ← w − (h/2)(nβ ∇L + γ(w − w*)) + √h ξ, nβ the `temperature` and γ the `localisation`. Without
    `step` h is chosen so that h nβ a_max / 4 is STIFFNESS, by short runs that measure the
    curvature a_max where the chains go: along a direction of curvature a the estimate is too large
    by 1 / (1 − h nβ a / 4). `free [p]`, bool, says which weights may move. Memory: a few copies of
    the chains' weights and what `losses` needs.

    Raises ModelError for chains that diverge, with a step size that would not. Source: Lau et al.
    2023, arXiv:2308.12108, eq. 20; Welling & Teh 2011.

    >>> parabola = lambda w: w.square().sum(dim=1)
    >>> random = torch.Generator().manual_seed(0)
    >>> found = langevin(parabola, torch.zeros(2), temperature=145, generator=random)
    >>> abs(found.estimate - 1) < 0.1  # two parameters
    True
    """
    walk = _Walk(losses, start, temperature, localisation, generator, free)
    if step is None:
        step = walk.gentle_step()
    found = walk.run(step, chains, burn_in + steps)
    if not bool(found.isfinite().all()):
        raise ModelError(
            f"{int((~found[-1].isfinite()).sum())} of {chains} chains diverged at step size "
            f"{step:.3g}; take step={walk.gentle_step():.2g} or less"
        )
    stiffness = step * temperature * walk.curvature() / 4
    return Chains(found[burn_in:], found[:burn_in], walk.w, temperature, step, stiffness)


def volume_coefficient(
    losses: Losses,
    start: Tensor,
    epsilon: float,
    *,
    generator: torch.Generator,
    radius: float = 1.0,
    samples: int = 2**20,
    ratio: float = 1.5,
) -> tuple[float, float]:
    """Return λ(ε) = ε d/dε log V(ε) and its standard error, by counting, for up to a few weights.

    V(ε) is the volume with a loss less than ε over that at `start`, in a cube of half-width
    `radius` around it; the derivative is taken from ε/`ratio` to ε·`ratio`. Raises UsageError where
    fewer than 100 samples fall below ε/`ratio`. Source: Bushnaq et al. 2024, eq. 5.

    >>> random = torch.Generator().manual_seed(0)
    >>> square = lambda w: w[:, 0] ** 2
    >>> found, error = volume_coefficient(square, torch.zeros(1), 0.1, generator=random)
    >>> abs(found - 0.5) < 3 * error
    True
    """
    base = losses(start[None])
    inner, outer = epsilon / ratio, epsilon * ratio
    below = torch.zeros(2, dtype=torch.float64)
    for size in _portions(samples):
        cube = torch.rand(size, len(start), generator=generator, dtype=start.dtype)
        excess = losses(start + radius * (2 * cube - 1)) - base
        below += torch.stack([(excess < inner).sum(), (excess < outer).sum()])
    few, many = below.tolist()
    if few < 100:
        raise UsageError(
            f"only {few:.0f} of {samples} samples have a loss below {inner:.3g}, too few to see "
            f"how the volume grows; take a larger epsilon, a smaller radius or more samples"
        )
    spread = math.sqrt((many - few) / (few * many))  # few is binomial among many
    return math.log(many / few) / (2 * math.log(ratio)), spread / (2 * math.log(ratio))


class _Walk:
    """The chains on their way; `w [chains, p]` is where they are, or were last if they left."""

    def __init__(
        self,
        losses: Losses,
        start: Tensor,
        temperature: float,
        localisation: float,
        generator: torch.Generator,
        free: Tensor | None,
    ) -> None:
        self._losses, self._start = losses, start.detach()
        self._temperature, self._localisation = temperature, localisation
        self._generator = generator
        self._free = torch.ones_like(self._start) if free is None else free.to(self._start)
        self.w = self._start[None]

    def run(self, step: float, chains: int, steps: int) -> Tensor:
        """Walk from the start; return the excess losses `[steps, chains]`, not finite once lost."""
        w = self._start.repeat(chains, 1)
        with torch.no_grad():
            base = self._losses(self._start[None])
        found = w.new_empty(steps, chains)
        for index in range(steps):
            loss, slope = self._slope(w)
            found[index] = loss - base
            drift = self._temperature * slope + self._localisation * (w - self._start)
            moved = w - step / 2 * drift + math.sqrt(step) * self._noise(w)
            w = torch.where(self._free.bool(), moved, w)
            if not bool(loss.isfinite().all()):
                found[index:] = found[index]
                return found
            self.w = w
        return found

    def gentle_step(self) -> float:
        """A step size that makes h nβ a / 4 STIFFNESS where short runs with it end."""
        self.w = self._start[None]
        step = self._gentle(self.curvature())
        for _ in range(_PILOTS):
            if not bool(self.run(step, _PLACES, _PILOT).isfinite().all()):
                step /= 4
            elif (found := self._gentle(self.curvature())) < step / 1.5:
                step = max(found, step / 4)  # they may have been on their way out
            else:
                break
        return step

    def _gentle(self, curvature: float) -> float:
        return 4 * STIFFNESS / (self._temperature * curvature + self._localisation)

    def curvature(self, rounds: int = 20) -> float:
        """The largest |eigenvalue| of the Hessian at the start and where some chains are."""
        places = self.w[:_PLACES]
        places = torch.cat([self._start[None], places[places.isfinite().all(dim=1)]])
        v = self._noise(places) * self._free
        size = v.new_zeros(len(v))
        for _ in range(rounds):
            v = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
            w = places.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self._losses(w).sum(), w, create_graph=True)
                along = (slope * v).sum()
            if not along.requires_grad:
                return 0.0  # a loss of straight pieces
            v = torch.autograd.grad(along, w, materialize_grads=True)[0] * self._free
            before, size = size, v.norm(dim=1)
            if bool(((size - before).abs() <= 0.02 * size).all()):
                break
        size = size[size.isfinite()]
        return float(size.max()) if len(size) else math.inf

    def _slope(self, w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_()
        with torch.enable_grad():
            loss = self._losses(w)
            (slope,) = torch.autograd.grad(loss.sum(), w)
        return loss.detach(), slope

    def _noise(self, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=self._generator, dtype=like.dtype)
        return noise.to(like.device)


def _portions(samples: int, size: int = 2**18) -> list[int]:
    whole, rest = divmod(samples, size)
    return [size] * whole + [rest] * (rest > 0)
