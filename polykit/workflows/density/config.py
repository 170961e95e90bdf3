"""The options of `density`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from polykit.workflows.config import NetworksConfig, command_line

FLAGS = {
    "scales": "--scale",
    "inits": "--init",
    "optimizers": "--compare",
    "seeds": "--seed",
    "data_seeds": "--data-seed",
    "pruners": "--pruner",
    "metrics": "--metric",
    "layers": "--layer",
    "options": "-o",
}
"""Command line flags that are not simply the field's name."""

DROP = 0.05
"""The published threshold: five points of accuracy."""

OPTIMIZERS = ("adam", "sgd", "adagrad")


class DensityConfig(NetworksConfig):
    """Which networks to train, and how to prune them. Immutable."""

    model: str = Field("lenet", description="model plugin with the options scale and init")
    dataset: str = Field("digits", description="dataset plugin")
    scales: tuple[float, ...] = Field(
        (0.1, 0.5, 1.0, 2.0), min_length=1, description="factors on the widths"
    )
    inits: tuple[str, ...] = Field(
        ("glorot",), min_length=1, description="how weights are drawn: the model's option init"
    )
    optimizers: tuple[str, ...] = Field(
        (), description="optimisers to compare, as NAME=LR; none: --optimizer with its --lr"
    )
    data_seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="splits of the data: the dataset's option split_seed"
    )
    epochs: int = Field(100, ge=1, description="training epochs, at most")
    stop: Literal["epochs", "loss", "best"] = Field(
        "loss",
        description="end after all epochs, at a validation loss, or keep the best validation epoch",
    )
    pruners: tuple[str, ...] = Field(
        ("magnitude",), min_length=1, description="pruner plugins that give masks"
    )
    scope: Literal["global", "layer"] = Field(
        "layer", description="what competes: the whole network, or each layer for itself"
    )
    step: float = Field(0.02, gt=0, le=1, description="share that each pruning step removes")
    drop: float | None = Field(
        None, gt=0, lt=1, description="loss of accuracy that is too much; 0.05 without --rise"
    )
    rise: float | None = Field(
        None, gt=0, description="rise of validation loss that is too much, instead of a drop"
    )
    small: float = Field(
        0.4, gt=0, lt=1, description="share of smallest weights whose overlap is counted"
    )
    metrics: tuple[str, ...] = Field(
        ("hoyer", "selectivity", "ig"), description="metric plugins, on the trained networks"
    )
    class_pruner: str | None = Field(
        None, description="pruner that finds each class's subnetwork, as snip; none: no such"
    )
    class_density: float = Field(0.1, gt=0, lt=1, description="density of a class's subnetwork")
    ticket: str | None = Field(
        None, description="pruner that finds lottery tickets, as iterative-magnitude; none: no such"
    )
    ticket_density: float = Field(0.07, gt=0, lt=1, description="density of a lottery ticket")
    score_samples: int = Field(1024, ge=1, description="training samples that pruners may look at")

    @field_validator("scales")
    @classmethod
    def _positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if min(scales) <= 0:
            raise ValueError("scales are factors above 0, such as 0.5")
        return tuple(dict.fromkeys(scales))

    @field_validator("optimizers")
    @classmethod
    def _known(cls, optimizers: tuple[str, ...]) -> tuple[str, ...]:
        for text in optimizers:
            name, _, rate = text.partition("=")
            try:
                right = name in OPTIMIZERS and float(rate) > 0
            except ValueError:
                right = False
            if not right:
                raise ValueError(f"{text!r} is not {' or '.join(OPTIMIZERS)} with a rate: sgd=0.01")
        return tuple(dict.fromkeys(optimizers))

    @field_validator("data_seeds", "inits")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.drop is not None and self.rise is not None:
            raise ValueError("drop and rise are both thresholds; give one of them")
        return self

    @property
    def fall(self) -> float | None:
        """The loss of accuracy that is too much; None if the validation loss decides."""
        return (self.drop or DROP) if self.rise is None else None

    def command(self) -> str:
        """The command line that repeats the study: every option that is not its default.

        >>> DensityConfig(scales=(1.0,), rise=0.1).command()
        'polykit density --scale 1.0 --rise 0.1'
        """
        return command_line(self, ("polykit", "density"), FLAGS)
