"""The digits that come with scikit-learn: real data that needs no download."""

from __future__ import annotations

from dataclasses import replace

import torch
from sklearn.datasets import load_digits

from polykit.api import Dataset, Field
from polykit.runtime.samples.data import as_data
from polykit.types import Data, Denormalise


class Digits(Dataset):
    """Handwritten digits: 1,797 grey pictures `[1, 8, 8]` scaled to [0, 1], ten classes.

    Split 60 / 20 / 20, each class in proportion. Source: Alpaydin & Kaynak 1998, Optical
    Recognition of Handwritten Digits (test part), as shipped with scikit-learn.

    >>> data = Digits().load()
    >>> len(data.train), len(data.validation), len(data.test), data.input_shape
    (1078, 360, 359, (1, 8, 8))
    """

    split_seed: int = Field(0, ge=0, description="which samples are for training, which for test")

    def load(self) -> Data:
        """Read the pictures from scikit-learn's package."""
        pixels, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)
        data = as_data(
            (x, torch.from_numpy(labels)),
            name="digits",
            classes=[str(digit) for digit in range(10)],
            seed=self.split_seed,
            fractions=(0.6, 0.2, 0.2),
        )
        return replace(data, picture=Denormalise((0.0,), (1.0,)))
