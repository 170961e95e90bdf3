"""Networks whose parts are known, to test what claims to find parts.

Pictures are vectors of eight types; each holds its type's own pattern and one that it shares with
its neighbour. An MLP has detectors of every pattern on paths of their own, beside hidden units
with random weights and dense noise everywhere, so that detectors can be made of anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.api import Pruner
from polykit.errors import ModelError
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import derive, generator
from polykit.types import UnitRef
from polykit.workflows.dissect.measures import measure
from polykit.workflows.dissect.parts import NEITHER, Aim, Pictures, Surgery, held_out_rows

Kind = Literal["two-path", "shared", "single", "entangled", "random", "other"]
"""How a unit comes to see two types of picture: on two paths of its own, or in another way.

`shared`: by the one pattern that both hold; `single`: it sees one of the two; `entangled`: a
readout of random hidden units fitted to both; `random`: random weights that respond to both most;
`other`: a two-path unit, but of two other types. Only the first has a part for each.
"""

LAYER = "4"
"""The layer that the planted units are in."""

TYPES, WIDTH, PER, FREE = 8, 48, 3, 24
_PATTERNS = TYPES + TYPES // 2
_NOISE = 0.4
_EACH = 4


@dataclass(frozen=True)
class PlantedUnit:
    """A unit of LAYER, how it came to be, and the two types of picture it is asked about."""

    index: int
    kind: Kind
    types: tuple[int, int]


@dataclass(frozen=True)
class Planted:
    """A network with planted units, and pictures `x [n, 48]` of types `y [n]` to ask it about."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    units: tuple[PlantedUnit, ...]


def planted(seed: int, *, pictures: int = 80, tie: float = 0.0) -> Planted:
    """Make a network with units of every kind, and `pictures` of each type.

    `tie` in [0, 1] is how far the strengths of a picture's two patterns go together: at 1 a
    detector of one pattern is as strong as one of the other, so that parts are hardest to tell.
    Networks in which a path fails to see its own pattern are drawn again.

    >>> network = planted(0, pictures=20)
    >>> network.x.shape, network.model(network.x).shape[1] == len(network.units)
    (torch.Size([160, 48]), True)
    """
    for turn in range(100):
        draw = _Draw(torch.Generator().manual_seed(derive(seed, "planted", turn)), pictures, tie)
        if (made := draw.network()) is not None:
            return made
    raise ModelError(f"no network of seed {seed} has working paths")


def part_scores(
    made: Planted, pruner: Pruner, density: float, aim: Aim = "contrast", seed: int = 0
) -> pd.DataFrame:
    """Cut every planted unit apart, and measure its two parts as a dissection does.

    One row per part: the unit's `index` and `kind`, and every statistic of a dissection.
    """
    path = trace(made.model, made.x)
    read = make_reader(made.model, path, LAYER)
    rows = []
    for unit in made.units:
        labels = torch.full_like(made.y, NEITHER)
        for cluster, kind in enumerate(unit.types):
            labels[made.y == kind] = cluster
        out = held_out_rows(labels, 0.5, generator(seed, "held out"))
        pictures = Pictures(made.x, torch.arange(len(made.x)), labels, out)
        for cluster in (0, 1):
            target = UnitRef(LAYER, unit.index)
            surgery = Surgery(made.model, path, read, target, pictures, cluster)
            mask = surgery.find(pruner, density, aim, generator(seed, "part"))
            found = measure(surgery, mask, np.random.default_rng(seed)).statistics
            rows.append({"index": unit.index, "kind": unit.kind, **found})
    return pd.DataFrame(rows)


