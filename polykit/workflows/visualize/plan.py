"""What a run of `visualize` would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.visualize.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a run: its cells, and the passes that growing and attributing take.

    A pass is one picture forwards and backwards; the examples' are counted at most.
    """

    cells: list[str]
    units: list[str]
    variants: int
    grown: int
    steps: int
    passes: int

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        return [
            f"{len(self.cells)} cells",
            f"units      {', '.join(self.units)}",
            f"variants   {self.variants} of all units together, the dense ones included",
            f"pictures   {self.grown} grown for each, in {self.steps} steps",
            f"cost       {self.passes:,} passes of a picture, forwards and backwards, to grow them",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is grown or written."""
    config = setup.config
    return Plan(
        cells=[cell.name for cell in setup.cells],
        units=list(dict.fromkeys(str(cell.unit) for cell in setup.cells)),
        variants=len(setup.cells),
        grown=config.pictures,
        steps=config.steps,
        passes=len(setup.cells) * config.pictures * config.steps,
    )
