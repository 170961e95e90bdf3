"""A user's own pictures, one folder per class, read from disk batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from polykit.api import Dataset, Field
from polykit.errors import DataError
from polykit.runtime.splits import LoaderSplit, Unreadable, split_indices
from polykit.types import Data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which torchvision's pretrained networks expect."""


class ImageFolder(Dataset):
    """Pictures in `PATH/CLASS/…`, or in `PATH/train/CLASS/…` with `val` and `test` beside `train`.

    Inputs are RGB `[3, crop, crop]`: short side resized to `size` (bilinear), centre crop,
    ImageNet's mean and std. Every file below a class folder counts as a picture, hidden ones
    aside; one that cannot be read is skipped, counted and named. Parts that have no folder of
    their own are taken from the pictures of `train` (or of `PATH`), each class in proportion.
    Class folders without files are left out and named. Nothing is held in memory but one batch.
    """

    argument: ClassVar[str] = "path"

    path: str = Field("", description="the folder that holds one folder per class")
    size: int = Field(256, ge=1, le=4096, description="short side after resizing, in pixels")
    crop: int = Field(224, ge=1, le=4096, description="side of the centre crop, in pixels")
    workers: int = Field(0, ge=0, le=256, description="processes that read ahead; 0 reads itself")
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

    def load(self) -> Data:
        """List the files; raise DataError where the folders hold no two classes of them."""
        root = Path(self.path).expanduser()
        if not self.path or not root.is_dir():
            raise DataError(
                f"imagefolder: {self.path or 'no folder was named'}"
                f"{' is no folder' * bool(self.path)}; write imagefolder:PATH with one folder of "
                f"pictures per class in PATH"
            )
        folders = part_folders(root)
        classes, notes = class_folders(folders["train"])
        if len(classes) < 2:
            raise DataError(
                f"imagefolder: {folders['train']} holds the pictures of "
                f"{'one class only: ' + classes[0] if classes else 'no class'}; it needs a folder "
                f"per class, at least two of them with pictures"
                f"{''.join(f' ({note})' for note in notes)}"
            )
        parts = {key: Pictures.below(folder, classes, self) for key, folder in folders.items()}
        shares = {k: getattr(self, k) for k in ("validation", "test") if k not in folders}
        if shares:
            whole = parts["train"]
            fractions = (1 - sum(shares.values()), *shares.values())
            taken = split_indices(
                len(whole), fractions, self.split_seed, strata=torch.tensor(whole.labels)
            )
            for key, indices in zip(("train", *shares), taken, strict=True):
                parts[key] = whole.only(indices)
        splits = {
            key: LoaderSplit(part, workers=self.workers, notes=notes if key == "train" else ())
            for key, part in parts.items()
        }
        return Data(
            name=f"imagefolder:{root.name}",
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            task="classification",
            input_shape=(3, self.crop, self.crop),
            outputs=len(classes),
            classes=tuple(classes),
        )


@dataclass(frozen=True)
class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Files and their class indices, read when asked for; raises Unreadable for a damaged one."""

    files: tuple[str, ...]
    labels: tuple[int, ...]
    transform: transforms.Compose

    @classmethod
    def below(cls, folder: Path, classes: Sequence[str], options: ImageFolder) -> Pictures:
        """List the files of all class folders; raise DataError for a class not in `classes`."""
        here, _ = class_folders(folder)
        if unknown := sorted(set(here) - set(classes)):
            raise DataError(
                f"imagefolder: {folder} has classes without training pictures: "
                f"{', '.join(unknown)}; add them to train, or take them away"
            )
        found = [
            (file, classes.index(name)) for name in here for file in files_below(folder / name)
        ]
        if not found:
            raise DataError(f"imagefolder: {folder} holds no pictures in class folders; add some")
        steps = [
            transforms.Resize(options.size),
            transforms.CenterCrop(options.crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
        files, labels = zip(*found, strict=True)
        return cls(files, labels, transforms.Compose(steps))

    def only(self, indices: Tensor) -> Pictures:
        """Return the pictures at `indices`."""
        chosen = indices.tolist()
        files = tuple(self.files[index] for index in chosen)
        return Pictures(files, tuple(self.labels[i] for i in chosen), self.transform)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture: Any = read_rgb(self.files[index])
        return self.transform(picture), self.labels[index]


def part_folders(root: Path) -> dict[str, Path]:
    """Find the folders of the parts: train, val, test below `root`, or else `root` as train.

    A lone `train` among other folders is a class of that name.
    """
    spelt = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
    folders = visible_folders(root)
    found = {part: root / name for part in spelt for name in spelt[part] if name in folders}
    is_split = "train" in found and (len(found) > 1 or folders == ["train"])
    return found if is_split else {"train": root}


def visible_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that are not hidden, sorted."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Return the class folders that hold files, and a note for each one that does not."""
    names = visible_folders(folder)
    empty = [name for name in names if next(files_below(folder / name), None) is None]
    notes = [f"{folder / name}: class folder without files, left out" for name in empty]
    return [name for name in names if name not in empty], notes


def files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below `folder`, hidden ones aside, in a fixed order."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(files) if name[0] != ".")


def read_rgb(path: str) -> Image.Image:
    """Read a picture of any mode as RGB, 16-bit grey scaled to 8; raise Unreadable."""
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode == "F":
                raise ValueError("floating-point pictures have no fixed range")
            if picture.mode.startswith("I"):
                grey = np.asarray(picture, dtype=np.float64) / 65535
                if grey.min() < 0 or grey.max() > 1:
                    raise ValueError("grey levels outside the 16-bit range")
                return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")
            return picture.convert("RGB")
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        raise Unreadable(f"{path}: {type(error).__name__}: {error}") from None
