"""Dropout for networks that train together: each draws what it would draw alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod

import torch
from torch import Tensor, nn

STEPS = 8
"""Training steps whose dropout is drawn at once."""

THREADS = 2
"""Threads that draw: torch lets go of the interpreter meanwhile."""


class Noise(nn.Module):
    """Stands in for a dropout: multiplies by noise that was drawn for it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.shape: tuple[int, ...] = ()  # of one sample, once one has passed
        self.register_buffer("noise", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in training, pass on otherwise."""
        self.shape = tuple(x.shape[1:])
        return x * self.get_buffer("noise") if self.training else x


def replace_dropout(model: nn.Module) -> dict[str, Noise]:
    """Put noise in the place of each dropout of `model`; return it by name, in order."""
    places = [(n, m.p) for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    noises = {f"{name}.noise": Noise(p) for name, p in places}
    for name, noise in noises.items():
        model.set_submodule(name.removesuffix(".noise"), noise)
    return noises


@torch.no_grad()
def dropout_shapes(model: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Return the shape of one sample where each dropout of a network stands."""
    probe = copy.deepcopy(model).eval()
    noises = replace_dropout(probe)
    probe(x)
    return [noise.shape for noise in noises.values()]


class Dropouts:
    """The noise of all members of an ensemble, in an epoch.

    `nn.Dropout` compares one uniform double for each place with the share to keep. Drawing those
    of several steps at once gives the same values in less than half the time.
    """

    def __init__(
        self, noises: Mapping[str, Noise], shapes: Sequence[Sequence[tuple[int, ...]]]
    ) -> None:
        self._keep = {name: 1 - noise.p for name, noise in noises.items()}
        self._shapes = shapes
        self._widest = [
            [max(lengths) for lengths in zip(*place, strict=True)]
            for place in zip(*shapes, strict=True)
        ]
        self._sizes = [sum(prod(shape) for shape in member) for member in shapes]

    def steps(
        self, generators: Sequence[torch.Generator], rows: Sequence[int]
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the noise of each step, by module: `[members, rows, *shape]`, padded with zeros.

        `generators` are the members' own; `rows` are the batch sizes of the steps.
        """
        if not self._keep:
            yield from ({} for _ in rows)
            return
        with ThreadPoolExecutor(THREADS) as threads:
            for start in range(0, len(rows), STEPS):
                block = rows[start : start + STEPS]

                def draw(member: int, count: int = sum(block)) -> Tensor:
                    uniform = torch.empty(count * self._sizes[member], dtype=torch.double)
                    return uniform.uniform_(generator=generators[member])

                drawn = list(threads.map(draw, range(len(generators))))
                places = [0] * len(generators)
                for count in block:
                    yield self._step(drawn, places, count)

    def _step(self, drawn: Sequence[Tensor], places: list[int], rows: int) -> dict[str, Tensor]:
        """Cut one step's noise out of what was drawn, and go on behind it."""
        found = {}
        for index, (name, keep) in enumerate(self._keep.items()):
            values = torch.zeros(len(drawn), rows, *self._widest[index])
            for member, uniform in enumerate(drawn):
                shape = self._shapes[member][index]
                end = places[member] + rows * prod(shape)
                own = values[member][(slice(None), *(slice(length) for length in shape))]
                torch.lt(uniform[places[member] : end].view(rows, *shape), keep, out=own)
                places[member] = end
            found[name] = values.div_(keep) if keep else values
        return found
