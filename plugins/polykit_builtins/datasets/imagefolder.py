"""A user's own pictures, one folder per class, read from disk batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polykit.api import Field
from polykit.errors import DataError
from polykit.types import Data
from polykit_builtins.datasets.pictures import Numbers, PictureDataset, printable


class ImageFolder(PictureDataset):
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

    path: str = Field("", description="the folder that holds one folder per class")
    names: str = Field("", description="file with a line FOLDER NAME for each class folder")

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
        parts = {key: pictures_below(folder, root, classes) for key, folder in folders.items()}
        return self.assemble(f"imagefolder:{root.name}", parts, classes, notes)


@dataclass(frozen=True)
class Paths:
    """Files by themselves, named as they are seen from `root`."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path, relative to the root."""
        return printable(Path(self.paths[index]).relative_to(self.root).as_posix())

    def open(self, index: int) -> Path:
        """The path."""
        return Path(self.paths[index])

    def only(self, indices: Numbers) -> Paths:
        """The paths at `indices`."""
        return Paths(self.root, tuple(self.paths[index] for index in indices.tolist()))

    def ends(self) -> tuple[int, ...]:
        """No archives, no ends."""
        return ()


def pictures_below(folder: Path, root: Path, classes: Sequence[str]) -> tuple[Paths, Numbers]:
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
    return Paths(root, files), np.array(labels, dtype=np.int64)


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
