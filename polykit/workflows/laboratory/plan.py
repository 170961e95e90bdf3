"""What a laboratory would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polykit.workflows.laboratory.setup import Laboratory


@dataclass(frozen=True)
class Plan:
    """The size of a laboratory: its cells, the networks in them, and their epochs."""

    cells: list[str]
    scenarios: list[str]
    pruner: str
    metrics: list[str]
    ratios: list[float]
    dropouts: list[float]
    seeds: list[int]
    networks: int
    training_epochs: int

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        return [
            f"{len(self.cells)} cells, {self.networks:,} networks",
            f"scenarios  {', '.join(self.scenarios)}; {len(self.seeds)} worlds of each",
            f"pruner     {self.pruner}, asked to remove {', '.join(f'{r:g}' for r in self.ratios)}",
            f"dropout    {', '.join(f'{dropout:g}' for dropout in self.dropouts)}",
            f"metrics    {', '.join(self.metrics)}, after every epoch",
            f"training   {self.training_epochs:,} epochs in all",
            *(f"  {cell}" for cell in self.cells),
        ]


def make_plan(laboratory: Laboratory) -> Plan:
    """Count what a laboratory would run; nothing is made, trained or written."""
    config = laboratory.config
    worlds = len(config.scenarios) * len(config.dropouts) * len(config.seeds)
    sizes = {arm: 1 if arm == "unpruned" else len(config.ratios) for arm in config.arms}
    epochs = {
        arm: config.epochs if arm == "scratch" else config.retrain_epochs for arm in config.arms
    }
    return Plan(
        cells=[c.name for c in [*laboratory.worlds, *laboratory.dense, *laboratory.arms]],
        scenarios=[scenario.name for scenario in config.scenarios],
        pruner=config.pruner,
        metrics=list(laboratory.asked),
        ratios=list(config.ratios),
        dropouts=list(config.dropouts),
        seeds=list(config.seeds),
        networks=worlds * (1 + sum(sizes.values())),
        training_epochs=worlds * (config.epochs + sum(sizes[arm] * epochs[arm] for arm in sizes)),
    )
