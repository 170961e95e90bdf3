"""How to train: the options, apart from the loop so that reading them imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingConfig(BaseModel):
    """How to train; every field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adam", "sgd", "adagrad", "lamb"] = Field(
        "adam", description="the optimiser"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum, of sgd only")
    cosine_steps: int | None = Field(
        None, ge=1, description="steps in which the rate falls to 0 along a cosine; none: constant"
    )
    bias_decay: float = Field(
        0.0, ge=0, description="share × rate of each bias that goes in a step of the first half"
    )
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    batch_size: int = Field(64, ge=1, description="samples per training step")
    stop: Literal["epochs", "loss", "best"] = Field(
        "epochs",
        description="end after all epochs, at a validation loss, or keep the best validation epoch",
    )
    stop_loss: float = Field(0.2, gt=0, description="validation loss at which stop=loss ends")

    @model_validator(mode="after")
    def _keeps_signs(self) -> Self:
        if self.bias_decay * self.lr > 1:
            raise ValueError(
                f"bias_decay {self.bias_decay:g} × lr {self.lr:g} is above 1, which would turn "
                f"biases round; lower one of them"
            )
        return self

    @property
    def training(self) -> TrainingConfig:
        """These options alone, without those that a subclass adds."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))
