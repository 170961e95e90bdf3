"""How many weights a network needs by one pruner: along a trajectory, or by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polykit.api import Pruner, SaliencyPruner
from polykit.runtime.blame import blaming
from polykit.runtime.pruning.bisection import crossing
from polykit.runtime.pruning.masking import masked
from polykit.runtime.pruning.trajectory import Trajectory, doubts, evaluate_steps, removal
from polykit.runtime.seeds import generator
from polykit.runtime.training.loop import evaluate
from polykit.types import Data, Mask
from polykit.workflows.density.network import Network
from polykit.workflows.density.setup import ranks


@dataclass(frozen=True)
class Followed:
    """The steps that were looked at, rising from 0, and what was found at each.

    `searched` says that steps between them were left out, by bisection.
    """

    pruner: str
    steps: tuple[int, ...]
    found: Trajectory
    searched: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """One row for each step."""
        found = self.found
        unknown = torch.full_like(found.loss, math.nan)
        accuracy = unknown if found.accuracy is None else found.accuracy
        columns = (found.kept, found.densities, found.loss, accuracy)
        names = ("kept", "density", "loss", "accuracy")
        return [
            {"pruner": self.pruner, "step": step, **dict(zip(names, values, strict=True))}
            for step, *values in zip(self.steps, *(c.tolist() for c in columns), strict=True)
        ]

    def effective(self, drop: float | None, rise: float | None) -> dict[str, Any]:
        """The effective density and the size of the core; missing if nothing ever crossed.

        Along a trajectory that is the first step beyond the threshold, as the paper counts. Of
        subnetworks sought one by one it is the smallest that stays within.
        """
        found = self.found
        step = found.effective_step(drop=drop, rise=rise)
        if step is not None and self.searched:
            step -= 1
        return {
            "pruner": self.pruner,
            "parameters": found.total,
            "core": math.nan if step is None else float(found.kept[step]),
            "density": math.nan if step is None else float(found.densities[step]),
        }


def follow(network: Network, label: str) -> Followed:
    """Prune and evaluate a network, by all steps if one ranking gives them, else by bisection."""
    pruner = network.setup.pruners[label].instance
    return (_trajectory if ranks(pruner) else _search)(network, label, pruner)


def doubtful(network: Network, followed: Followed) -> list[str]:
    """Say what makes the effective density mean little."""
    config = network.setup.config
    targets = torch.cat([y for _, y in network.data.validation.batches(4096)])
    lines = doubts(followed.found, targets, network.classes, drop=config.fall, rise=config.rise)
    return [f"{followed.pruner}: {line}" for line in lines]


def _trajectory(network: Network, label: str, pruner: SaliencyPruner) -> Followed:
    """Score the network once, and evaluate every step."""
    setup, cut = network.setup, network.kind.candidates
    with blaming(pruner):
        scores = pruner.scores(
            network.model,
            setup.objective,
            network.samples(),
            candidates=cut,
            mask=cut.full(),
            generator=generator(network.cell.seed, "prune", label),
        )
    found = evaluate_steps(
        network.model,
        network.data.validation,
        network.data.task,
        removal(scores, setup.config.step),
        device=setup.device,
        flops=network.kind.trace.flops,
        batch_size=setup.config.eval_batch_size,
    )
    return Followed(label, tuple(range(len(found.kept))), found)


def _search(network: Network, label: str, pruner: Pruner) -> Followed:
    """Ask for a subnetwork at one density after the other, until two neighbours differ.

    A pruner that trains starts from the network's start, and its subnetwork is trained as the
    whole network was.
    """
    config, cut = network.setup.config, network.kind.candidates
    data, device = network.data, network.setup.device
    start = network.prepared(label, pruner)
    looked: dict[int, tuple[int, float, float | None]] = {}

    def look(step: int) -> None:
        model, mask = network.model, cut.full()
        if step == network.setup.last:
            mask = cut.mask({name: ~cut.eligible_elements(name) for name in cut.shapes})
        elif step:
            mask = network.prune(label, pruner, start, 1 - step * config.step)
            model = network.train(start, mask) if pruner.trains else start
        looked[step] = (mask.kept, *_evaluated(model, mask, data, device, config.eval_batch_size))

    def within(step: int) -> bool:
        look(step)
        return path([0, step]).effective_step(drop=config.fall, rise=config.rise) is None

    def path(steps: list[int]) -> Trajectory:
        kept, loss, accuracy = zip(*(looked[step] for step in steps), strict=True)
        shares = None if None in accuracy else torch.tensor(accuracy, dtype=torch.double)
        return Trajectory(
            torch.tensor(kept), looked[0][0], torch.tensor(loss, dtype=torch.double), shares
        )

    look(0)
    crossing(network.setup.last, within)
    steps = sorted(looked)
    return Followed(label, tuple(steps), path(steps), searched=True)


def _evaluated(
    model: nn.Module, mask: Mask, data: Data, device: torch.device, batch_size: int
) -> tuple[float, float | None]:
    with masked(model, mask):
        return evaluate(model, data.validation, data.task, device, batch_size)
