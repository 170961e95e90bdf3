"""The options of `visualize`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polykit.workflows.config import SweepConfig, command_line

FLAGS = {"run": "", "units": "--unit"}
"""Command line flags that are not simply the field's name."""


class VisualizeConfig(SweepConfig):
    """Which units of which run to visualise, and how. Immutable."""

    run: str = Field(description="the run of `clusters` that the units are from")
    units: tuple[str, ...] = Field(
        (),
        description="units, e.g. features.10:15 or features.10:0-3; the one that ranks first, if "
        "none is named",
    )
    dissection: str | None = Field(
        None, description="a dissection of the run, whose subnetworks are shown, too"
    )
    pictures: int = Field(4, ge=0, le=64, description="pictures to grow for each unit")
    steps: int = Field(256, ge=1, description="steps of growing a picture")
    diversity: float = Field(
        1.0, ge=0, description="how much the grown pictures are made to differ"
    )
    examples: int = Field(
        4, ge=0, le=64, description="pictures of each cluster whose pixels are attributed"
    )
    attribution: Literal["integrated-gradients", "saliency"] = Field(
        "integrated-gradients", description="how pixels are attributed"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the grown pictures")

    @field_validator("units")
    @classmethod
    def _distinct(cls, units: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(units))

    def command(self) -> str:
        """The command line that repeats the work: every option that is not its default.

        >>> VisualizeConfig(run="runs/a", units=("conv3:1",), steps=64).command()
        'polykit visualize runs/a --unit conv3:1 --steps 64'
        """
        return command_line(self, ("polykit", "visualize", self.run), FLAGS)
