"""MNIST, Fashion-MNIST and CIFAR-10, read by torchvision and held in memory."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from polykit.api import Dataset, Field
from polykit.errors import DataError
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import split_indices
from polykit.types import Data, Denormalise

ROOT_VARIABLE = "POLYKIT_DATA_ROOT"


class TorchvisionDataset(Dataset):
    """A torchvision dataset of pictures in memory: float32, each channel at mean 0 and std 1.

    A tenth of the training part serves for validation, each class in proportion.
    """

    label: ClassVar[str]
    source: ClassVar[type[Any]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    root: str | None = Field(
        None,
        description=f"folder that holds the data, as torchvision lays it out ({ROOT_VARIABLE})",
    )
    download: bool = Field(False, description="download what the folder lacks")
    limit: int | None = Field(
        None, ge=2, description="at most so many samples per split, each class in proportion"
    )
    split_seed: int = Field(0, ge=0, description="which training samples serve for validation")

    def load(self) -> Data:
        """Read the files; raise DataError where they are missing or damaged."""
        pixels, labels, classes = self._read(train=True)
        kept, held = split_indices(len(labels), (0.9, 0.1), self.split_seed, strata=labels)
        test_pixels, test_labels, _ = self._read(train=False)
        data = as_data(
            {
                "train": self._part(pixels[kept], labels[kept]),
                "validation": self._part(pixels[held], labels[held]),
                "test": self._part(test_pixels, test_labels),
            },
            name=self.label,
            classes=classes,
        )
        return replace(data, picture=Denormalise(self.mean, self.std))

    def _read(self, *, train: bool) -> tuple[Tensor, Tensor, list[str]]:
        """Return pixels `[n, channels, height, width]` (uint8), labels `[n]` and class names."""
        root = self.root or os.environ.get(ROOT_VARIABLE)
        if not root:
            raise DataError(
                f"{self.label} needs a folder for its files: give --data-root DIR or set "
                f"{ROOT_VARIABLE}; --download fills it"
            )
        folder = Path(root).expanduser()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # torchvision reports downloads on stdout
                found = self.source(folder, train=train, download=self.download)
        except Exception as error:  # damaged files raise whatever the parser stumbles over
            raise DataError(
                f"{self.label} cannot be read from {folder} ({type(error).__name__}: {error}); "
                f"name the folder that holds it with --data-root DIR, or fetch it with --download"
            ) from error
        pixels = torch.as_tensor(found.data)
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        return pixels, torch.as_tensor(found.targets), list(found.classes)

    def _part(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.limit is not None and self.limit < len(labels):
            share = self.limit / len(labels)
            kept, _ = split_indices(len(labels), (share, 1 - share), self.split_seed, strata=labels)
            pixels, labels = pixels[kept], labels[kept]
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std), labels


class Mnist(TorchvisionDataset):
    """Handwritten digits `[1, 28, 28]`: 54,000 + 6,000 + 10,000 samples, 220 MB in memory.

    Source: LeCun et al. 1998. Raises DataError where the files are missing or damaged.
    """

    label = "mnist"
    source = datasets.MNIST
    mean = (0.1307,)
    std = (0.3081,)


class FashionMnist(TorchvisionDataset):
    """Pictures of clothes `[1, 28, 28]`: 54,000 + 6,000 + 10,000 samples, 220 MB in memory.

    Source: Xiao et al. 2017, arXiv:1708.07747. Raises DataError where the files are missing or
    damaged.
    """

    label = "fashion-mnist"
    source = datasets.FashionMNIST
    mean = (0.2860,)
    std = (0.3530,)


class Cifar10(TorchvisionDataset):
    """Colour pictures `[3, 32, 32]`: 45,000 + 5,000 + 10,000 samples, 740 MB in memory.

    Source: Krizhevsky 2009. Raises DataError where the files are missing or damaged.
    """

    label = "cifar10"
    source = datasets.CIFAR10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
