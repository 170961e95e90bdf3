"""What polykit asks of a pruner that removes whole units."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from polykit.api import StructuralPruner
from polykit.runtime.objectives import TaskLoss
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.testing.plugin import Plugin, answer_all, expect
from polykit.testing.samples import OUTPUTS, SHAPE, datasets, networks
from polykit.testing.state import unchanged
from polykit.types import Competition, Smaller

NETWORKS = ("mlp", "convnet")
"""The healthy networks: chains of layers."""


def density(plugin: Plugin, folder: Path) -> None:
    """The smaller network is one, and has the density asked for, as near as whole units allow."""
    pruner: StructuralPruner = plugin.create(folder)
    answer_all(
        (f"{setting}, density {wanted}", partial(setting.check, pruner, wanted, near=True))
        for setting in _settings()
        for wanted in (0.5, 0.3)
    )


def choices(plugin: Plugin, folder: Path) -> None:
    """Every choice that an option offers gives a smaller network, too."""
    setting = next(_settings())
    answer_all(
        (label, partial(setting.check, pruner, 0.5, near=False))
        for label, pruner in plugin.variants(folder)
    )


def deterministic(plugin: Plugin, folder: Path) -> None:
    """The generator's seed decides: the same one gives the same network, whatever else is drawn."""
    pruner: StructuralPruner = plugin.create(folder)

    def check(setting: _Setting) -> None:
        first = setting.shrink(pruner, 0.5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            second = setting.shrink(pruner, 0.5)
        same = all(
            name in second.units and torch.equal(units, second.units[name])
            for name, units in first.units.items()
        )
        expect(same, "two runs with the same generator kept different units")
        states = (small.model.state_dict() for small in (first, second))
        same = all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
        expect(same, "two runs with the same generator gave different parameters")

    answer_all((str(setting), partial(check, setting)) for setting in _settings())


class _Setting:
    """A network, and what competes in it."""

    def __init__(self, network: str, competition: Competition) -> None:
        self._label = f"{network}, {competition}"
        self._model = networks()[network]
        self._data = datasets()["classes"]
        self._trace = trace(self._model, torch.zeros(1, *SHAPE))
        self._candidates = candidates(self._model, self._trace, "unit", competition)

    def __str__(self) -> str:
        return self._label

    def shrink(self, pruner: StructuralPruner, wanted: float) -> Smaller:
        with unchanged(self._model):
            small: Any = pruner.shrink(
                self._model,
                TaskLoss(self._data.task),
                list(self._data.train.batches(10)),
                density=wanted,
                candidates=self._candidates,
                generator=torch.Generator().manual_seed(0),
            )
        expect(isinstance(small, Smaller), f"it returns a {type(small).__name__}, not a Smaller")
        return small  # type: ignore[no-any-return]

    def check(self, pruner: StructuralPruner, wanted: float, *, near: bool) -> None:
        small = self.shrink(pruner, wanted)
        self._check_network(small)
        self._check_units(small)
        if near:
            self._check_density(small, wanted)

    def _check_network(self, small: Smaller) -> None:
        """It runs, is in evaluation mode, and has no parameter in common with the user's."""
        old = {parameter.data_ptr() for parameter in self._model.parameters()}
        shared = [name for name, p in small.model.named_parameters() if p.data_ptr() in old]
        expect(not shared, f"the smaller network shares {', '.join(shared)} with the user's")
        flags = [name for name, module in small.model.named_modules() if module.training]
        expect(not flags, "the smaller network is in training mode, unlike the user's")
        x, _ = next(iter(self._data.train.batches(10)))
        with torch.no_grad():
            outputs = small.model(x)
        expected = (len(x), OUTPUTS)
        expect(outputs.shape == expected, f"outputs are {tuple(outputs.shape)}, not {expected}")
        expect(bool(torch.isfinite(outputs).all()), "outputs hold NaN or infinity")

    def _check_units(self, small: Smaller) -> None:
        """Its map names old units of every layer, and its counts are right."""
        modules = dict(small.model.named_modules())
        for name in self._trace.layers:
            expect(name in small.units, f"its map does not name layer {name!r}")
            kept, before = small.units[name].tolist(), self._trace.of(name)[0].units
            old = kept == sorted(set(kept)) and set(kept) <= set(range(before))
            expect(old, f"the map of layer {name!r} is {kept}: no ascending indices below {before}")
            weight = modules[name].get_parameter("weight")
            now = len(weight)
            expect(now == len(kept), f"layer {name!r} has {now} units, its map {len(kept)}")
        for what, said, model in (
            ("parameters", small.parameters, small.model),
            ("original", small.original, self._model),
        ):
            count = _size(model)
            expect(said == count, f"it says {what} = {said}, but there are {count}")

    def _check_density(self, small: Smaller, wanted: float) -> None:
        """Off by one unit, or by layer by one unit of each layer."""
        modules, layers = dict(self._model.named_modules()), self._trace.layers
        worth = []
        for name, after in itertools.pairwise(layers):
            read = modules[after].get_parameter("weight").numel()
            worth.append((_size(modules[name]) + read) / self._trace.of(name)[0].units)
        slack = sum(worth) if self._candidates.competition == "layer" else max(worth)
        expect(
            abs(small.parameters - wanted * small.original) <= slack,
            f"kept {small.parameters} of {small.original} parameters: further than whole units "
            f"({slack:g} parameters) from density {wanted}",
        )


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _settings() -> Iterator[_Setting]:
    for combination in itertools.product(NETWORKS, get_args(Competition)):
        yield _Setting(*combination)
