"""How well a network does its task on the test samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from polykit.api import StreamingMetric
from polykit.errors import DataError
from polykit.runtime.objectives import task_loss
from polykit.types import Batch, Column, Measurement, Subject

Totals = tuple[float, int]
"""The sum over samples so far, and how many they were."""


class _SampleMean(StreamingMetric):
    """The mean over test samples of one number per sample."""

    @property
    def needs_outputs(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def each(self, subject: Subject, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each sample's number `[n]`."""

    def update(self, subject: Subject, state: Totals | None, batch: Batch) -> Totals:
        """Add the chunk, in float64."""
        total, count = state or (0.0, 0)
        assert batch.outputs is not None
        values = self.each(subject, batch.outputs, batch.targets)
        return total + float(values.cpu().double().sum()), count + len(values)

    def finish(self, subject: Subject, state: Totals) -> Measurement:
        """Divide."""
        total, count = state
        return Measurement(summary={self.headline: total / count})


class Loss(_SampleMean):
    """Mean loss of the test samples: cross-entropy in nats for classes, else squared error."""

    columns: ClassVar[dict[str, Column]] = {
        "loss": Column("cross-entropy (nats), or squared error, per test sample", "", 0)
    }
    headline: ClassVar[str] = "loss"

    def each(self, subject: Subject, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each sample's loss; the squared error is the mean over the outputs."""
        return task_loss(outputs, targets, subject.data.task)


class Accuracy(_SampleMean):
    """Share of the test samples whose largest output is the right class."""

    columns: ClassVar[dict[str, Column]] = {"accuracy": Column("test accuracy", "share", 0, 1)}
    headline: ClassVar[str] = "accuracy"

    def check(self, subject: Subject) -> None:
        """Raise DataError for a regression."""
        if subject.data.task != "classification":
            raise DataError(
                f"accuracy counts right classes and {subject.data.name} is a regression; use the "
                f"metric loss"
            )

    def each(self, subject: Subject, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where the class is right, else 0."""
        self.check(subject)
        return outputs.argmax(dim=1) == targets
