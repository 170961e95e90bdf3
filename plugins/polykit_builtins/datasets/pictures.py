"""What the datasets of a user's own pictures share: options, decoding, parts read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, Self

import numpy as np
import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from polykit.api import Dataset, Field
from polykit.runtime.samples.splits import LoaderSplit, Unreadable, split_indices
from polykit.types import Data, Denormalise
from polykit_builtins.datasets.class_names import class_names

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which torchvision's pretrained networks expect."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]

_MAX_PIXELS = 100_000_000
"""What a resized picture may take before it is cropped: 300 MB."""


class PictureDataset(Dataset):
    """Pictures that are decoded when they are asked for: nothing but one batch is in memory.

    Inputs are RGB `[3, crop, crop]`: short side resized to `size` (bilinear), centre crop,
    ImageNet's mean and std. A picture that cannot be read is skipped, counted and named.
    """

    argument: ClassVar[str] = "path"

    path: str = Field("", description="where the pictures are")
    size: int = Field(256, ge=1, le=4096, description="short side after resizing, in pixels")
    crop: int = Field(224, ge=1, le=4096, description="side of the centre crop, in pixels")
    workers: int = Field(0, ge=0, le=256, description="processes that read ahead; 0 reads itself")
    names: str = Field("", description="file with a line CLASS NAME for each class")
    validation: float = Field(0.15, gt=0, lt=1, description="share taken for validation")
    test: float = Field(0.15, gt=0, lt=1, description="share taken for test")
    split_seed: int = Field(0, ge=0, description="which pictures are taken")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.crop > self.size:
            raise ValueError(f"crop={self.crop} is larger than size={self.size}; lower crop")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave no share for training; lower them")
        return self

    def assemble(
        self,
        name: str,
        parts: Mapping[str, tuple[Files, Numbers]],
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> Data:
        """Make `Data` of files and their class indices, by part; `train` must be among them.

        Parts that are not there are taken from the pictures of `train`, each class in proportion.
        `notes` say what was left out. Raises DataError where the pictures are too few for that.
        """
        pictures = {key: Pictures(*part, self.size, self.crop) for key, part in parts.items()}
        shares = {key: getattr(self, key) for key in ("validation", "test") if key not in parts}
        if shares:
            whole = pictures["train"]
            fractions = (1 - sum(shares.values()), *shares.values())
            taken = split_indices(
                len(whole), fractions, self.split_seed, strata=torch.from_numpy(whole.labels)
            )
            for key, indices in zip(("train", *shares), taken, strict=True):
                pictures[key] = whole.only(indices.numpy())
        splits = {
            key: LoaderSplit(
                part,
                workers=self.workers,
                notes=notes if key == "train" else (),
                ends=part.files.ends(),
            )
            for key, part in pictures.items()
        }
        shown = tuple(printable(each) for each in classes)
        return Data(
            name=name,
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            task="classification",
            input_shape=(3, self.crop, self.crop),
            outputs=len(classes),
            classes=shown,
            names=class_names(shown, self.names),
            picture=Denormalise(MEAN, STD),
            source=lambda split, index: pictures[split].files.name(index),
        )


class Files(Protocol):
    """The files of some pictures, by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Say which file it is, in printable text."""
        ...

    def open(self, index: int) -> Path | BinaryIO:
        """Give the file to read: its path, or its content."""
        ...

    def only(self, indices: Numbers) -> Files:
        """Return the files at `indices`."""
        ...

    def ends(self) -> tuple[int, ...]:
        """Where one archive ends and the next begins; empty for files by themselves."""
        ...


@dataclass(frozen=True, eq=False)
class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Pictures and their class indices `[n]`, read when asked for; Unreadable for a damaged one."""

    files: Files
    labels: Numbers
    size: int
    crop: int

    def only(self, indices: Numbers) -> Pictures:
        """Return the pictures at `indices`."""
        return replace(self, files=self.files.only(indices), labels=self.labels[indices])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            picture = read_rgb(self.files.open(index))
            self._check(picture)
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
            reason = str(error) if isinstance(error, Unreadable) else _described(error)
            raise Unreadable(printable(f"{self.files.name(index)}: {reason}")) from None
        return transform(self.size, self.crop)(picture), int(self.labels[index])

    def _check(self, picture: Image.Image) -> None:
        long, short = max(picture.size), min(picture.size)
        if self.size**2 * long / short > _MAX_PIXELS:
            raise Unreadable(
                f"{picture.width}×{picture.height} pixels are too long and thin to be resized to a "
                f"short side of {self.size}"
            )


def transform(size: int, crop: int) -> Callable[[Image.Image], Tensor]:
    """From a picture to a network's input `[3, crop, crop]`."""
    steps = (
        transforms.Resize(size),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    )
    return transforms.Compose(steps)  # type: ignore[no-any-return]


def read_rgb(file: Path | BinaryIO) -> Image.Image:
    """Read a picture of any mode as RGB, 16-bit grey scaled to 8.

    A damaged file raises whatever the decoder stumbles over.
    """
    with Image.open(file) as picture:
        picture.load()
        if picture.mode == "F":
            raise ValueError("floating-point pictures have no fixed range")
        if picture.mode.startswith("I"):
            grey = np.asarray(picture, dtype=np.float64) / 65535
            if grey.min() < 0 or grey.max() > 1:
                raise ValueError("grey levels outside the 16-bit range")
            return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")
        return picture.convert("RGB")


def printable(text: str) -> str:
    r"""Return a text that can be written anywhere: surrogates become `\uNNNN`.

    Names of files have them in place of bytes that are no UTF-8; no table or page can take them.

    >>> print(printable("caf" + chr(0xDCE9)))
    caf\udce9
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
