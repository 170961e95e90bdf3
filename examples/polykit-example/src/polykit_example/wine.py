"""The wine data that come with scikit-learn: real, small, and no pictures."""

from __future__ import annotations

import torch
from sklearn.datasets import load_wine

from polykit.api import Dataset, Field
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import split_indices
from polykit.types import Data

PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}


class Wine(Dataset):
    """178 wines `[13]`, standardised by the training part's mean and deviation; three growers.

    Split 60 / 20 / 20, each class in proportion. Source: Aeberhard and Forina 1991, UCI repository.
    """

    split_seed: int = Field(0, ge=0, description="which wines are for training, which for test")

    def load(self) -> Data:
        """Read the table from scikit-learn's package."""
        table = load_wine()
        x, y = torch.from_numpy(table.data), torch.from_numpy(table.target)
        parts = split_indices(len(y), list(PARTS.values()), self.split_seed, strata=y)
        train = x[parts[0]]
        x = ((x - train.mean(dim=0)) / train.std(dim=0, correction=0)).float()
        splits = {name: (x[part], y[part]) for name, part in zip(PARTS, parts, strict=True)}
        return as_data(splits, name="wine", classes=[str(name) for name in table.target_names])
