"""A user's own pictures, one folder per class, read from disk batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

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
from polykit.types import Data, Denormalise
from polykit_builtins.datasets.class_names import class_names

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which torchvision's pretrained networks expect."""

_MAX_PIXELS = 100_000_000
"""What a resized picture may take before it is cropped: 300 MB."""


class ImageFolder(Dataset):
    """Pictures in `PATH/CLASS/…`, or in `PATH/train/CLASS/…` with `val` and `test` beside `train`.

    Inputs are RGB `[3, crop, crop]`: short side resized to `size` (bilinear), centre crop,
    ImageNet's mean and std. Every file below a class folder counts as a picture, hidden ones
    aside; one that cannot be read is skipped, counted and named. Parts that have no folder of
    their own are taken from the pictures of `train` (or of `PATH`), each class in proportion.
    Class folders without files are left out and named. Nothing is held in memory but one batch.

    `names` is a file that tells what the folders' names mean, one line each, as ImageNet's
    `LOC_synset_mapping.txt` does: `n01440764 tench, Tinca tinca`. The 1,000 folders of ImageNet
    are known without one.
    """

    argument: ClassVar[str] = "path"

    path: str = Field("", description="the folder that holds one folder per class")
    size: int = Field(256, ge=1, le=4096, description="short side after resizing, in pixels")
    crop: int = Field(224, ge=1, le=4096, description="side of the centre crop, in pixels")
    workers: int = Field(0, ge=0, le=256, description="processes that read ahead; 0 reads itself")
    names: str = Field("", description="file with a line FOLDER NAME for each class folder")
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
            names=class_names(classes, self.names),
            picture=Denormalise(MEAN, STD),
            source=Source(root, {key: part.files for key, part in parts.items()}),
        )


@dataclass(frozen=True)
class Source:
    """Names the file of a sample, seen from the folder of all pictures."""

    root: Path
    files: Mapping[str, Sequence[str]]

    def __call__(self, split: str, index: int) -> str:
        """Return the path of the sample at `index` of `split`, relative to the root."""
        return Path(self.files[split][index]).relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Files and their class indices, read when asked for; raises Unreadable for a damaged one."""

    files: tuple[str, ...]
    labels: tuple[int, ...]
    size: int
    crop: int

    @classmethod
    def below(cls, folder: Path, classes: Sequence[str], options: ImageFolder) -> Pictures:
        """List the files of all class folders; raise DataError for a class not in `classes`."""
        here, _ = class_folders(folder)
        if unknown := sorted(set(here) - set(classes)):
            raise DataError(
                f"imagefolder: {folder} has classes without training pictures: "
                f"{', '.join(unknown)}; add them to train, or take them away"
            )
        label = {name: number for number, name in enumerate(classes)}
        found = [(file, label[name]) for name in here for file in files_below(folder / name)]
        if not found:
            raise DataError(f"imagefolder: {folder} holds no pictures in class folders; add some")
        files, labels = zip(*found, strict=True)
        return cls(files, labels, options.size, options.crop)

    def only(self, indices: Tensor) -> Pictures:
        """Return the pictures at `indices`."""
        chosen = indices.tolist()
        files = tuple(self.files[index] for index in chosen)
        return replace(self, files=files, labels=tuple(self.labels[index] for index in chosen))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = read_rgb(self.files[index])
        long, short = max(picture.size), min(picture.size)
        if self.size**2 * long / short > _MAX_PIXELS:
            raise Unreadable(
                f"{self.files[index]}: {picture.width}×{picture.height} pixels are too long and "
                f"thin to be resized to a short side of {self.size}"
            )
        return self.transform(picture), self.labels[index]

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """From a picture to the network's input `[3, crop, crop]`."""
        steps = (
            transforms.Resize(self.size),
            transforms.CenterCrop(self.crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        )
        return transforms.Compose(steps)  # type: ignore[no-any-return]


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
