"""Class prototypes as features, for data whose features are not known."""

from __future__ import annotations

import torch
from torch import Tensor

from polykit.api import FeatureSpacePlugin
from polykit.errors import DataError
from polykit.types import Data, FeatureSpace, Subject
from polykit_builtins.features.affine import Affine


class Classes(FeatureSpacePlugin):
    """One feature per class: encode(f) = μ + Σ_j f_j (μ_j − μ).

    μ is the mean of all training inputs, μ_j that of class j: the zero vector is the mean input,
    the unit vector e_j the mean input of class j. Means are summed in float64, chunk by chunk.
    """

    def build(self, subject: Subject) -> FeatureSpace:
        """Read the training split once; raise DataError for a class without training samples."""
        data, device = subject.data, subject.device
        if data.task != "classification":
            raise DataError(
                f"{data.name} is a regression and has no classes; "
                f"use the feature space 'truth' where the data brings it"
            )
        mean, offsets = class_means(data)
        dtype = torch.get_default_dtype()
        encode = Affine(mean.to(device, dtype), offsets.to(device, dtype))
        return FeatureSpace("classes", data.outputs, encode, data.classes)


def class_means(data: Data, batch_size: int = 512) -> tuple[Tensor, Tensor]:
    """Return the mean training input `[*shape]` and each class's offset from it, in float64."""
    sums = torch.zeros(data.outputs, *data.input_shape, dtype=torch.float64)
    counts = torch.zeros(data.outputs, dtype=torch.float64)
    for x, y in data.train.batches(batch_size):
        labels = y.cpu()
        sums.index_add_(0, labels, x.cpu().double())
        counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
    if bool((counts == 0).any()):
        missing = [data.classes[j] if data.classes else str(j) for j in torch.where(counts == 0)[0]]
        raise DataError(
            f"{data.name} has no training samples of class {', '.join(missing)}, so no prototype; "
            f"split it otherwise or leave the class out"
        )
    mean = sums.sum(0) / counts.sum()
    shape = (-1,) + (1,) * len(data.input_shape)
    return mean, sums / counts.view(shape) - mean
