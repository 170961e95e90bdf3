"""What may be pruned, what each part is worth, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from polykit.errors import UsageError

Granularity = Literal["weight", "kernel", "unit"]
"""What is removed: single weights, k×k kernel slices, or whole units with their bias."""

Competition = Literal["global", "layer"]
"""What competes for survival: everything in the network, or the elements of one layer."""


class Mask(Mapping[str, Tensor]):
    """Which parameters are kept: parameter name → bool tensor, True = kept. Immutable.

    Parameters that no pruner was allowed to touch are not in the mask, or are marked as not
    `eligible`; the densities count eligible parameters only. Reading an entry gives a copy.

    >>> mask = Mask({"0.weight": torch.tensor([[True, False], [True, True]])})
    >>> mask.density, mask.layer_density()
    (0.75, {'0.weight': 0.75})
    """

    def __init__(
        self, keep: Mapping[str, Tensor], eligible: Mapping[str, Tensor] | None = None
    ) -> None:
        self._keep = {name: _frozen(name, tensor) for name, tensor in keep.items()}
        self._eligible: dict[str, Tensor] = {}
        for name, tensor in (eligible or {}).items():
            part = _frozen(name, tensor)
            if name not in self._keep or part.shape != self._keep[name].shape:
                raise UsageError(f"eligible part {name!r} has no mask entry of the same shape")
            if not bool(part.all()):
                self._eligible[name] = part

    def __getitem__(self, name: str) -> Tensor:
        return self._keep[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __repr__(self) -> str:
        return f"Mask({len(self)} parameters, {self.kept} of {self.total} kept)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (
            self._keep.keys() == other._keep.keys()
            and all(torch.equal(self._keep[name], other._keep[name]) for name in self)
            and all(torch.equal(self.eligible(name), other.eligible(name)) for name in self)
        )

    __hash__ = None  # type: ignore[assignment]

    def eligible(self, name: str) -> Tensor:
        """Return which parameters of one entry a pruner was allowed to remove (a copy)."""
        if name in self._eligible:
            return self._eligible[name].clone()
        return torch.ones_like(self._keep[name])

    def _counts(self, name: str) -> tuple[int, int]:
        keep = self._keep[name]
        if name not in self._eligible:
            return int(keep.count_nonzero()), keep.numel()
        part = self._eligible[name]
        return int((keep & part).count_nonzero()), int(part.count_nonzero())

    @property
    def kept(self) -> int:
        """Eligible parameters that are kept."""
        return sum(self._counts(name)[0] for name in self)

    @property
    def total(self) -> int:
        """Eligible parameters."""
        return sum(self._counts(name)[1] for name in self)

    @property
    def density(self) -> float:
        """Kept / eligible, in [0, 1]; 1 when nothing is eligible."""
        return self.kept / self.total if self.total else 1.0

    def layer_density(self) -> dict[str, float]:
        """Density of each entry that has eligible parameters."""
        counts = {name: self._counts(name) for name in self}
        return {name: kept / total for name, (kept, total) in counts.items() if total}

    def iou(self, other: Mask) -> float:
        """Intersection over union of the kept eligible parameters, in [0, 1].

        1 when neither keeps anything. Raises UsageError if the masks are of different parameters.
        """
        if {n: k.shape for n, k in self._keep.items()} != {
            n: k.shape for n, k in other._keep.items()
        }:
            raise UsageError("the masks are of different parameters; compare masks of one network")
        both = union = 0
        for name in self:
            mine = self._keep[name] & self.eligible(name)
            theirs = other._keep[name] & other.eligible(name)
            both += int((mine & theirs).count_nonzero())
            union += int((mine | theirs).count_nonzero())
        return both / union if union else 1.0


def _frozen(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.bool:
        raise UsageError(f"mask entry {name!r} is {tensor.dtype}; masks are bool tensors")
    return tensor.detach().to("cpu", copy=True).contiguous()


@dataclass(frozen=True)
class Candidates:
    """What a pruner may remove: weights, cut into elements of one granularity.

    `shapes` maps weight names to weight shapes; `eligible` maps them to bool tensors over
    *elements* (missing = all), `biases` maps a weight to the bias that goes with a whole unit.
    `competition` says whether elements compete across the network or within their layer.
    """

    shapes: Mapping[str, tuple[int, ...]]
    granularity: Granularity = "weight"
    competition: Competition = "global"
    eligible: Mapping[str, Tensor] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The weights whose elements compete with one another, by name."""
        if self.competition == "global":
            return (tuple(self.shapes),)
        return tuple((name,) for name in self.shapes)

    def element_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the element grid of one weight: all axes, `(out, in)`, or `(out,)`."""
        axes = {"weight": None, "kernel": 2, "unit": 1}[self.granularity]
        return tuple(self.shapes[name][:axes])

    def element_size(self, name: str) -> int:
        """Parameters that go when one element goes, a unit's bias included."""
        inner = self.shapes[name][len(self.element_shape(name)) :]
        size = 1
        for length in inner:
            size *= length
        return size + (name in self.biases)

    def eligible_elements(self, name: str) -> Tensor:
        """Which elements of one weight may go: bool, of `element_shape`."""
        part = self.eligible.get(name)
        if part is None:
            return torch.ones(self.element_shape(name), dtype=torch.bool)
        return part.clone()

    def reduce(self, name: str, weights: Tensor) -> Tensor:
        """Mean of a per-weight score over each element: weight shape → element shape."""
        inner = tuple(range(len(self.element_shape(name)), weights.dim()))
        return weights.mean(dim=inner) if inner else weights

    def mask(self, keep: Mapping[str, Tensor]) -> Mask:
        """Turn kept elements into a mask over parameters; ineligible elements stay kept."""
        kept: dict[str, Tensor] = {}
        eligible: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            part = self.eligible_elements(name)
            elements = keep[name].cpu() | ~part
            view = elements.view(elements.shape + (1,) * (len(shape) - elements.dim()))
            kept[name] = view.expand(shape)
            eligible[name] = part.view(view.shape).expand(shape)
            if name in self.biases:
                kept[self.biases[name]] = elements
                eligible[self.biases[name]] = part
        return Mask(kept, eligible)

    def full(self) -> Mask:
        """The mask that keeps everything."""
        ones = {
            name: torch.ones(self.element_shape(name), dtype=torch.bool) for name in self.shapes
        }
        return self.mask(ones)

    def elements(self, mask: Mask) -> dict[str, Tensor]:
        """Which elements still have a kept weight: weight name → bool of element shape."""
        kept = {}
        for name in self.shapes:
            inner = tuple(range(len(self.element_shape(name)), len(self.shapes[name])))
            kept[name] = mask[name].any(dim=inner) if inner else mask[name]
        return kept


