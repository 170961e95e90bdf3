"""Weight matching: the order of one network's units that brings it nearest to another.

Source: Ainsworth et al. 2023, Git re-basin, arXiv:2209.04836, §3.2 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from polykit.errors import ModelError
from polykit.runtime.pairs.symmetry import Slot, State, Symmetries, Symmetry, move, permute

_ROUNDS = 1000
"""Rounds over all layers at most; a handful is usual."""


@dataclass(frozen=True)
class Match:
    """Permutations of B's units, one for each symmetry, and how near to A they bring it.

    `distance` is the L2 norm of A − permuted B over all parameters, `unmatched` that of A − B,
    `tries` the distance that each start came to: `distance` is their minimum.
    """

    permutations: tuple[Tensor, ...]
    distance: float
    unmatched: float
    tries: tuple[float, ...]


def match(
    a: State, b: State, symmetries: Symmetries, *, starts: int = 5, random: torch.Generator
) -> Match:
    """Permute the units of the network with parameters `b` to bring it as near to `a` as can be.

    Coordinate descent: symmetry by symmetry, in random order, the best assignment of units with
    all others held fixed, by the similarity Σ ⟨A's, B's⟩ over every tensor that the units have a
    part in, biases too; until a whole round gains nothing. The end depends on the start and the
    order: the first of `starts` begins with the units as they are, the others from random orders,
    and the nearest wins. `a` and `b` are parameters by name, of equal shapes; float64 inside.

    Memory: both networks in float64 and one matrix of units × units. Time: cubic in the width of
    a layer, a fifth of a second at 1,000 units.

    Raises ModelError where a shape differs, with the first tensor that does.

    >>> from torch import nn
    >>> from polykit.runtime.pairs.symmetry import symmetries
    >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> found, a = symmetries(model, torch.ones(2, 3)), dict(model.named_parameters())
    >>> b = found.permute(a, [torch.tensor([4, 2, 0, 1, 3])])
    >>> match(a, b, found, random=torch.Generator().manual_seed(0)).permutations[0].tolist()
    [2, 3, 1, 4, 0]
    """
    if (found := first_difference(a, b)) is not None:
        raise ModelError(found)
    ours, theirs = _double(a), _double(b)
    tries = []
    for start in range(starts):
        first = symmetries.random(random) if start else symmetries.identity()
        permutations = _descend(ours, theirs, symmetries.groups, list(first), random)
        tries.append((apart(ours, symmetries.permute(theirs, permutations)), permutations))
    distance, best = min(tries, key=lambda found: found[0])
    return Match(tuple(best), distance, apart(ours, theirs), tuple(d for d, _ in tries))


def first_difference(a: State, b: State) -> str | None:
    """Say where two networks first differ in shape; None where they do not.

    >>> first_difference({"0.weight": torch.zeros(4, 2)}, {"0.weight": torch.zeros(3, 2)})
    'the networks differ in shape: first at 0.weight, 4×2 and 3×2'
    """
    for name in dict.fromkeys([*a, *b]):
        ours, theirs = (
            "×".join(map(str, state[name].shape)) or "a number" if name in state else "missing"
            for state in (a, b)
        )
        if ours != theirs:
            return f"the networks differ in shape: first at {name}, {ours} and {theirs}"
    return None


def _descend(
    a: State,
    b: State,
    groups: Sequence[Symmetry],
    permutations: list[Tensor],
    random: torch.Generator,
) -> list[Tensor]:
    """Improve `permutations` in place, one group at a time, until nothing is gained."""
    for _ in range(_ROUNDS):
        gained = False
        for place in torch.randperm(len(groups), generator=random).tolist():
            before, old = _similarity(a, b, groups, permutations, place), permutations[place]
            costs = _costs(a, b, groups, permutations, place)
            permutations[place] = torch.from_numpy(linear_sum_assignment(costs, maximize=True)[1])
            # measured anew, since a group that meets itself in a tensor is no linear assignment
            gain = _similarity(a, b, groups, permutations, place) - before
            if gain > 1e-10 * max(1.0, abs(before)):
                gained = True
            else:
                permutations[place] = old
        if not gained:
            break
    return permutations


def _costs(
    a: State, b: State, groups: Sequence[Symmetry], permutations: Sequence[Tensor], place: int
) -> Tensor:
    """How well each of B's units would fit in place of each of A's: `[units, units]`."""
    group = groups[place]
    total = torch.zeros(group.size, group.size, dtype=torch.double)
    for slot in group.slots:
        if slot.name not in a:
            continue  # statistics, which training does not set
        moved = _moved(b[slot.name], groups, permutations, slot)
        total += _by_unit(a[slot.name], slot) @ _by_unit(moved, slot).T
    return total


def _moved(
    tensor: Tensor, groups: Sequence[Symmetry], permutations: Sequence[Tensor], but: Slot
) -> Tensor:
    """Permute one of B's tensors along every axis but the one of a slot."""
    for group, permutation in zip(groups, permutations, strict=True):
        for slot in group.slots:
            if slot.name == but.name and slot is not but:
                tensor = move(tensor, slot, permutation)
    return tensor


def _by_unit(tensor: Tensor, slot: Slot) -> Tensor:
    """One row for each unit, with all that a tensor holds of it."""
    return tensor.movedim(slot.axis, 0)[slot.places].flatten(1)


def _similarity(
    a: State, b: State, groups: Sequence[Symmetry], permutations: Sequence[Tensor], place: int
) -> float:
    """Σ ⟨A's, permuted B's⟩ over the tensors in which one group has a part."""
    names = [name for name in groups[place].tensors() if name in a]
    moved = permute({name: b[name] for name in names}, groups, permutations)
    return sum(float((a[name] * moved[name]).sum()) for name in names)


def apart(a: State, b: State) -> float:
    """Return the L2 distance of two networks' parameters.

    >>> apart({"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 4.0])})
    5.0
    """
    return math.sqrt(sum(float((a[name] - b[name]).square().sum()) for name in a))


def _double(state: State) -> dict[str, Tensor]:
    return {name: value.detach().cpu().double() for name, value in state.items()}
