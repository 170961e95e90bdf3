"""The options of `analyze`: the one place of their names, bounds and defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polykit.workflows.config import NetworksConfig, command_line

FLAGS = {
    "pruners": "--pruner",
    "metrics": "--metric",
    "bases": "--basis",
    "densities": "--density",
    "seeds": "--seed",
    "layers": "--layer",
    "prune_layers": "--prune-layer",
    "options": "-o",
}
"""Command line flags that are not simply the field's name."""


class PrunedConfig(NetworksConfig):
    """Which networks to train, and how to prune them. Plugins are named as on the command line."""

    model: str = Field("mlp", description="model plugin, torchvision name, or module:factory")
    dataset: str = Field("digits", description="dataset plugin")
    pruners: tuple[str, ...] = Field(("magnitude", "force"), description="pruner plugins")
    densities: tuple[float, ...] = Field(
        (0.5, 0.2, 0.1, 0.05), min_length=1, description="shares of parameters to keep"
    )
    prune_layers: tuple[str, ...] = Field(("*",), description="layers to prune (globs)")
    granularity: Literal["weight", "kernel", "unit"] = Field(
        "weight", description="what is removed: weights, k×k kernels, or whole units"
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="what competes: the whole network, or each layer for itself"
    )
    objective: str = Field(
        "task", description="what to preserve: task, or LAYER:UNIT[@mean|max|center|ROW,COLUMN]"
    )
    prune_at: Literal["trained", "init"] = Field(
        "trained", description="prune the trained network, or at initialisation"
    )
    control: bool = Field(True, description="add the random pruner as control")
    epochs: int | None = Field(
        None, ge=0, description="training epochs; 30, or 0 for a network that comes trained"
    )
    retrain_epochs: int | None = Field(
        None, ge=0, description="epochs after pruning; 10, or as many as training at init"
    )
    score_samples: int = Field(1024, ge=1, description="training samples that pruners may look at")
    checkpoint: str | None = Field(None, description="weights to load: .safetensors or .pt")
    keep_weights: bool = Field(
        False, description="keep pruned networks' weights, too, not only what was removed"
    )

    @field_validator("densities")
    @classmethod
    def _shares(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        for density in densities:
            if not 0 < density <= 1:
                raise ValueError(f"density {density:g} is outside (0, 1]; 0.1 keeps a tenth")
        return tuple(dict.fromkeys(densities))


class AnalyzeConfig(PrunedConfig):
    """What to analyse and how. Immutable."""

    metrics: tuple[str, ...] = Field(("ig",), description="metric plugins, beside the plain ones")
    track: tuple[str, ...] = Field((), description="metrics to measure after each epoch, too")
    bases: tuple[Literal["interaction", "pca"], ...] = Field(
        (),
        description="bases to take metrics of units in, beside the neurons, where a metric can: "
        "interaction, or pca for principal axes",
    )

    def command(self) -> str:
        """The command line that repeats the analysis: every option that is not its default.

        >>> AnalyzeConfig(seeds=(3,), control=False).command()
        'polykit analyze --seed 3 --no-control'
        """
        return command_line(self, ("polykit", "analyze"), FLAGS)
