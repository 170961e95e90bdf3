"""A dissection, opened again: the masks of a unit's own parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polykit.errors import RunError
from polykit.runtime.pruning.masking import load_mask
from polykit.runtime.store import RunStore
from polykit.types import Mask, UnitRef
from polykit.workflows.dissect.cells import MASK
from polykit.workflows.dissect.setup import Cell


@dataclass(frozen=True)
class OwnMask:
    """The part that one pruner found for one cluster; density 1 if it chose its own."""

    cluster: int
    pruner: str
    density: float
    mask: Mask


def own_masks(run: Path, unit: UnitRef) -> list[OwnMask]:
    """Return the masks of a unit's own parts, in the run's order; empty if it has none of it.

    Raises RunError where `run` is no dissection, or a mask is missing or damaged.
    """
    store = RunStore.open(run)
    if store.workflow != "dissect":
        raise RunError(f"{run} is a run of {store.workflow!r}; give one of dissect")
    rows = store.load().rows
    own = rows[(rows["control"] == "own") & (rows["unit"] == str(unit))]
    found = []
    for place in own[["cluster", "pruner", "density"]].drop_duplicates().itertuples(index=False):
        cluster, pruner, density = int(place[0]), str(place[1]), float(place[2])
        cell = Cell(unit, cluster, pruner, density, "own", unit)
        mask = load_mask(store.file(cell.name, MASK))
        found.append(OwnMask(cluster, pruner, density, mask))
    return found
