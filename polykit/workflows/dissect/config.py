"""The options of `dissect`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polykit.workflows.config import PluginsConfig, command_line

FLAGS = {
    "run": "",
    "units": "--unit",
    "pruners": "--pruner",
    "densities": "--density",
    "options": "-o",
}
"""Command line flags that are not simply the field's name."""

DENSITY = 0.05
"""What a pruner is asked to keep that cannot choose for itself, if nothing is asked for."""


class DissectConfig(PluginsConfig):
    """Which units of which run to cut apart, by what, and how to check it. Immutable."""

    run: str = Field(description="the run of `clusters` that the units are from")
    units: tuple[str, ...] = Field(
        (), description="units, e.g. features.10:15; the one that ranks first, if none is named"
    )
    pruners: tuple[str, ...] = Field(
        ("cs", "force", "snip", "actgrad"), min_length=1, description="pruner plugins"
    )
    densities: tuple[float, ...] = Field(
        (), description=f"share of parameters to keep; learned masks choose, others take {DENSITY}"
    )
    objective: Literal["contrast", "preserve"] = Field(
        "contrast",
        description="what a learned mask does: tell the cluster from the others, or keep the unit "
        "as it is on the cluster and silent on the others",
    )
    granularity: Literal["weight", "kernel", "unit"] = Field(
        "weight", description="what is removed: weights, kernels, or whole units"
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="what competes: everything below the unit, or each layer"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every draw")
    held_out: float = Field(
        0.5, gt=0, lt=1, description="share of each cluster's pictures that no pruner sees"
    )
    enough: int = Field(
        20, ge=2, description="held-out pictures of each cluster below which nothing is concluded"
    )
    neither: int = Field(
        200, ge=2, le=10_000, description="pictures of no cluster to watch the unit drift on"
    )
    others: int = Field(
        4, ge=1, le=100, description="units of each control network to try the same on"
    )
    randoms: int = Field(
        20, ge=2, le=1000, description="random masks as sparse, layer by layer, as each part"
    )
    eval_batch_size: int = Field(64, ge=1, description="pictures per chunk")

    @field_validator("units", "pruners")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @field_validator("densities")
    @classmethod
    def _shares(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        for density in densities:
            if not 0 < density < 1:
                raise ValueError(f"density {density:g} is outside (0, 1); 0.1 keeps a tenth")
        return tuple(dict.fromkeys(densities))

    def command(self) -> str:
        """The command line that repeats the dissection: every option that is not its default.

        >>> DissectConfig(run="runs/a", units=("conv3:1",), densities=(0.1,)).command()
        'polykit dissect runs/a --unit conv3:1 --density 0.1'
        """
        return command_line(self, ("polykit", "dissect", self.run), FLAGS)
