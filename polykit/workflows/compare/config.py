"""The options of `compare`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from polykit.runtime.training.config import TrainingConfig
from polykit.workflows.config import PluginsConfig, command_line

FLAGS = {
    "a": "",
    "others": "",
    "metrics": "--metric",
    "layers": "--layer",
    "options": "-o",
}
"""Command line flags that are not simply the field's name."""


class CompareConfig(TrainingConfig, PluginsConfig):
    """Which networks to compare, and how. Immutable.

    A network is in a run of `analyze` or `map` (RUN, RUN:SEED or RUN:CELL) or in a file of weights.
    """

    a: str = Field(description="the first network")
    others: tuple[str, ...] = Field(
        min_length=1, description="the networks that it is compared with"
    )
    model: str | None = Field(
        None, description="model plugin of files of weights; none: that of the first network's run"
    )
    dataset: str | None = Field(
        None, description="dataset plugin to compare on; none: that of the first network's run"
    )
    path: bool = Field(
        True, description="look at the line between two networks, or at their functions only"
    )
    points: int = Field(25, ge=3, le=1001, description="points on the line, its ends included")
    starts: int = Field(5, ge=1, le=1000, description="starts of the matching; the best is kept")
    randoms: int = Field(3, ge=0, le=100, description="random orders of the units, as control")
    metrics: tuple[str, ...] = Field(
        ("ig",), description="metric plugins whose headline is measured along the line"
    )
    layers: tuple[str, ...] = Field(("*",), description="layers that the metrics measure (globs)")
    samples: int = Field(10_000, ge=1, description="samples of each split that are looked at")
    pull: tuple[float, ...] = Field(
        (), description="strengths with which the first network is pulled to the other"
    )
    epochs: int = Field(10, ge=1, description="epochs under the pull, and again without it")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of matching, controls and training")
    eval_batch_size: int = Field(512, ge=1, description="samples per chunk of a measurement")

    @field_validator("others")
    @classmethod
    def _once(cls, others: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(others))

    @field_validator("pull")
    @classmethod
    def _strengths(cls, pull: tuple[float, ...]) -> tuple[float, ...]:
        if any(strength <= 0 for strength in pull):
            raise ValueError("strengths are above 0; no pull at all is always tried, too")
        return tuple(sorted(set(pull)))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pull and not self.path:
            raise ValueError("a pull goes along the line between two networks; drop --no-path")
        return self

    def command(self) -> str:
        """The command line that repeats the comparison: every option that is not its default.

        >>> CompareConfig(a="runs/x:0", others=("runs/x:1",), points=11, path=False).command()
        'polykit compare runs/x:0 runs/x:1 --no-path --points 11'
        """
        return command_line(self, ("polykit", "compare", self.a, *self.others), FLAGS)
