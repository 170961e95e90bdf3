"""What a dissection would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.dissect.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a dissection. `prunable` counts parameters below each unit.

    `clusters` says, for each unit, how many pictures each of its clusters has.
    """

    cells: list[str]
    units: list[str]
    clusters: dict[str, list[int]]
    prunable: dict[str, int]
    settings: list[str]
    objective: str
    controls: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        lines = [f"{len(self.cells)} cells"]
        for unit in self.units:
            sizes = " and ".join(map(str, self.clusters[unit]))
            lines += [
                f"unit       {unit}: clusters of {sizes} pictures, {self.prunable[unit]:,} "
                f"parameters below it",
                f"controls   {', '.join(self.controls[unit])}; random weights; shuffled labels; "
                f"random masks",
            ]
        return [
            *lines,
            f"pruners    {', '.join(self.settings)}",
            f"objective  {self.objective}, for pruners that learn",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is read or written."""
    names = {unit: str(unit) for unit in setup.units}
    return Plan(
        cells=[cell.name for cell in setup.cells],
        units=list(names.values()),
        clusters={
            name: [int(n) for n in setup.members(unit).groupby("cluster").size()]
            for unit, name in names.items()
        },
        prunable={name: setup.candidates(unit).full().total for unit, name in names.items()},
        settings=[p if d == 1 else f"{p} at density {d:g}" for p, d in setup.settings],
        objective=setup.config.objective,
        controls={name: [str(o) for o in setup.others[unit]] for unit, name in names.items()},
    )
