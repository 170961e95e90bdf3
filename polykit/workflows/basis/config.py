"""The options of `basis`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polykit.workflows.analyze.config import FLAGS as PRUNED_FLAGS
from polykit.workflows.analyze.config import PrunedConfig
from polykit.workflows.config import command_line

FLAGS = {
    **{name: flag for name, flag in PRUNED_FLAGS.items() if name != "metrics"},
    "origins": "--origin",
    "cutoffs": "--cutoff",
    "resolutions": "--resolution",
}
"""Command line flags that are not simply the field's name."""


class BasisConfig(PrunedConfig):
    """Which networks' interaction graphs to draw, in which bases, and how to seek modules.

    Immutable. Of cutoffs and resolutions the first is the one that is drawn and told of.
    """

    pruners: tuple[str, ...] = Field((), description="pruner plugins; none: no graph after pruning")
    densities: tuple[float, ...] = Field(
        (0.1,), min_length=1, description="shares of parameters to keep"
    )
    bases: tuple[Literal["interaction", "neuron", "pca"], ...] = Field(
        ("interaction", "neuron", "pca"),
        min_length=1,
        description="bases: interaction, neuron, or pca for principal axes",
    )
    origins: tuple[Literal["zero", "mean"], ...] = Field(
        ("zero", "mean"),
        min_length=1,
        description="what values are told from: zero, with a constant 1, or their mean, without",
    )
    cutoffs: tuple[float, ...] = Field(
        (1e-4, 1e-3, 1e-5),
        min_length=1,
        description="edges below this share of the outputs' variance count as none",
    )
    resolutions: tuple[float, ...] = Field(
        (1.0, 0.5, 2.0),
        min_length=1,
        description="resolutions of the Leiden algorithm: higher, smaller modules",
    )
    samples: int = Field(1000, ge=2, description="test samples to look at, the first ones")
    inputs: bool = Field(True, description="begin the graph with the network's input")
    steps: int = Field(
        16, ge=1, le=1000, description="points of an attribution's path, beyond linear and ReLU"
    )

    @field_validator("cutoffs", "resolutions")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("must be above 0, such as 0.001")
        return tuple(dict.fromkeys(values))

    @field_validator("bases", "origins")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    def command(self) -> str:
        """The command line that repeats the run: every option that is not its default.

        >>> BasisConfig(bases=("interaction",), inputs=False).command()
        'polykit basis --basis interaction --no-inputs'
        """
        return command_line(self, ("polykit", "basis"), FLAGS)
