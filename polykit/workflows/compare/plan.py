"""What a comparison would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.compare.line import part
from polykit.workflows.compare.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a comparison. FLOPs count multiply-adds twice; a training step is 3 passes.

    Metrics come on top, once for each point of a line.
    """

    cells: list[str]
    first: str
    others: list[str]
    matched: list[str]
    fixed: list[str]
    routes: int
    points: int
    training_epochs: int
    gigaflops: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        return [
            f"{len(self.cells)} cells",
            f"networks   {self.first} with {', '.join(self.others)}",
            f"matched    {', '.join(self.matched) or 'none'}",
            *([f"not        {', '.join(self.fixed)}"] if self.fixed else []),
            f"lines      {self.routes}, at {self.points} points each",
            f"training   {self.training_epochs} epochs",
            f"cost       {self.gigaflops:,.1f} GFLOP, without the metrics",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is matched, trained or written."""
    config = setup.config
    routes = (2 + config.randoms) * len(setup.pairs) + 4 * len(setup.pulls) if config.path else 0
    moves = setup.symmetries if config.path else None
    epochs = 2 * config.epochs * len(setup.pulls)
    looked = len(part(setup, "train")) + len(part(setup, "test"))
    samples = routes * config.points * looked + 3 * epochs * len(setup.data.train)
    return Plan(
        cells=[cell.name for cell in setup.cells],
        first=setup.first.label,
        others=list(setup.others),
        matched=[layer for group in moves.groups for layer in group.layers] if moves else [],
        fixed=list(moves.fixed) if moves else [],
        routes=routes,
        points=config.points if routes else 0,
        training_epochs=epochs,
        gigaflops=samples * setup.first.trace.flops / 1e9,
    )
