"""What a run of `clusters` would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.clusters.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a run. `megabytes` is what activations take on disk.

    `ways` says how each layer is read: by the cone of its field, or why from the full map.
    """

    cells: list[str]
    pictures: int
    split: str
    layers: list[str]
    units: int
    ways: dict[str, str]
    top: int
    min_cluster_size: int
    training_epochs: int
    megabytes: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        return [
            f"{len(self.cells)} cells",
            f"pictures   {self.pictures:,} of the {self.split} split",
            f"units      {self.units} in {', '.join(self.layers)}",
            *(f"reading    {layer}: {way}" for layer, way in self.ways.items()),
            f"clusters   of each unit's top {self.top} pictures, {self.min_cluster_size} at least",
            f"training   {self.training_epochs} epochs",
            f"disk       {self.megabytes:,.1f} MB of activations",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is trained, read or written."""
    width = 2 if setup.config.precision == "float16" else 4
    values = sum(reader.units for reader in setup.readers.values())
    return Plan(
        cells=[cell.name for cell in setup.cells],
        pictures=len(setup.split),
        split=setup.config.split,
        layers=list(setup.units),
        units=sum(len(units) for units in setup.units.values()),
        ways={layer: way_text(setup, layer) for layer in setup.units},
        top=setup.top,
        min_cluster_size=setup.recipe.min_cluster_size,
        training_epochs=setup.epochs,
        megabytes=len(setup.split) * (values * width + 16) / 1e6,
    )


def way_text(setup: Setup, layer: str) -> str:
    """Say how a layer is read."""
    reader = setup.readers[layer]
    return "the cone of its field" if reader.way == "cone" else f"the full map: {reader.why}"
