"""Learning coefficients against exact posteriors, by quadrature."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from polykit.errors import ModelError, UsageError
from polykit.runtime.training.langevin import Chains, langevin, volume_coefficient


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def zeros(p: int) -> Tensor:
    return torch.zeros(p, dtype=torch.float64)


def parabola(w: Tensor) -> Tensor:
    return w.square().sum(dim=1)


def quartic(w: Tensor) -> Tensor:
    return w[:, 0] ** 4


def crossover(w: Tensor) -> Tensor:
    """C² w² + w⁴, c = 0.1."""
    return 0.01 * w[:, 0] ** 2 + w[:, 0] ** 4


def product(w: Tensor) -> Tensor:
    return (w[:, 0] * w[:, 1]) ** 2


def exact(losses, p: int, temperature: float, localisation: float) -> float:
    """Mean of nβ L under exp(−nβ L − γ|w|²/2), on a grid that is finer near 0."""
    axis = np.sinh(np.linspace(-9, 9, 801)) / np.sinh(9) * 6
    weight = np.gradient(axis)
    grid = np.stack(np.meshgrid(*[axis] * p, indexing="ij"), axis=-1).reshape(-1, p)
    weights = np.prod(np.stack(np.meshgrid(*[weight] * p, indexing="ij"), -1), axis=-1).ravel()
    loss = temperature * losses(torch.tensor(grid)).numpy()
    density = weights * np.exp(-loss - localisation * (grid**2).sum(axis=1) / 2)
    return float((density * loss).sum() / density.sum())


@pytest.mark.parametrize(
    ("losses", "p", "temperature", "localisation", "published"),
    [
        (parabola, 2, 145, 1, 0.997),
        (quartic, 1, 145, 1, 0.243),
        (lambda w: w[:, 0] ** 2 + w[:, 1] ** 4, 2, 145, 1, 0.741),
        (product, 2, 145, 1, 0.361),
        (crossover, 1, 1e2, 0, 0.266),
        (crossover, 1, 1e4, 0, 0.367),
        (crossover, 1, 1e6, 0, 0.493),
    ],
    ids="w1²+w2² w⁴ w1²+w2⁴ (w1w2)² c²w²+w⁴ c²w²+w⁴-1e4 c²w²+w⁴-1e6".split(),
)
def test_the_estimate_is_that_of_the_posterior(
    losses, p, temperature, localisation, published
) -> None:
    truth = exact(losses, p, temperature, localisation)
    assert truth == pytest.approx(published, abs=6e-4)
    found = langevin(
        losses,
        zeros(p),
        temperature=temperature,
        localisation=localisation,
        step=1e-6 if temperature == 1e6 else None,  # the bias of the usual 2 % would show
        generator=random(),
        chains=128,
        steps=1500,
    )
    assert abs(found.estimate - truth) < 3 * found.standard_error
    assert found.standard_error < 0.1 * max(truth, 0.3)
    assert found.losses.shape == (1500, 128)
    assert found.warm_up.shape == (500, 128)


def test_a_long_step_inflates_the_estimate_as_predicted() -> None:
    found = langevin(
        parabola, zeros(2), temperature=145, generator=random(), step=5e-3, chains=512, steps=500
    )
    assert found.stiffness == pytest.approx(5e-3 * 145 * 2 / 4, rel=1e-6)
    expected = 290 / 291 / (1 - 5e-3 * 291 / 4)  # the pull to the start has a curvature of 1, too
    assert abs(found.estimate - expected) < 3 * found.standard_error
    assert expected > 1.5


@pytest.mark.parametrize("losses", [parabola, quartic])
def test_diverging_chains_come_with_a_step_that_does_not(losses) -> None:
    with pytest.raises(ModelError, match=r"chains diverged at step size 0\.5") as caught:
        langevin(losses, zeros(2), temperature=145, generator=random(), step=0.5)
    step = float(re.search(r"step=(\S+) or less", str(caught.value))[1])
    found = langevin(losses, zeros(2), temperature=145, generator=random(), step=step)
    assert found.losses.isfinite().all()
    assert found.stiffness < 0.1


def test_weights_that_are_not_free_stay() -> None:
    start = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    free = torch.tensor([True, False, True])
    found = langevin(
        lambda w: (w - start).square().sum(dim=1),
        start,
        temperature=145,
        generator=random(),
        free=free,
    )
    assert (found.positions[:, 1] == 2).all()
    assert abs(found.estimate - 290 / 291) < 0.1  # two of three


def test_one_seed_gives_one_result() -> None:
    first, second = (
        langevin(crossover, zeros(1), temperature=100, generator=random(), steps=50)
        for _ in range(2)
    )
    assert torch.equal(first.losses, second.losses)


def chains(losses: Tensor) -> Chains:
    return Chains(losses, losses[:0], losses[:1].T, 10.0, 1e-3, 0.0)


def test_r_hat_and_standard_error() -> None:
    noise = torch.randn(4000, 8, generator=random(), dtype=torch.float64)
    agreeing = chains(noise)
    assert agreeing.r_hat == pytest.approx(1, abs=0.01)
    assert agreeing.standard_error == pytest.approx(10 / math.sqrt(32_000), rel=0.8)
    apart = chains(noise + torch.arange(8))
    halves = torch.cat([apart.losses[:2000], apart.losses[2000:]], dim=1)
    ratio = float(halves.mean(dim=0).var() / halves.var(dim=0).mean())
    assert apart.r_hat == pytest.approx(math.sqrt(1999 / 2000 + ratio))
    assert apart.r_hat > 1.5
    drifting = chains(noise + torch.linspace(0, 8, 4000)[:, None])
    assert drifting.r_hat > 1.5  # all chains alike, their halves not
    assert chains(torch.zeros(10, 2)).r_hat == 1


@pytest.mark.parametrize("epsilon", [1e-5, 1e-4, 1e-3])
def test_the_volume_grows_as_it_should(epsilon: float) -> None:
    """λ(ε) = (S + c²) / (4 S), S = √(c⁴ + 4 ε): from ½ to ¼ as ε passes c⁴."""
    S = math.sqrt(1e-4 + 4 * epsilon)
    found, error = volume_coefficient(
        crossover, zeros(1), epsilon, generator=random(), radius=0.3, ratio=1.1
    )
    assert abs(found - (S + 0.01) / (4 * S)) < 3 * error
    assert error < 0.02


def test_an_empty_volume_is_refused() -> None:
    with pytest.raises(UsageError, match="larger epsilon"):
        volume_coefficient(parabola, zeros(2), 1e-9, generator=random(), samples=1000)
