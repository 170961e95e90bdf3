"""Tells the plugins of a training epoch."""

from __future__ import annotations

from torch import nn

from polykit.registry import Registry
from polykit.runtime.training.loop import Epoch


def tell_epoch(
    registry: Registry, epoch: Epoch, *, cell: str, phase: str, epochs: int, model: nn.Module
) -> None:
    """Send the notice `polykit_epoch`; its losses name the accuracy where there is one."""
    losses = {"loss": epoch.loss, "validation_loss": epoch.validation_loss}
    if epoch.validation_accuracy is not None:
        losses["validation_accuracy"] = epoch.validation_accuracy
    registry.notify(
        "polykit_epoch",
        cell=cell,
        phase=phase,
        epoch=epoch.epoch,
        epochs=epochs,
        losses=losses,
        model=model,
    )
