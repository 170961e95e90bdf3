"""What a density study would do, and what it would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log2
from typing import Any

from polykit.workflows.density.setup import Setup, ranks


@dataclass(frozen=True)
class Plan:
    """The size of a study. FLOPs count multiply-adds twice; a training step counts as 3 passes.

    Training may end earlier, so that its cost is the most it can be.
    """

    cells: list[str]
    scales: list[float]
    prunable: list[int]
    pruners: list[str]
    metrics: list[str]
    steps: int
    samples_seen: int
    training_gigaflops: float
    pruning_gigaflops: float

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        widths = zip(self.scales, self.prunable, strict=True)
        return [
            f"{len(self.cells)} networks",
            f"widths     {', '.join(f'{scale:g}× ({count:,} weights)' for scale, count in widths)}",
            f"pruners    {', '.join(self.pruners)}, {self.steps} steps",
            f"metrics    {', '.join(self.metrics) or 'none'}",
            f"training   at most {self.samples_seen:,} samples, "
            f"{self.training_gigaflops:,.1f} GFLOP",
            f"pruned     {self.pruning_gigaflops:,.1f} GFLOP, beside what pruners learn",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(setup: Setup) -> Plan:
    """Count what `setup` would run; nothing is trained or written."""
    config = setup.config
    data, steps = setup.splits.data(config.data_seeds[0]), setup.last
    flops = sum(setup.kinds[cell.scale].trace.flops for cell in setup.cells)
    searched = 2 + ceil(log2(steps))
    evaluations = sum(
        steps + 1 if ranks(chosen.instance) else searched for chosen in setup.pruners.values()
    )
    samples = config.epochs * len(data.train)
    return Plan(
        cells=[cell.name for cell in setup.cells],
        scales=list(config.scales),
        prunable=[setup.kinds[scale].candidates.full().total for scale in config.scales],
        pruners=list(setup.pruners),
        metrics=list(setup.metrics),
        steps=steps,
        samples_seen=samples * len(setup.cells),
        training_gigaflops=3 * samples * flops / 1e9,
        pruning_gigaflops=evaluations * len(data.validation) * flops / 1e9,
    )