class _Draw:
    """One attempt at a network."""

    def __init__(self, random: torch.Generator, pictures: int, tie: float) -> None:
        self.random = random
        self.y = torch.arange(TYPES).repeat_interleave(pictures)
        own, group = (F.normalize(self._normal(n, WIDTH), dim=1) for n in (TYPES, TYPES // 2))
        strength = torch.rand(len(self.y), 2, generator=random) * 0.5 + 0.75
        strength[:, 1] = tie * strength[:, 0] + (1 - tie) * strength[:, 1]
        self.patterns = torch.cat([own, group])
        noise = 0.6 / math.sqrt(WIDTH) * self._normal(len(self.y), WIDTH)
        self.x = strength[:, :1] * own[self.y] + strength[:, 1:] * group[self.y // 2] + noise
        self.works = True

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def _two(self, among: Tensor) -> tuple[int, int]:
        """Draw two types that share no pattern."""
        first, *rest = among[torch.randperm(len(among), generator=self.random)].tolist()
        return first, next(other for other in rest if other // 2 != first // 2)

    def network(self) -> Planted | None:
        """Return the network; None if a path does not work."""
        first, second = self._hidden()
        hidden = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        with torch.no_grad():
            self.values = hidden(self.x)
        rows, kinds = self._units()
        if not self.works:
            return None
        last = nn.Linear(second.out_features, len(rows))
        with torch.no_grad():
            last.weight.copy_(torch.stack(rows))
            last.bias.zero_()
        model = nn.Sequential(*hidden, last).eval().requires_grad_(False)
        units = tuple(PlantedUnit(i, kind, types) for i, (kind, types) in enumerate(kinds))
        return Planted(model, self.x, self.y, units)

    def _hidden(self) -> tuple[nn.Linear, nn.Linear]:
        """Two layers: PER units for each pattern, wired by pattern, then FREE random ones."""
        width = _PATTERNS * PER + FREE
        first, second = nn.Linear(WIDTH, width), nn.Linear(width, width)
        weights = (
            _NOISE * self._normal(width, WIDTH) / math.sqrt(WIDTH),
            _NOISE * self._normal(width, width) * math.sqrt(2 / width),
        )
        weights[0][-FREE:] *= 2 / _NOISE
        weights[1][-FREE:] *= 1.4 / _NOISE
        biases = torch.zeros(width), torch.zeros(width)
        for number, pattern in enumerate(self.patterns):
            rows = _path(number)
            weights[0][rows] += pattern * (1 + 0.3 * self._normal(PER, 1))
            weights[1][rows, rows] += 0.8 * torch.rand(PER, PER, generator=self.random)
            biases[0][rows], biases[1][rows] = -0.3, -0.1
        with torch.no_grad():
            for layer, weight, bias in zip((first, second), weights, biases, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        return first, second

    def _units(self) -> tuple[list[Tensor], list[tuple[Kind, tuple[int, int]]]]:
        every = torch.arange(TYPES)
        rows: list[Tensor] = []
        kinds: list[tuple[Kind, tuple[int, int]]] = []

        def add(kind: Kind, row: Tensor, types: tuple[int, int]) -> None:
            rows.append(row)
            kinds.append((kind, types))

        for _ in range(_EACH):
            a, b = self._two(every)
            both = self._reads(a) + self._reads(b)
            add("two-path", both + self._dense(), (a, b))
            add("single", self._reads(a) + self._dense(), (a, b))
            rest = every[(every != a) & (every != b)]
            add("other", both + self._dense(), self._two(rest))
            add("entangled", self._fitted(*(types := self._two(every))) + self._dense(), types)
            row = self._normal(self.values.shape[1]) / math.sqrt(self.values.shape[1])
            add("random", row, self._preferred(row))
        for group in range(TYPES // 2):
            add("shared", self._reads(TYPES + group) + self._dense(), (2 * group, 2 * group + 1))
        return rows, kinds

    def _dense(self) -> Tensor:
        """Weak weights to everything."""
        return 0.15 * _NOISE * self._normal(self.values.shape[1])

    def _reads(self, pattern: int) -> Tensor:
        """Weights to a pattern's path, scaled to a response of 1."""
        row = torch.zeros(self.values.shape[1])
        row[_path(pattern)] = 0.4 + 0.6 * torch.rand(PER, generator=self.random)
        response = self.values @ row
        own = self.y == pattern if pattern < TYPES else self.y // 2 == pattern - TYPES
        gap = response[own].mean() - response[~own].mean()
        self.works &= bool(gap > 1.5 * (response[~own].std() + 0.1))
        scaled: Tensor = row / gap
        return scaled

    def _fitted(self, a: int, b: int) -> Tensor:
        """A ridge regression on the random hidden units."""
        target = ((self.y == a) | (self.y == b)).float()
        free = self.values[:, -FREE:] - self.values[:, -FREE:].mean(0)
        gram = free.T @ free + 3 * torch.eye(FREE)
        row = torch.zeros(self.values.shape[1])
        row[-FREE:] = torch.linalg.solve(gram, free.T @ (target - target.mean()))
        return row

    def _preferred(self, row: Tensor) -> tuple[int, int]:
        """The two types that a unit responds to most."""
        means = torch.stack([(self.values @ row)[self.y == t].mean() for t in range(TYPES)])
        a, b = means.topk(2).indices.tolist()
        return a, b


def _path(pattern: int) -> slice:
    """Where the hidden units of a pattern are."""
    return slice(pattern * PER, (pattern + 1) * PER)
