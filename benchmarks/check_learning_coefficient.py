"""Sampled learning coefficients of losses whose posterior is known, and what many chains cost.

Each row: a loss, nβ, the mean of nβ L under the exact posterior, and what 400 chains give with
a step size whose bias is far below the standard error. Reduced-rank regression is compared with the
theoretical coefficient (Aoyagi & Watanabe 2005), within 5 %. Leaves with 1 if one is out of
tolerance. `--cost` times 64 chains against one on the same losses instead.

    python benchmarks/check_learning_coefficient.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polykit.runtime.training.langevin import Chains, Losses, langevin


@dataclass(frozen=True)
class Case:
    """A loss, the weights to start from, and what is known."""

    name: str
    losses: Losses
    start: Tensor
    temperature: float
    truth: float
    localisation: float = 1.0
    step: float | None = None
    steps: int = 3000
    relative: float | None = None  # tolerance, if not three standard errors

    def run(self, chains: int, steps: int | None = None, burn_in: int | None = None) -> Chains:
        return langevin(
            self.losses,
            self.start,
            temperature=self.temperature,
            localisation=self.localisation,
            step=self.step,
            chains=chains,
            steps=steps or self.steps,
            burn_in=self.steps if burn_in is None else burn_in,
            generator=torch.Generator().manual_seed(0),
        )


def reduced_rank(inputs: int, hidden: int, outputs: int) -> tuple[Losses, Tensor]:
    """‖BA − B₀A₀‖², whitened inputs, with B₀A₀ of rank 1."""
    A, B = torch.zeros(hidden, inputs), torch.zeros(outputs, hidden)
    A[0, 0] = B[0, 0] = 1
    target = (B @ A).double()

    def losses(w: Tensor) -> Tensor:
        a, b = w.split([A.numel(), B.numel()], dim=1)
        product = b.view(-1, outputs, hidden) @ a.view(-1, hidden, inputs)
        return (product - target).square().sum(dim=(1, 2))

    return losses, torch.cat([A.flatten(), B.flatten()]).double()


def cases() -> Iterator[Case]:
    def zeros(p: int) -> Tensor:
        return torch.zeros(p, dtype=torch.float64)

    def crossover(w: Tensor) -> Tensor:
        return 0.01 * w[:, 0] ** 2 + w[:, 0] ** 4

    yield Case("w1² + w2²", lambda w: w.square().sum(1), zeros(2), 145, 0.997, step=7e-5)
    yield Case("w⁴", lambda w: w[:, 0] ** 4, zeros(1), 145, 0.243)
    mixed = lambda w: w[:, 0] ** 2 + w[:, 1] ** 4  # noqa: E731
    yield Case("w1² + w2⁴", mixed, zeros(2), 145, 0.741, step=1e-4)
    product = lambda w: (w[:, 0] * w[:, 1]) ** 2  # noqa: E731
    yield Case("(w1 w2)²", product, zeros(2), 145, 0.361, step=1e-4, steps=8000)
    for temperature, truth, step in ((1e2, 0.266, None), (1e4, 0.367, 3e-5), (1e6, 0.493, 1e-6)):
        yield Case("c²w² + w⁴", crossover, zeros(1), temperature, truth, 0, step)
    for sizes, truth in (((4, 3, 4), 6.0), ((2, 1, 5), 3.0)):
        name = "reduced rank {},{},{}".format(*sizes)
        losses, start = reduced_rank(*sizes)
        yield Case(name, losses, start, 145, truth, step=1.2e-4, steps=6000, relative=0.05)


def check() -> bool:
    print("| loss | nβ | truth | λ̂ | standard error | R̂ | h·nβ·a/4 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    good = True
    for case in cases():
        found = case.run(400)
        allowed = 3 * found.standard_error + 5e-4  # truths are rounded to three digits
        if case.relative:
            allowed = case.relative * case.truth
        right = abs(found.estimate - case.truth) <= allowed
        good &= right
        print(
            f"| {case.name} | {case.temperature:g} | {case.truth:g} | {found.estimate:.3f} | "
            f"{found.standard_error:.3f} | {found.r_hat:.3f} | {found.stiffness:.3f} |"
            + ("" if right else " WRONG"),
            flush=True,
        )
    return good


def cost() -> bool:
    print("| loss | nβ | one chain (ms a step) | 64 chains | ratio |\n|---|---:|---:|---:|---:|")
    good = True
    for case in cases():
        seconds: dict[int, list[float]] = {1: [], 64: []}
        for _ in range(5):
            for chains, found in seconds.items():
                start = time.process_time()
                case.run(chains, steps=300, burn_in=0)
                found.append(time.process_time() - start)
        one, many = (min(found) / 300 * 1e3 for found in seconds.values())
        good &= many <= 3 * one
        print(f"| {case.name} | {case.temperature:g} | {one:.2f} | {many:.2f} | {many / one:.2f} |")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cost", action="store_true", help="time 64 chains against one")
    torch.set_num_threads(1)
    return int(not (cost() if parser.parse_args().cost else check()))


if __name__ == "__main__":
    sys.exit(main())
