"""What an analysis would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.analyze.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a sweep. FLOPs count multiply-adds twice; a training step counts as 3 passes."""

    cells: list[str]
    pruners: list[str]
    metrics: list[str]
    densities: list[float]
    seeds: list[int]
    layers: list[str]
    units: int
    prunable: int
    parameters: int
    training_epochs: int
    samples_seen: int
    gigaflops: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        kinds = f"{len(self.seeds)} seeds × (dense + {len(self.pruners)} pruners"
        return [
            f"{len(self.cells)} cells: {kinds} × {len(self.densities)} densities)",
            f"pruners    {', '.join(self.pruners)}",
            f"metrics    {', '.join(self.metrics)}",
            f"measured   {self.units} units in {', '.join(self.layers)}",
            f"network    {self.parameters:,} parameters, {self.prunable:,} of them prunable",
            f"training   {self.training_epochs} epochs in all, {self.samples_seen:,} samples",
            f"cost       {self.gigaflops:,.1f} GFLOP of training",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is trained or written."""
    pruned = len(setup.pruned_cells)
    epochs = len(setup.dense_cells) * setup.epochs + pruned * setup.retrain_epochs
    samples = epochs * len(setup.data.train)
    model = setup.build(setup.config.seeds[0])
    return Plan(
        cells=[cell.name for cell in [*setup.dense_cells, *setup.pruned_cells]],
        pruners=list(setup.pruners),
        metrics=list(setup.metrics),
        densities=list(setup.config.densities),
        seeds=list(setup.config.seeds),
        layers=list(setup.layers),
        units=sum(setup.trace.of(layer)[0].units for layer in setup.layers),
        prunable=setup.candidates.full().total,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        training_epochs=epochs,
        samples_seen=samples,
        gigaflops=3 * samples * setup.trace.flops / 1e9,
    )
