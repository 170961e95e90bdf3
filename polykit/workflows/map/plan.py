"""What a map would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.analyze.plan import make_plan as plan_analysis
from polykit.workflows.map.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a map: the analyses of all points together."""

    cells: list[str]
    points: list[str]
    shown: list[str]
    seeds: list[int]
    training_epochs: int
    gigaflops: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        return [
            f"{len(self.cells)} cells at {len(self.points)} points",
            f"shown      {', '.join(self.shown)}",
            f"seeds      {', '.join(map(str, self.seeds))}",
            f"training   {self.training_epochs:,} epochs, {self.gigaflops:,.1f} GFLOP",
            *(f"  {point}" for point in self.points),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is trained or written.

    Pruners that train between rounds do so beside what is counted.
    """
    plans = [plan_analysis(analysis) for analysis in setup.analyses.values()]
    return Plan(
        cells=[cell.name for cell in setup.cells],
        points=list(setup.points),
        shown=list(setup.config.show),
        seeds=plans[0].seeds,
        training_epochs=sum(plan.training_epochs for plan in plans),
        gigaflops=sum(plan.gigaflops for plan in plans),
    )
