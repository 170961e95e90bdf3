"""Removes whole units: from a network and what may stay of it to a smaller network.

Removing a unit means that nothing reads it any more. The smaller network computes exactly what
the original computes when the layers that read the removed units see zeros in their places (the
outgoing weights set to zero). Where only functions with σ(0) = 0 (ReLU, dropout, pooling) lie
between, that is the same as setting the units' own weights and biases to zero. Behind a batch
normalisation it is not: there a silent unit still gives the constant β − γμ/√(σ² + ε), which goes
with the unit. Layer and group normalisation mix the units of a layer, so that the ones that stay
change, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from polykit.errors import ModelError, UsageError, did_you_mean
from polykit.runtime import seeds
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.coupling import (
    CONV_OR_LINEAR,
    OUTPUTS,
    TROUBLE,
    Borrowed,
    Coupling,
    Cut,
    Group,
    Side,
    couple,
    share,
    strangers,
)
from polykit.types import Smaller

__all__ = [
    "OUTPUTS",
    "Borrowed",
    "Group",
    "Structure",
    "axes",
    "groups",
    "keep_units",
    "random_like",
]

_MIXING = (nn.LayerNorm, nn.GroupNorm)
"""Modules after which the units that stay change when others go."""

_Removed = Mapping[tuple[str, Side, Any, int], set[int]]
"""What goes: module, side, torch-pruning's function for it and its axis → places."""


def groups(model: nn.Module, example: Tensor) -> tuple[Group, ...]:
    """Return which units go together, in order of the forward pass; the model is not touched.

    `example` is any input. The layer that makes the output is left out. Raises ModelError for a
    network that torch-pruning cannot trace.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(3, 1))
    >>> [(group.layers, group.size) for group in groups(model, torch.zeros(1, 2))]
    [(('0',), 4), (('2',), 3)]
    """
    return couple(model, example).groups


def keep_units(
    model: nn.Module, example: Tensor, keep: Mapping[str, Tensor], *, allow_empty: bool = False
) -> Smaller:
    """Return a copy of `model` with only the units `keep[layer]` (indices) of those layers.

    Layers that are not named keep all their units, but follow the layers they are coupled with;
    so `Smaller.units` of one network can be handed on to another of the same shape. Parameters
    keep their `requires_grad`, modules their training flags; gradients are not copied. What the
    smaller network computes is said at the top of this module, and checked here on random inputs.

    Raises UsageError for a layer or unit that does not exist or must stay, for coupled layers
    that disagree, and for an empty layer (which `allow_empty` lets pass where the network can run
    so); ModelError where torch-pruning gets the wiring wrong.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> small = keep_units(model, torch.zeros(1, 2), {"0": torch.tensor([1, 3])})
    >>> small.model[2], small.parameters, small.original
    (Linear(in_features=2, out_features=1, bias=True), 9, 17)
    """
    structure = Structure(model, example)
    return structure.smaller(structure.kept(keep), allow_empty=allow_empty)


