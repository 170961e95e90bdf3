"""Dropout for networks that train together: each draws what it would draw alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polykit.runtime.passes.trace import trace


class Noise(nn.Module):
    """Stands in for the dropouts at one place of all members: `kept` says what passes."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.keep = 1 - p
        self.kept = torch.ones((), dtype=torch.bool)

    def forward(self, x: Tensor) -> Tensor:
        """Keep some and scale them up in training, pass all on otherwise."""
        if not self.training:
            return x
        return x * self.kept.to(x).div_(self.keep or 1)


def replace_dropout(model: nn.Module) -> dict[str, Noise]:
    """Put noise in the place of each dropout of `model`; return it by name, in order."""
    places = [(n, m.p) for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    noises = {name: Noise(p) for name, p in places}
    for name, noise in noises.items():
        model.set_submodule(name, noise)
    return noises


class Dropouts:
    """The noise of all members of an ensemble.

    `nn.Dropout` compares one uniform double for each place with the share to keep. So does this,
    for all members at once, in less than half the time; narrower members leave room.
    """

    def __init__(self, noises: dict[str, Noise], members: Sequence[nn.Module], x: Tensor) -> None:
        """Learn from one sample `x` how wide each member is where the dropouts stand."""
        self._noises = list(noises.values())
        shapes = [_shapes(member, list(noises), x) for member in members] if noises else []
        self._shapes = list(zip(*shapes, strict=True))
        self._uniform = [torch.empty(0, dtype=torch.double) for _ in self._noises]

    def draw(self, generators: Sequence[torch.Generator], rows: int) -> None:
        """Draw the noise of one step of `rows` samples, from the members' own `generators`."""
        for index, (noise, shapes) in enumerate(zip(self._noises, self._shapes, strict=True)):
            if self._uniform[index].shape[1:2] != (rows,):
                widest = [max(lengths) for lengths in zip(*shapes, strict=True)]
                size = len(shapes), rows, *widest
                self._uniform[index] = torch.zeros(size, dtype=torch.double)
            uniform = self._uniform[index]
            for member, (shape, draw) in enumerate(zip(shapes, generators, strict=True)):
                own = uniform[member][(slice(None), *(slice(length) for length in shape))]
                own.uniform_(generator=draw)
            noise.kept = uniform < noise.keep


def _shapes(model: nn.Module, names: Sequence[str], x: Tensor) -> list[tuple[int, ...]]:
    """The shape of one sample where each of the named modules stands."""
    passed = trace(model, x)
    return [passed.of(name)[0].shape for name in names]
