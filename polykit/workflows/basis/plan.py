"""What a run of `basis` would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from polykit.runtime.degeneracy.slopes import INPUT
from polykit.workflows.analyze.plan import make_plan as networks_plan
from polykit.workflows.basis.setup import Setup


@dataclass(frozen=True)
class Plan:
    """The size of a run. FLOPs count multiply-adds twice; a training step counts as 3 passes."""

    cells: list[str]
    pruners: list[str]
    layers: list[str]
    units: list[int]
    possible_edges: int
    bases: list[str]
    origins: list[str]
    cutoffs: list[float]
    resolutions: list[float]
    samples: int
    training_epochs: int
    training_gigaflops: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        layers = zip(self.layers, self.units, strict=True)
        return [
            f"{len(self.cells)} networks",
            f"pruners    {', '.join(self.pruners) or 'none'}",
            f"layers     {', '.join(f'{layer} ({units})' for layer, units in layers)}",
            f"graphs     {', '.join(self.bases)}, each from {' and '.join(self.origins)}: at most "
            f"{self.possible_edges:,} edges",
            f"modules    cutoffs {', '.join(f'{cutoff:g}' for cutoff in self.cutoffs)} × "
            f"resolutions {', '.join(f'{resolution:g}' for resolution in self.resolutions)}",
            f"looked at  {self.samples:,} samples",
            f"training   {self.training_epochs} epochs, {self.training_gigaflops:,.1f} GFLOP",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is trained or written."""
    config, networks = setup.config, setup.networks
    trained = networks_plan(networks)
    inputs = networks.data.test.batches(1)
    widths = {INPUT: next(inputs)[0].numel()}
    units = [widths.get(layer) or networks.trace.of(layer)[0].units for layer in setup.layers]
    constant = "zero" in config.origins
    return Plan(
        cells=trained.cells,
        pruners=trained.pruners,
        layers=list(setup.layers),
        units=units,
        possible_edges=sum((a + constant) * (b + constant) for a, b in pairwise(units)),
        bases=list(config.bases),
        origins=list(config.origins),
        cutoffs=list(config.cutoffs),
        resolutions=list(config.resolutions),
        samples=min(config.samples, len(networks.data.test)),
        training_epochs=trained.training_epochs,
        training_gigaflops=trained.gigaflops,
    )
