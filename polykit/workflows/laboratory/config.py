"""The options of the laboratory: the one place of their names, bounds and defaults."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from polykit.workflows.config import MIN_CEILING, NetworksConfig

Arm = Literal["unpruned", "pruned", "random", "scratch"]
ARMS: tuple[Arm, ...] = get_args(Arm)


class Scenario(BaseModel):
    """A kind of world: which data, and which network looks at them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="what to call it: letters, digits, . _ -")
    dataset: str = Field("feature-model", description="dataset plugin; its seed is the run's")
    model: str = Field("mlp", description="model plugin; its dropout is the run's")
    description: str = Field("", description="what a reader should know about it")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("a scenario's name is made of letters, digits, '.', '_' and '-'")
        return name


class LaboratoryConfig(NetworksConfig):
    """Which worlds to make, what to do to the networks in them, and what to measure. Immutable."""

    scenarios: tuple[Scenario, ...] = Field(min_length=1, description="the kinds of world")
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=1, description="one world for each")
    dropouts: tuple[float, ...] = Field(
        (0.0, 0.5), min_length=1, description="the model's option dropout, each in turn"
    )
    pruner: str = Field("structured:counts=units", description="a pruner that removes units")
    ratios: tuple[float, ...] = Field(
        (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
        min_length=1,
        description="what the pruner is asked to remove, as a share",
    )
    arms: tuple[Arm, ...] = Field(
        ARMS, min_length=1, description="what to do to the dense network, and the controls"
    )
    metrics: tuple[str, ...] = Field(
        ("ig", "feature-dimensionality"),
        min_length=1,
        description="metric plugins; the question is asked of the first one's headline",
    )
    epochs: int = Field(50, ge=1, description="training epochs of dense and fresh networks")
    retrain_epochs: int = Field(50, ge=1, description="training epochs after pruning, or without")
    retrain_lr: float = Field(0.01, gt=0, description="learning rate after pruning, or without")
    ensemble: int | None = Field(
        None, ge=1, description="networks trained at once; 50, or fewer if they are large"
    )
    threads: int = Field(
        1, ge=1, description="CPU threads; more help large networks on an idle machine only"
    )
    min_ceiling: float = Field(
        MIN_CEILING,
        ge=0,
        le=1,
        description="share of the labels that the features must explain to interpret a scenario",
    )

    @field_validator("ratios")
    @classmethod
    def _removable(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        for ratio in ratios:
            if not 0 < ratio < 1:
                raise ValueError(f"ratio {ratio:g} is outside (0, 1); 0.3 removes three tenths")
        return tuple(sorted(set(ratios)))

    @field_validator("arms")
    @classmethod
    def _once(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return tuple(dict.fromkeys(arms))

    @field_validator("dropouts")
    @classmethod
    def _shares(cls, dropouts: tuple[float, ...]) -> tuple[float, ...]:
        for dropout in dropouts:
            if not 0 <= dropout < 1:
                raise ValueError(f"dropout {dropout:g} is outside [0, 1)")
        return tuple(dict.fromkeys(dropouts))

    @field_validator("scenarios")
    @classmethod
    def _named_apart(cls, scenarios: tuple[Scenario, ...]) -> tuple[Scenario, ...]:
        names = [scenario.name for scenario in scenarios]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scenarios are called {name!r}; give each its own name")
        return scenarios
