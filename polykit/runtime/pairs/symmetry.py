"""Which units of a network may change places without changing what it computes.

Two networks that were trained apart have their units in different orders. A permutation of a
layer's units, carried through every tensor that reads or writes them, is another network with the
same function.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.coupling import OUTPUTS, TROUBLE, Coupling, Cut, Side, couple
from polykit.runtime.pruning.structure import axes
from polykit.runtime.seeds import generator

State = Mapping[str, Tensor]
"""Tensors by name, as `state_dict` gives them."""


@dataclass(frozen=True)
class Slot:
    """Where a symmetry's units are in one tensor: unit u has `places[u]`, `(k,)`, along `axis`."""

    name: str
    axis: int
    places: Tensor


@dataclass(frozen=True)
class Symmetry:
    """Units that may change places: those of `layers`, in all tensors of `slots` at once."""

    layers: tuple[str, ...]
    slots: tuple[Slot, ...]

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.slots[0].places)

    def tensors(self) -> tuple[str, ...]:
        """The tensors that a permutation touches, each once."""
        return tuple(dict.fromkeys(slot.name for slot in self.slots))


@dataclass(frozen=True)
class Symmetries:
    """All symmetries of a network, in order of the forward pass.

    `fixed` says of other hidden layers why their units stay where they are.
    """

    groups: tuple[Symmetry, ...]
    fixed: Mapping[str, str]

    def identity(self) -> tuple[Tensor, ...]:
        """The permutations that move nothing."""
        return tuple(torch.arange(group.size) for group in self.groups)

    def random(self, random: torch.Generator) -> tuple[Tensor, ...]:
        """Permutations drawn uniformly."""
        return tuple(torch.randperm(group.size, generator=random) for group in self.groups)

    def permute(self, state: State, permutations: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return `state` with unit `permutations[g][i]` in place of unit i, in each group g.

        Tensors that no symmetry touches are handed on as they are.
        """
        return permute(state, self.groups, permutations)


def symmetries(model: nn.Module, example: Tensor) -> Symmetries:
    """Find the symmetries of `model`, which is left as it was.

    The units that torch-pruning finds to go together change places together. Each group is tried
    once on `example`, some inputs `[n, *shape]`: where a random permutation changes the output
    (a group normalisation, a reordering of channels, shared weights), its units count as fixed.
    Running statistics of batch normalisations move with their units.

    Raises ModelError for a network that torch-pruning cannot trace.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> [(group.layers, group.tensors()) for group in symmetries(model, torch.zeros(3, 2)).groups]
    [(('0',), ('0.weight', '0.bias', '2.weight'))]
    """
    coupling = couple(model, example)
    probe = copy.deepcopy(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    groups = []
    fixed = {layer: why for layer, why in coupling.stays.items() if why != OUTPUTS}
    with evaluating(probe), torch.no_grad():
        device = next((p.device for p in probe.parameters()), torch.device("cpu"))
        x = example[:16].to(device)
        expected = probe(x)
        for group, cuts in zip(coupling.groups, coupling.cuts, strict=True):
            symmetry, reason = _symmetry(group.layers, cuts, coupling, state)
            if symmetry is not None:
                reason = _problem(probe, x, expected, state, symmetry)
            if symmetry is None or reason:
                fixed |= dict.fromkeys(group.layers, reason)
            else:
                groups.append(symmetry)
    fixed |= dict.fromkeys(coupling.unreached, "evaluation does not reach it")
    return Symmetries(tuple(groups), fixed)


def permute(
    state: State, groups: Sequence[Symmetry], permutations: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return `state` with the units of `groups` in another order; see `Symmetries.permute`.

    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> found = symmetries(model, torch.ones(1, 1)).groups
    >>> state = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.tensor([[3.0, 4.0]])}
    >>> permute(state, found, [torch.tensor([1, 0])])["1.weight"]
    tensor([[4., 3.]])
    """
    moved = dict(state)
    for group, permutation in zip(groups, permutations, strict=True):
        for slot in group.slots:
            if slot.name in moved:
                moved[slot.name] = move(moved[slot.name], slot, permutation)
    return moved


def move(tensor: Tensor, slot: Slot, permutation: Tensor) -> Tensor:
    """Return a tensor with its units in another order along the slot's axis."""
    index = torch.arange(tensor.shape[slot.axis])
    index[slot.places.flatten()] = slot.places[permutation].flatten()
    return tensor.index_select(slot.axis, index.to(tensor.device))


def _symmetry(
    layers: tuple[str, ...], cuts: Sequence[Cut], coupling: Coupling, state: State
) -> tuple[Symmetry | None, str]:
    """Return the symmetry of a group, or why there is none."""
    pairs: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for cut in cuts:
        found = set(zip(cut.units.tolist(), cut.places.tolist(), strict=True))
        for name, axis in [*axes(coupling, cut), *_statistics(coupling, cut)]:
            pairs.setdefault((name, axis % state[name].dim()), set()).update(found)
    size = len({unit for found in pairs.values() for unit, _ in found})
    slots = []
    for (name, axis), found in pairs.items():
        places = torch.tensor([place for _, place in sorted(found)])
        even = len(places) % size == 0 and len(places.unique()) == len(places)
        parts = places.view(size, -1) if even else places
        units = [unit for unit, _ in sorted(found)]
        if not even or units != sorted(list(range(size)) * parts.shape[1]):
            return None, f"not all of its units take part in {name} alike"
        slots.append(Slot(name, axis, parts))
    return Symmetry(layers, tuple(slots)), ""


def _statistics(coupling: Coupling, cut: Cut) -> list[tuple[str, int]]:
    """Buffers of one number per unit: the running statistics of a normalisation."""
    modules = dict(coupling.twin.named_modules())
    if cut.side != Side.BOTH or cut.module not in modules:
        return []
    buffers = modules[cut.module].named_buffers(recurse=False)
    return [(f"{cut.module}.{name}".lstrip("."), 0) for name, b in buffers if b.dim() == 1]


def _problem(
    probe: nn.Module, x: Tensor, expected: Tensor, state: State, symmetry: Symmetry
) -> str:
    """Say why a symmetry is none, by trying it."""
    random = torch.randperm(symmetry.size, generator=generator(0, "symmetry", *symmetry.layers))
    try:
        probe.load_state_dict(permute(state, [symmetry], [random]))
        found = probe(x)
    except TROUBLE as error:
        raise ModelError(f"units of {symmetry.layers[0]!r} cannot change places: {error}") from None
    allowed = 4 * torch.finfo(found.dtype).eps ** 0.5 * float(expected.abs().max())
    same = torch.allclose(found, expected, rtol=0, atol=allowed)
    return "" if same else "the network computes something else when its units change places"
