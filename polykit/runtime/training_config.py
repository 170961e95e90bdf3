"""How to train: the options, apart from the loop so that reading them imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How to train; every field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adam", "sgd", "adagrad"] = Field("adam", description="the optimiser")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum, of sgd only")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    batch_size: int = Field(64, ge=1, description="samples per training step")
    stop: Literal["epochs", "loss", "best"] = Field(
        "epochs",
        description="end after all epochs, at a validation loss, or keep the best validation epoch",
    )
    stop_loss: float = Field(0.2, gt=0, description="validation loss at which stop=loss ends")

    @property
    def training(self) -> TrainingConfig:
        """These options alone, without those that a subclass adds."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))
