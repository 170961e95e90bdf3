"""Which units of a network can only go together: torch-pruning's dependency graph, read once.

Nothing else imports torch-pruning. The graph is built on a twin that shares the network's values,
and written down as plain index tables; `structure` cuts by them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.pruner import importance as borrowed

from polykit.errors import ModelError, UsageError

CONV_OR_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layers whose outputs are units."""

TROUBLE = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    KeyError,
    ZeroDivisionError,
)
"""What a network raises when it, or torch-pruning, cannot go on."""

OUTPUTS = "its units are the network's outputs"
"""Why the layer that makes the output stays."""

_HEADS = (nn.MultiheadAttention, nn.LSTM)
"""Modules with an inner order (heads, gates) in which single units cannot be cut out."""

Borrowed = Literal["l1", "l2", "group-l1", "group-l2", "lamp", "bn-scale", "taylor", "hessian"]
"""torch-pruning's own importances."""

_BORROWED: dict[Borrowed, Callable[[], Any]] = {
    "l1": lambda: borrowed.GroupMagnitudeImportance(1, "first", None),
    "l2": lambda: borrowed.GroupMagnitudeImportance(2, "first", None),
    "group-l1": lambda: borrowed.GroupMagnitudeImportance(1, "mean", None),
    "group-l2": lambda: borrowed.GroupMagnitudeImportance(2, "mean", None),
    "lamp": borrowed.LAMPImportance,
    "bn-scale": lambda: borrowed.BNScaleImportance(normalizer=None),
    "taylor": lambda: borrowed.GroupTaylorImportance(normalizer=None),
    "hessian": lambda: borrowed.GroupHessianImportance(normalizer=None),
}


@dataclass(frozen=True)
class Group:
    """Units that go together: one set of places in several coupled layers.

    `layers` are the conv and linear layers whose OUTPUTS go together, the first of which numbers
    the group's `size` units; `feeds` are those that read them. Where a grouped convolution needs
    equal parts, units i, i + size/together, … can only go together. `can_empty` says that the
    network still runs when all units go (nothing but linear layers is involved).
    """

    layers: tuple[str, ...]
    feeds: tuple[str, ...]
    size: int
    together: int = 1
    can_empty: bool = False


class Side(Flag):
    """Which side of a module gets smaller: what it puts out, what it takes in, or both at once."""

    OUT = auto()
    IN = auto()
    BOTH = OUT | IN


@dataclass(frozen=True)
class Cut:
    """What happens to one module when units go: place `places[i]` goes with unit `units[i]`.

    `module` is a module's name, or that of a parameter which belongs to no known module.
    """

    module: str
    side: Side
    handler: Callable[[Any, list[int]], Any]
    axis: int
    places: Tensor
    units: Tensor