def random_like(
    units: Mapping[str, Tensor], groups: Iterable[Group], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return a random choice with as many units in each group as `units` (of a Smaller) has.

    >>> random = random_like({"0": torch.arange(3)}, [Group(("0",), ("2",), 9)],
    ...     torch.Generator().manual_seed(0))
    >>> random["0"].shape
    torch.Size([3])
    """
    chosen = {}
    for group in groups:
        layer, parts = group.layers[0], group.size // group.together
        count = len(units[layer]) // group.together if layer in units else parts
        kept = torch.zeros(parts, dtype=torch.bool)
        kept[torch.randperm(parts, generator=generator)[:count]] = True
        chosen[layer] = kept.repeat(group.together).nonzero().squeeze(1)
    return chosen


class Structure:
    """A network whose units may go: what it would weigh without some, and the network itself.

    Kept units are written as one bool tensor `(size,)` for each of `groups`, in their order.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model = model
        self._example = example
        self.coupling: Coupling = couple(model, example)
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._shared = _shared(model)
        # Which parameter gets shorter along which axis, by how many places for each unit.
        self._axes = [
            (name, axis, index, torch.bincount(cut.units, minlength=self.groups[index].size))
            for index, cuts in enumerate(self.coupling.cuts)
            for cut in cuts
            for name, axis in axes(self.coupling, cut)
        ]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in order of the forward pass."""
        return self.coupling.groups

    @property
    def original(self) -> int:
        """Parameters of the whole network."""
        return sum(prod(shape) for shape in self._shapes.values())

    def parameters(self, kept: Sequence[Tensor]) -> int:
        """Return exactly how many parameters are left with these units, without removing any."""
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for name, axis, index, places in self._axes:
            shapes[name][axis] -= int(places[~kept[index]].sum()) // _divisor(
                self.coupling.twin, name, axis
            )
        return sum(prod(shape) for shape in shapes.values())

    def kept(self, keep: Mapping[str, Tensor]) -> list[Tensor]:
        """Turn unit indices by layer into kept units by group; raise as `keep_units`."""
        modules = dict(self._model.named_modules())
        free = {layer for group in self.groups for layer in group.layers}
        for layer, units in keep.items():
            if not isinstance(modules.get(layer), CONV_OR_LINEAR):
                hint = did_you_mean(layer, modules)
                raise UsageError(f"the network has no conv or linear layer {layer!r}.{hint}")
            count = _outputs(modules[layer])
            if units.dtype == torch.bool:
                raise UsageError(f"units of layer {layer!r} are indices, not True and False")
            if len(units) and not 0 <= int(units.min()) <= int(units.max()) < count:
                raise UsageError(f"layer {layer!r} has units 0 to {count - 1}, not all of {units}")
            if layer not in free and len(units.unique()) < count:
                reason = self.coupling.stays.get(layer, "evaluation does not reach it")
                raise UsageError(f"layer {layer!r} must keep all {count} units: {reason}")
        return [
            self._agreed(index, {layer: keep[layer] for layer in group.layers if layer in keep})
            for index, group in enumerate(self.groups)
        ]

    def _agreed(self, index: int, keep: Mapping[str, Tensor]) -> Tensor:
        """Kept units of a group by what its layers keep; each speaks for the units it has."""
        group = self.groups[index]
        kept, said = torch.ones(group.size, dtype=torch.bool), torch.zeros(group.size).bool()
        for layer, units in keep.items():
            values = torch.zeros(_outputs(self._model.get_submodule(layer)), dtype=torch.bool)
            values[units.long().cpu()] = True
            has = self.coupling.by_unit(index, layer, torch.ones_like(values), False)
            wanted = self.coupling.by_unit(index, layer, values, True)
            if bool(((kept != wanted) & said & has).any()):
                raise UsageError(
                    f"layers {', '.join(keep)} are coupled: they can only keep the same units; "
                    f"name one of them"
                )
            kept, said = kept & wanted, said | has
        bundles = kept.view(group.together, -1)
        if not bool((bundles == bundles[0]).all()):
            raise UsageError(
                f"layer {group.layers[0]!r} meets a convolution of {group.together} groups: units "
                f"i, i + {group.size // group.together}, … can only go together"
            )
        return kept

    def smaller(
        self, kept: Sequence[Tensor], *, allow_empty: bool = False, notices: Sequence[str] = ()
    ) -> Smaller:
        """Return the copy with these units only. Raises as `keep_units`."""
        for group, these in zip(self.groups, kept, strict=True):
            if not bool(these.any()) and not (allow_empty and group.can_empty):
                why = "" if allow_empty else "; at least one must stay"
                why = why or "; only what consists of linear layers alone can run without units"
                raise UsageError(f"layer {group.layers[0]!r} would keep no unit{why}")
        removed = self._removed(kept)
        small, problem = self._cut(removed)
        if small is None:
            raise ModelError(self._blame(kept, problem))
        units = {
            name: torch.arange(_outputs(module))
            for name, module in self._model.named_modules()
            if isinstance(module, CONV_OR_LINEAR)
        }
        for (name, side, _, _), places in removed.items():
            if side & Side.OUT and name in units:
                left = torch.ones(len(units[name]), dtype=torch.bool)
                left[list(places)] = False
                units[name] = units[name][left]
        count = sum(parameter.numel() for parameter in small.parameters())
        if removed and self.coupling.unreached:
            listed = ", ".join(self.coupling.unreached)
            left_out = f"layers that evaluation does not reach are left as they were: {listed}"
            notices = [*notices, left_out]
        return Smaller(small, units, count, self.original, tuple(notices))

    def _removed(self, kept: Sequence[Tensor]) -> _Removed:
        """All places that go, by module and side: joined, as groups may share a module."""
        removed: dict[tuple[str, Side, Any, int], set[int]] = {}
        for units, cuts in zip(kept, self.coupling.cuts, strict=True):
            if bool(units.all()):
                continue
            for cut in cuts:
                places = cut.places[~units[cut.units]].tolist()
                key = (cut.module, cut.side, cut.handler, cut.axis)
                removed.setdefault(key, set()).update(places)
        return removed

    def _cut(self, removed: _Removed) -> tuple[nn.Module | None, str]:
        """Return the smaller network, or why there can be none."""
        try:
            small = self._without(removed)
            problem = self._problem(small, removed) if removed else ""
        except TROUBLE as error:
            return None, f"the smaller network fails: {error}"
        return (None, problem) if problem else (small, "")

    def _without(self, removed: _Removed) -> nn.Module:
        small = share(self._model)
        shared = {id(parameter) for parameter in small.parameters()}
        for (name, _, handler, axis), places in removed.items():
            self._expect_plain(name)
            handler.__self__.pruning_dim = axis
            if name in self._shapes:
                parent, _, last = name.rpartition(".")
                owner = small.get_submodule(parent)
                setattr(owner, last, handler(getattr(owner, last), sorted(places)))
            else:
                with torch.no_grad():
                    handler(small.get_submodule(name), sorted(places))
        wanted = {name: p.requires_grad for name, p in self._model.named_parameters()}
        for name, parameter in small.named_parameters():
            if id(parameter) in shared:
                parameter.data = parameter.data.clone()
            parameter.requires_grad_(wanted[name])
        return small

    def _expect_plain(self, name: str) -> None:
        """Raise ModelError where parameters are computed, or shared with another module."""
        if name in self._shapes:
            return
        module = self._model.get_submodule(name)
        if hasattr(module, "parametrizations"):
            raise ModelError(
                f"layer {name!r} computes its weight (a parametrisation); make it plain first, "
                f"with torch.nn.utils.parametrize.remove_parametrizations"
            )
        if any(id(parameter) in self._shared for parameter in module.parameters(recurse=False)):
            raise ModelError(
                f"layer {name!r} shares a parameter with another layer, so that it cannot be cut; "
                f"leave it and the layers before it out with --prune-layer"
            )

    def _problem(self, small: nn.Module, removed: _Removed) -> str:
        """Say how the smaller network differs from the original that does not read the units."""
        twin = self.coupling.twin
        x = _random(self._example, next(twin.parameters()).device)
        silent = {name: places for (name, side, _, _), places in removed.items() if side == Side.IN}
        random = torch.get_rng_state()
        with torch.no_grad(), _unread(twin, silent):
            expected = twin(x)
        torch.set_rng_state(random)  # for networks that draw: the same numbers again
        try:
            with torch.no_grad(), evaluating(small):
                found = small(x)
        finally:
            torch.set_rng_state(random)
        if found.shape != expected.shape:
            return f"outputs would be {tuple(found.shape)}, not {tuple(expected.shape)}"
        touched = {name for name, *_ in removed}
        if any(n in touched and isinstance(m, _MIXING) for n, m in small.named_modules()):
            return ""
        allowed = 4 * torch.finfo(found.dtype).eps ** 0.5 * float(expected.abs().max())
        same = torch.allclose(found, expected, rtol=0, atol=allowed, equal_nan=True)
        return "" if same else "the smaller network computes something else"

    def _blame(self, kept: Sequence[Tensor], problem: str) -> str:
        """Find the layers that cannot be cut, by cutting each group alone."""
        guilty = []
        for index, (group, units) in enumerate(zip(self.groups, kept, strict=True)):
            alone = [torch.ones_like(other) for other in kept]
            alone[index] = units
            _, reason = self._cut(self._removed(alone))
            if reason:
                guilty.append(group.layers[0])
                problem = reason
        listed = ", ".join(map(repr, guilty)) or "some layers, together,"
        return (
            f"units of layer {listed} cannot be removed: {problem.rstrip('.')}. torch-pruning does "
            f"not see what happens to them (a reshape, a reordering of channels, a function of the "
            f"network's own{strangers(self._model)}); leave the layer out with --prune-layer, or "
            f"take a pruner that makes masks"
        )


def _outputs(layer: nn.Module) -> int:
    return int(layer.get_parameter("weight").shape[0])


def axes(coupling: Coupling, cut: Cut) -> Iterator[tuple[str, int]]:
    """Yield which parameters hold the places of a cut, and along which axis."""
    parent, _, last = cut.module.rpartition(".")
    if last in coupling.twin.get_submodule(parent)._parameters:
        yield cut.module, cut.axis
        return
    module = coupling.twin.get_submodule(cut.module)
    turned = bool(getattr(module, "transposed", False))
    for name, parameter in module.named_parameters(recurse=False):
        whole = f"{cut.module}.{name}".lstrip(".")
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue
        if cut.side == Side.BOTH:
            yield whole, 0 if hasattr(module, "groups") else -1
        elif cut.side == Side.OUT:
            yield whole, int(turned and parameter.dim() > 1)
        elif name == "weight":
            yield whole, int(not turned)


def _divisor(twin: nn.Module, name: str, axis: int) -> int:
    """Grouped convolutions store their second axis once for all groups."""
    if axis != 1:
        return 1
    return int(getattr(twin.get_submodule(name.rpartition(".")[0]), "groups", 1))


def _shared(model: nn.Module) -> set[int]:
    """Ids of the parameters that belong to more than one module."""
    seen: set[int] = set()
    shared: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


def _random(example: Tensor, device: torch.device) -> Tensor:
    if not example.is_floating_point():
        return example[:2].to(device)
    x = torch.randn(2, *example.shape[1:], generator=seeds.generator(0, "structure"))
    return x.to(device, example.dtype)


@contextmanager
def _unread(twin: nn.Module, places: Mapping[str, set[int]]) -> Iterator[None]:
    """Let these modules see zeros in these places of their input."""

    def hide(gone: set[int]) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            """Axis 1 holds the channels of a convolution, the last one those of a linear layer."""
            axis = -1 if isinstance(module, nn.Linear) else 1
            index = torch.tensor(sorted(gone), dtype=torch.long, device=inputs[0].device)
            return (inputs[0].index_fill(axis, index, 0), *inputs[1:])

        return hook

    hooks = [
        twin.get_submodule(name).register_forward_pre_hook(hide(gone))
        for name, gone in places.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