@dataclass(frozen=True)
class Scores:
    """How much each element is worth keeping: weight name → tensor of the element shape.

    Higher is kept first; equal scores are kept in order of position, so the result is the same
    on every machine. Raises UsageError for a score that is NaN or of the wrong shape.
    """

    values: Mapping[str, Tensor]
    candidates: Candidates

    def __post_init__(self) -> None:
        for name in self.candidates.shapes:
            expected = self.candidates.element_shape(name)
            value = self.values.get(name)
            if value is None or tuple(value.shape) != expected:
                found = "nothing" if value is None else tuple(value.shape)
                raise UsageError(f"scores for {name!r}: expected shape {expected}, got {found}")
            if bool(torch.isnan(value).any()):
                raise UsageError(
                    f"scores for {name!r} hold NaN; look for NaN in the weights or in the data"
                )

    def only(self, mask: Mask) -> Scores:
        """Put what `mask` has removed behind everything else, so that it cannot come back."""
        kept = self.candidates.elements(mask)
        return Scores(
            {
                name: value.masked_fill(~kept[name].to(value.device), -torch.inf)
                for name, value in self.values.items()
            },
            self.candidates,
        )

    def keep(self, density: float) -> Mask:
        """Keep the best elements so that kept / eligible parameters is nearest to `density`.

        Off by at most one element, and never an empty group. Raises UsageError for a density
        outside (0, 1].
        """
        if not 0 < density <= 1:
            raise UsageError(f"density {density:g} is outside (0, 1]; 0.1 keeps a tenth")
        keep: dict[str, Tensor] = {}
        for group in self.candidates.groups:
            if len({self.candidates.element_size(name) for name in group}) == 1:
                count = round(density * int(self._eligible(group).count_nonzero()))
            else:
                count = self._count_by_size(group, density)
            keep |= self._best(group, max(1, count))
        return self.candidates.mask(keep)

    def top(self, count: int) -> Mask:
        """Keep exactly the `count` best elements of the network, whatever their size.

        Raises UsageError for a count the network does not have.
        """
        total = int(self._eligible(list(self.candidates.shapes)).count_nonzero())
        if not 1 <= count <= total:
            raise UsageError(f"cannot keep {count} of {total} elements; choose 1 to {total}")
        return self.candidates.mask(self._best(list(self.candidates.shapes), count))

    def _eligible(self, group: Sequence[str]) -> Tensor:
        return torch.cat([self.candidates.eligible_elements(name).flatten() for name in group])

    def _flat(self, group: Sequence[str]) -> Tensor:
        """Scores of the group's eligible elements, in order of position."""
        flat = torch.cat([self.values[name].detach().flatten().cpu() for name in group])
        return flat.masked_select(self._eligible(group))

    def _best(self, group: Sequence[str], count: int) -> dict[str, Tensor]:
        """Keep the `count` best eligible elements; of equal ones at the edge, the first."""
        flat = self._flat(group)
        if count < len(flat):
            edge = flat.kthvalue(len(flat) - count + 1).values  # sorting takes ten times as long
            best = flat > edge
            ties = (flat == edge).nonzero().squeeze(1)
            best[ties[: count - int(best.count_nonzero())]] = True
        else:
            best = torch.ones_like(flat, dtype=torch.bool)
        eligible = self._eligible(group)
        keep = torch.zeros_like(eligible).masked_scatter(eligible, best)
        lengths = [self.values[name].numel() for name in group]
        return {
            name: part.view(self.candidates.element_shape(name))
            for name, part in zip(group, keep.split(lengths), strict=True)
        }

    def _count_by_size(self, group: Sequence[str], density: float) -> int:
        """How many of the best elements, of different sizes, come nearest to `density`."""
        sizes = torch.cat(
            [torch.full((self.values[n].numel(),), self.candidates.element_size(n)) for n in group]
        )[self._eligible(group)]
        order = self._flat(group).argsort(descending=True, stable=True)
        filled = sizes[order].cumsum(0).double()
        return int((filled - density * filled[-1]).abs().argmin()) + 1