@dataclass(frozen=True)
class Coupling:
    """The groups of a network, in order of the forward pass, and what each of them cuts.

    `stays` tells of other conv and linear layers why their units stay, `unreached` names those that
    the pass never calls. `twin` is a copy in evaluation mode that shares the network's values.
    """

    twin: nn.Module
    groups: tuple[Group, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    stays: Mapping[str, str]
    unreached: tuple[str, ...]
    _borrowed: tuple[tp.dependency.Group, ...]

    def importance(
        self,
        kind: Borrowed,
        places: Iterable[int],
        gradients: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Return torch-pruning's scores of the groups in these places, `(size,)` each.

        Not normalised, except for `lamp`, which is a normalisation.

        `gradients` go with `taylor` (of the mean objective) and `hessian` (the mean of squared
        per-sample gradients), by parameter name. torch-pruning's own sum for the latter keeps only
        the last sample's.

        Raises UsageError for a group that has no such score.
        """
        for name, parameter in self.twin.named_parameters():
            parameter.grad = None if gradients is None else gradients[name]
        scorer = _BORROWED[kind]()
        found = []
        for index in places:
            scores = scorer(self._borrowed[index])
            if scores is None:
                layer = self.groups[index].layers[0]
                raise UsageError(
                    f"importance {kind!r} has no score for layer {layer!r}, which no "
                    f"normalisation follows; take another importance, or leave the layer out with "
                    f"--prune-layer"
                )
            found.append(scores.detach().cpu())
        return found

    def by_unit(self, index: int, layer: str, values: Tensor, missing: float) -> Tensor:
        """Reorder one value per output of `layer` to one per unit of a group: `(size,)`.

        Units that the layer has no part in get `missing`.
        """
        cut = next(c for c in self.cuts[index] if c.module == layer and c.side & Side.OUT)
        found = values.new_full((self.groups[index].size,), missing)
        found[cut.units] = values[cut.places]
        return found


def share(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters share the values of the model's and want gradients."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), p.is_floating_point()) for p in model.parameters()
    }
    try:
        return copy.deepcopy(model, memo)
    except TROUBLE as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {error}; make its weights plain parameters "
            f"first (remove weight_norm and the like)"
        ) from error


def couple(model: nn.Module, example: Tensor) -> Coupling:
    """Find the groups of `model` with torch-pruning's dependency graph.

    `example` gives shape and type of the input. The layer that makes the output belongs to no
    group. Raises ModelError where the network cannot take the input, or where a layer is out of
    torch-pruning's sight.
    """
    twin = share(model)
    graph, output, called = _graph(twin, example)
    names = {module: name for name, module in twin.named_modules()}
    layers = [names[module] for module in called]
    groups: list[tuple[Group, tuple[Cut, ...], tp.dependency.Group]] = []
    stays: dict[str, str] = {}
    for members in graph.get_all_groups():
        cuts = tuple(_cuts(members, graph, names))
        group, reason = _group(members, cuts, graph, output, twin)
        if reason:
            stays |= dict.fromkeys(group.layers, reason)
        elif group.layers:
            groups.append((group, cuts, members))
    groups.sort(key=lambda entry: layers.index(entry[0].layers[0]))
    return Coupling(
        twin,
        tuple(group for group, _, _ in groups),
        tuple(cuts for _, cuts, _ in groups),
        stays,
        tuple(
            name
            for name, module in twin.named_modules()
            if isinstance(module, CONV_OR_LINEAR)
            and name not in layers
            and not _in_heads(twin, name)
        ),
        tuple(members for _, _, members in groups),
    )


def _graph(twin: nn.Module, example: Tensor) -> tuple[tp.DependencyGraph, Any, list[nn.Module]]:
    """Return the graph, what made the output, and the conv and linear layers as called."""
    called: dict[nn.Module, None] = {}
    result: list[Any] = []

    def forward(model: nn.Module, x: Tensor) -> Any:
        hooks = [
            module.register_forward_hook(lambda module, *_: called.setdefault(module))
            for module in model.modules()
            if isinstance(module, CONV_OR_LINEAR)
        ]
        try:
            result.append(model(x))
        finally:
            for hook in hooks:
                hook.remove()
        return result[0]

    graph, random = tp.DependencyGraph(), torch.get_rng_state()
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    try:
        with torch.enable_grad():
            graph.build_dependency(twin, example[:2].to(device), forward_fn=forward, verbose=False)
    except TROUBLE as error:
        if not result:
            shape = "×".join(str(size) for size in example.shape[1:])
            raise ModelError(
                f"{type(twin).__name__} cannot take inputs of shape {shape}: {error}. "
                f"Choose a dataset, or options of it, that fit the model"
            ) from error
        raise ModelError(_unseen(twin, f"it fails with {type(error).__name__}: {error}")) from error
    finally:
        torch.set_rng_state(random)  # some networks draw even in evaluation
    if not isinstance(result[0], Tensor):
        raise ModelError(
            f"{type(twin).__name__} returns a {type(result[0]).__name__}, not a tensor; wrap it in "
            f"a module that returns the output alone"
        )
    hidden = [
        name for name, m in twin.named_modules() if m in called and m not in graph.module2node
    ]
    if hidden or result[0].grad_fn is None:
        what = f"layer {', '.join(map(repr, hidden))}" if hidden else "whatever makes the output"
        raise ModelError(
            _unseen(twin, f"{what} runs where autograd does not follow (detach, no_grad)")
        )
    return graph, result[0].grad_fn, list(called)


def _unseen(twin: nn.Module, what: str) -> str:
    return (
        f"torch-pruning cannot trace {type(twin).__name__}: {what}{strangers(twin)}. Write it with "
        f"plain torch layers and functions, or take a pruner that makes masks, such as magnitude "
        f"with granularity unit"
    )


def strangers(model: nn.Module) -> str:
    """Name the modules with parameters of their own that torch-pruning has never heard of."""
    odd = [
        f"{name!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        if name and module._parameters and not type(module).__module__.startswith("torch.")
    ]
    return f"; modules that it does not know: {', '.join(odd)}" if odd else ""


def _cuts(
    members: tp.dependency.Group, graph: tp.DependencyGraph, names: Mapping[Any, str]
) -> Iterable[Cut]:
    """Write down a group of torch-pruning's without the places where nothing is stored."""
    for number, (dependency, places) in enumerate(members):
        target, handler = dependency.target, dependency.handler
        if isinstance(target.module, nn.Parameter):
            name, side = graph._param_to_name[target.module], Side.BOTH
        elif target.module in names:
            name = names[target.module]
            side = Side(0)
            if graph.is_out_channel_pruning_fn(handler):
                side |= Side.OUT
            if graph.is_in_channel_pruning_fn(handler):
                side |= Side.IN
        else:
            continue
        units = torch.tensor(members[number].root_idxs)
        yield Cut(name, side, handler, target.pruning_dim, torch.tensor(list(places)), units)


def _group(
    members: tp.dependency.Group,
    cuts: tuple[Cut, ...],
    graph: tp.DependencyGraph,
    output: Any,
    twin: nn.Module,
) -> tuple[Group, str]:
    """Return the group, and why its units must stay (empty where they need not)."""
    modules = {c.module: twin.get_submodule(c.module) for c in cuts if _is_module(twin, c.module)}
    kinds = {name for name, module in modules.items() if isinstance(module, CONV_OR_LINEAR)}
    layers = dict.fromkeys(c.module for c in cuts if c.module in kinds and c.side & Side.OUT)
    feeds = dict.fromkeys(c.module for c in cuts if c.module in kinds and c.side == Side.IN)
    size, together = len(members[0].idxs), _together(members, graph)
    linear = all(isinstance(module, nn.Linear) for module in modules.values())
    group = Group(tuple(layers), tuple(feeds), size, together, linear)
    reason = ""
    if any(
        dependency.target.grad_fn is output and graph.is_out_channel_pruning_fn(dependency.handler)
        for dependency, _ in members
    ):
        reason = OUTPUTS
    for name, module in modules.items():
        if isinstance(module, _HEADS):
            reason = reason or f"it is coupled with {name} ({type(module).__name__})"
    if size % together:
        reason = reason or f"{size} units are not divided evenly by {together} groups"
    return group, reason


def _in_heads(twin: nn.Module, name: str) -> bool:
    """Attention reads the weights of a layer inside it without calling the layer."""
    return isinstance(twin.get_submodule(name.rpartition(".")[0]), _HEADS)


def _is_module(twin: nn.Module, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    return last not in twin.get_submodule(parent)._parameters


def _together(members: tp.dependency.Group, graph: tp.DependencyGraph) -> int:
    """How many equal parts the coupled modules cut the units into: 1 but for grouped ones."""
    parts = 1
    for dependency, _ in members:
        module = dependency.target.module
        if isinstance(module, nn.Parameter):
            continue
        if getattr(module, "groups", 1) == getattr(module, "out_channels", 0):
            continue  # depthwise: each unit is its own part
        pruner = graph.get_pruner_of_module(module)
        out = graph.is_out_channel_pruning_fn(dependency.handler)
        side = pruner.get_out_channel_groups if out else pruner.get_in_channel_groups
        parts = max(parts, side(module))
    return parts
