"""What polykit asks of a pruner."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from polykit.api import Pruner, StructuralPruner
from polykit.runtime.objectives import TaskLoss, parse_objective
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import apply_mask, candidates
from polykit.testing import structural
from polykit.testing.plugin import Plugin, answer_all, expect
from polykit.testing.samples import SHAPE, datasets, networks
from polykit.testing.state import unchanged
from polykit.types import Candidates, Competition, Data, Granularity, Mask, Objective

UNITS = {"mlp": "3:1", "convnet": "2:1"}
"""A unit of each healthy network, to preserve."""


def density(plugin: Plugin, folder: Path) -> None:
    """The mask has the density asked for, to ±1 element, in every granularity and competition.

    Asked for density 1, a pruner keeps everything, or as much as it likes if it chooses_density.
    """
    if _structural(plugin):
        structural.density(plugin, folder)
        return
    pruner: Pruner = plugin.create(folder)
    answer_all(
        (f"{setting}, density {wanted}", partial(_check_density, pruner, setting, wanted))
        for setting in _settings(*UNITS)
        for wanted in (1.0, 0.5, 0.1)
    )


def choices(plugin: Plugin, folder: Path) -> None:
    """Every choice that an option offers gives such a mask, too."""
    if _structural(plugin):
        structural.choices(plugin, folder)
        return
    setting = next(_settings(*UNITS))
    answer_all(
        (label, partial(_check_density, pruner, setting, 0.3))
        for label, pruner in plugin.variants(folder)
    )


def deterministic(plugin: Plugin, folder: Path) -> None:
    """The generator's seed decides: the same one gives the same mask, whatever else is drawn."""
    if _structural(plugin):
        structural.deterministic(plugin, folder)
        return
    pruner: Pruner = plugin.create(folder)

    def check(setting: _Setting) -> None:
        first = setting.prune(pruner, 0.3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            second = setting.prune(pruner, 0.3)
        expect(first == second, "two runs with the same generator gave different masks")

    answer_all((str(setting), partial(check, setting)) for setting in _settings("convnet"))


def _structural(plugin: Plugin) -> bool:
    """Whether the pruner gives a smaller network, which is judged by checks of its own."""
    return issubclass(plugin.found.options, StructuralPruner)


class _Setting:
    """A network, what to preserve, and what may go."""

    def __init__(
        self, network: str, granularity: Granularity, competition: Competition, unit: bool = False
    ) -> None:
        self._label = f"{network}, {granularity}s, {competition}{', unit' * unit}"
        self._model = networks()[network]
        self._data = datasets()["classes"]
        found = trace(self._model, torch.zeros(1, *SHAPE))
        self._objective: Objective = TaskLoss(self._data.task)
        if unit:
            self._objective = parse_objective(UNITS[network], self._data.task, found)
        target = self._objective.target
        self.candidates = candidates(self._model, found, granularity, competition, target=target)

    def __str__(self) -> str:
        return self._label

    def prune(self, pruner: Pruner, wanted: float) -> Mask:
        batches = list(self._data.train.batches(10))
        draw = torch.Generator().manual_seed(0)
        train = partial(_trained, self._data)
        with unchanged(self._model):
            started = pruner.prepare(
                self._model, candidates=self.candidates, generator=draw, train=train
            )
            shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (self._model, started)]
            expect(shapes[0] == shapes[1], "it starts from a network of another shape")
            with unchanged(started):
                return pruner.prune(
                    started,
                    self._objective,
                    batches,
                    density=wanted,
                    candidates=self.candidates,
                    generator=draw,
                    train=train,
                )


def _settings(*networks: str) -> Iterator[_Setting]:
    """Every granularity and competition, and a unit to preserve, on each of the networks."""
    combinations = itertools.product(networks, get_args(Granularity), get_args(Competition))
    yield from (_Setting(*combination) for combination in combinations)
    yield from (_Setting(network, "weight", "global", unit=True) for network in networks)


def _trained(data: Data, model: nn.Module, mask: Mask, *, epochs: int | None = None) -> nn.Module:
    """A few steps of masked gradient descent on a copy, in one epoch by default."""
    network = copy.deepcopy(model)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    objective = TaskLoss(data.task)
    for x, y in list(data.train.batches(10)) * (1 if epochs is None else epochs):
        apply_mask(network, mask)
        optimizer.zero_grad()
        with torch.enable_grad():
            objective.values(network, x, y).mean().backward()
        optimizer.step()
    apply_mask(network, mask)
    return network.eval()


def _check_density(pruner: Pruner, setting: _Setting, wanted: float) -> None:
    mask, cut = setting.prune(pruner, wanted), setting.candidates
    full = cut.full()
    expect(list(mask) == list(full), f"the mask covers {list(mask)}, not {list(full)}")
    for name in full:
        expect(mask[name].shape == full[name].shape, f"the mask of {name} has the wrong shape")
        same = torch.equal(mask.eligible(name), full.eligible(name))
        expect(same, f"the mask says that other parts of {name} are eligible")
        expect(bool((mask[name] | full.eligible(name)).all()), f"ineligible parts of {name} went")
    expect(cut.mask(cut.elements(mask)) == mask, f"{cut.granularity}s were removed in part")
    if pruner.chooses_density and wanted == 1:
        expect(0 < mask.density <= 1, f"density is {mask.density}")
    else:
        _expect_density(mask, cut, wanted)


def _expect_density(mask: Mask, cut: Candidates, wanted: float) -> None:
    for group in cut.groups:
        size = max(cut.element_size(name) for name in group)
        names = [*group, *(cut.biases[name] for name in group if name in cut.biases)]
        total = sum(int(mask.eligible(name).sum()) for name in names)
        kept = sum(int((mask[name] & mask.eligible(name)).sum()) for name in names)
        expect(
            abs(kept - wanted * total) <= size,
            f"kept {kept} of {total} parameters in {', '.join(group)}: further than one element "
            f"({size} parameters) from density {wanted}",
        )


CHECKS: tuple[Callable[[Plugin, Path], None], ...] = (density, choices, deterministic)
