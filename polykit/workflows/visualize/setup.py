"""From names to objects: the units of a run, and the masks to show them through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polykit.errors import UsageError, did_you_mean
from polykit.registry import Registry
from polykit.runtime.clusters.visualizing import Canvas, canvas
from polykit.runtime.passes.addressing import select_units
from polykit.types import Data, Mask, UnitRef
from polykit.workflows.clusters.saved import SavedClusters, open_clusters
from polykit.workflows.dissect.saved import own_masks
from polykit.workflows.plugins import slug
from polykit.workflows.visualize.config import VisualizeConfig

DENSE = "dense"
SAMPLE = 64
"""Pictures whose range and spread stand for the data's."""


@dataclass(frozen=True)
class Cell:
    """One unit as one mask leaves it; `variant` names the mask, or is `dense`."""

    unit: UnitRef
    variant: str = DENSE

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        return slug(f"{self.unit.layer}-{self.unit.index}-{self.variant}")

    @property
    def needs(self) -> tuple[str, ...]:
        """None: each cell stands alone."""
        return ()


@dataclass
class Setup:
    """A resolved `VisualizeConfig`: the run it looks at, the canvas, and the masks by cell."""

    config: VisualizeConfig
    registry: Registry
    clusters: SavedClusters
    sample: Tensor
    canvas: Canvas
    masks: Mapping[Cell, Mask | None]
    plugins: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        """One cell per unit and variant, the dense one first."""
        return list(self.masks)

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return tuple(dict.fromkeys(str(cell.unit) for cell in self.cells))[:2]

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.clusters.setup.device

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.config.threads or torch.get_num_threads()


def resolve(
    config: VisualizeConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
) -> Setup:
    """Open the run and its dissection, and check that the units can be shown.

    `model` and `data` are a Python caller's own objects, if the run was made with such. Raises
    PolykitError with what does not fit and why: no run of clusters, an unknown unit, inputs that
    are no pictures, no such dissection.
    """
    if not config.pictures and not config.examples:
        raise UsageError("--pictures 0 and --examples 0 leave nothing to show; give one of them")
    clusters = open_clusters(
        Path(config.run), registry, model=model, data=data, device=config.device
    )
    units = [unit for text in config.units for unit in select_units(clusters.trace, text)]
    units = units or list(clusters.ranked()[:1])
    sample, _ = next(clusters.split.batches(SAMPLE))
    masks: dict[Cell, Mask | None] = {}
    for unit in dict.fromkeys(units):
        clusters.members(unit)  # raises for a unit that the run did not look at
        masks[Cell(unit)] = None
        if config.dissection is not None:
            masks.update(_masked(Path(config.run), config.dissection, unit))
    return Setup(
        config=config,
        registry=registry,
        clusters=clusters,
        sample=sample,
        canvas=canvas(sample.to(clusters.setup.device)),
        masks=masks,
        plugins=clusters.setup.plugins,
    )


def _masked(run: Path, dissection: str, unit: UnitRef) -> Iterator[tuple[Cell, Mask]]:
    """The masks that a dissection found for a unit, each with its cell."""
    path = run / "dissections" / dissection
    if not path.is_dir():
        known = sorted(place.name for place in path.parent.glob("*/"))
        hint = f"It has {', '.join(known)}" if known else "Make one with polykit dissect"
        raise UsageError(
            f"{run} has no dissection {dissection!r}.{did_you_mean(dissection, known)} {hint}"
        )
    for own in own_masks(path, unit):
        asked = f" at density {own.density:g}" if own.density < 1 else ""
        yield Cell(unit, f"cluster {own.cluster} by {own.pruner}{asked}"), own.mask
