"""A user's own pictures in tar shards, as WebDataset lays them out."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from pydantic import model_validator

from polykit.api import Field
from polykit.errors import DataError
from polykit.runtime.samples.splits import Unreadable
from polykit.types import Data
from polykit_builtins.datasets.labels import MOST_CLASSES, PARTS, class_name, order_classes
from polykit_builtins.datasets.patterns import matching
from polykit_builtins.datasets.pictures import Numbers, PictureDataset, printable
from polykit_builtins.datasets.tar import Member, members

PICTURES = tuple("jpg jpeg png webp bmp gif tif tiff ppm pgm pbm pnm".split())
"""Endings of pictures; the first of these that a sample has is its picture."""

_LARGEST = 256_000_000
"""Bytes of a picture's file that are read."""
_LONGEST = 1_000_000
"""Bytes of a file with a label that are read."""


class WebDataset(PictureDataset):
    """Pictures in tar archives, where files that follow each other under one key are a sample.

    `cat/1.jpg` and `cat/1.cls` are the sample `cat/1`: its picture (JPEG, PNG, WebP, …) and its
    class. `path` is a folder of `.tar` files, a glob, or a list like `train-{000..146}.tar`. Shards
    with `train`, `val` or `test` among the words of their path are these parts; where no shard is
    `train`, all are one. Parts without shards are taken from the pictures of `train`, each class in
    proportion.

    Classes that are all whole numbers are the network's outputs of these numbers, others are sorted
    by name. Inputs are RGB `[3, crop, crop]`, as `imagefolder` makes them. Shards are indexed once,
    headers only, and pictures read in any order: nothing is unpacked, and what is in memory is one
    batch and 50 bytes per picture. Samples without a picture or class are left out and counted,
    pictures that cannot be read are skipped and named.

    Source: the layout of Aizman, Maltby & Breuel 2019, High performance I/O for large scale deep
    learning, arXiv:2001.01858.
    """

    path: str = Field("", description="folder, glob or list of shards: train-{000..146}.tar")
    label: str = Field(
        "cls,json.label,txt",
        description="the endings of the file with a sample's class: the first there is; json.KEY "
        "is a key in it",
    )

    @model_validator(mode="after")
    def _labels(self) -> Self:
        if not all(self.endings) or {"json", "json."} & set(self.endings):
            raise ValueError(
                f"label={self.label} names no files; write endings like cls,txt or json.KEY"
            )
        return self

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of files with a class, the best first."""
        return tuple(ending.strip() for ending in self.label.split(","))

    def load(self) -> Data:
        """Index the shards.

        Raises DataError where there are none, where one is damaged or no tar archive, or where they
        hold no two classes.
        """
        shards = matching(self.path, ".tar", "webdataset")
        root = Path(os.path.commonpath([shard.parent for shard in shards]))
        parts = shards_by_part(shards, root)
        index = Index(self.endings)
        found = {key: index.add(own) for key, own in parts.items()}
        notes = index.notes()
        classes, numbers = order_classes(list(index.classes), "webdataset")
        if len(index.classes) < 2:
            raise DataError(
                f"webdataset: {self.path} holds "
                f"{'one class only: ' + classes[-1] if classes else 'no picture with a class'}; a "
                f"sample is a picture and a file with its class side by side, such as 1.jpg and "
                f"1.cls, and there must be two classes{''.join(f' ({note})' for note in notes)}"
            )
        empty = [key for key, where in found.items() if not len(where)]
        if empty:
            raise DataError(f"webdataset: the shards of {empty[0]} hold no picture with a class")
        return self.assemble(
            f"webdataset:{root.name}",
            {
                key: (TarFiles(root, parts[key], where[:, :4]), numbers[where[:, 4]])
                for key, where in found.items()
            },
            classes,
            notes,
        )


@dataclass(frozen=True, eq=False)
class TarFiles:
    """Pictures in tar archives: `where [n, 4]` is each one's shard, header, content and size."""

    root: Path
    shards: tuple[Path, ...]
    where: Numbers

    def __len__(self) -> int:
        return len(self.where)

    def name(self, index: int) -> str:
        """Shard and name, with a colon between."""
        shard, header, *_ = self.where[index].tolist()
        try:
            with self.shards[shard].open("rb") as archive:
                name = next(members(archive, header)).name
        except (OSError, DataError, StopIteration):
            name = f"the file at byte {header}"
        return printable(f"{self.shards[shard].relative_to(self.root).as_posix()}:{name}")

    def open(self, index: int) -> BinaryIO:
        """Read the picture's file into memory; Unreadable for one that is too large or cut."""
        shard, _, content, size = self.where[index].tolist()
        if size > _LARGEST:
            raise Unreadable(f"a file of {size:,} bytes is too large for a picture")
        with self.shards[shard].open("rb") as archive:
            archive.seek(content)
            return BytesIO(archive.read(size))

    def only(self, indices: Numbers) -> TarFiles:
        """The pictures at `indices`."""
        return TarFiles(self.root, self.shards, self.where[indices])

    def ends(self) -> tuple[int, ...]:
        """Where one shard ends and the next begins."""
        return tuple((np.flatnonzero(np.diff(self.where[:, 0])) + 1).tolist())


class Index:
    """Gathers where pictures lie, their classes by name, and what was left out."""

    def __init__(self, endings: Sequence[str]) -> None:
        self.classes: dict[str, int] = {}
        self._labels = tuple(_file_and_key(ending) for ending in endings)
        self._files = {*PICTURES, *(file for file, _ in self._labels)}
        self._left_out: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, shards: Sequence[Path]) -> Numbers:
        """Index shards: `[n, 5]`, shard, header, content, size and class of each picture.

        Raises DataError for a shard that is damaged.
        """
        found = array("q")
        for number, shard in enumerate(shards):
            try:
                with shard.open("rb") as archive:
                    for key, files in self._samples(archive):
                        found.extend(self._row(number, shard, archive, key, files))
            except OSError as error:
                raise DataError(f"webdataset: {shard} cannot be read: {error.strerror}") from error
            except DataError as error:
                raise DataError(
                    f"webdataset: {shard} {error}; fetch or make it anew, or leave it out of the "
                    f"pattern"
                ) from None
        return np.array(found, dtype=np.int64).reshape(-1, 5)

    def notes(self) -> list[str]:
        """One line for each reason for which samples were left out."""
        return [
            f"{count} samples {reason}, left out; the first: {self._first[reason]}"
            for reason, count in self._left_out.items()
        ]

    def _samples(self, archive: BinaryIO) -> Iterator[tuple[str, dict[str, Member]]]:
        """Yield each sample's key and those of its files that matter, by ending."""
        named = ((split_name(member.name), member) for member in members(archive))
        for key, group in groupby(named, key=lambda pair: pair[0][0]):
            if not key or "__" in (key[:2], key[-2:]):  # WebDataset's own remarks on a shard
                continue
            files: dict[str, Member] = {}
            for (_, ending), member in group:
                if ending in files:
                    raise DataError(f"holds two files {printable(member.name)} in one sample")
                if ending in self._files:
                    files[ending] = member
            yield key, files

    def _row(
        self, number: int, shard: Path, archive: BinaryIO, key: str, files: dict[str, Member]
    ) -> Sequence[int]:
        picture = next((files[ending] for ending in PICTURES if ending in files), None)
        name = self._class(archive, files)
        if picture is None or name is None:
            reason = f"without a {'class' if picture else 'picture'}"
            self._left_out[reason] += 1
            self._first.setdefault(reason, printable(f"{shard.name}:{key}"))
            return ()
        label = self.classes.setdefault(name, len(self.classes))
        if len(self.classes) > MOST_CLASSES:
            raise DataError(f"has more than {MOST_CLASSES:,} different classes; see option label")
        return number, picture.header, picture.content, picture.size, label

    def _class(self, archive: BinaryIO, files: dict[str, Member]) -> str | None:
        """Read the class of a sample; None where it has none that makes sense."""
        for ending, key in self._labels:
            member = files.get(ending)
            if member is None or member.size > _LONGEST:
                continue
            archive.seek(member.content)
            text = archive.read(member.size)
            name = class_name(_value(text, key) if key else text)
            if name:
                return name
        return None


def split_name(name: str) -> tuple[str, str]:
    """Split a file's name into the sample's key and the ending, at the first dot of the last part.

    >>> split_name("a.b/0001.seg.PNG"), split_name("./0001.jpg"), split_name("README")
    (('a.b/0001', 'seg.png'), ('./0001', 'jpg'), ('', ''))
    """
    folder, slash, last = name.rpartition("/")
    key, dot, ending = last.partition(".")
    return (folder + slash + key, ending.lower()) if key and dot else ("", "")


def shards_by_part(shards: Sequence[Path], root: Path) -> dict[str, tuple[Path, ...]]:
    """Sort shards into the parts that the words of their paths below `root` name, the last first.

    All of them are `train` where none is called so.
    """
    found: dict[str, list[Path]] = {}
    for shard in shards:
        words = re.findall(r"[a-z]+", str(shard.relative_to(root)).lower())
        part = next((PARTS[word] for word in reversed(words) if word in PARTS), "")
        found.setdefault(part, []).append(shard)
    if "train" not in found:
        return {"train": tuple(shards)}
    if unknown := found.get(""):
        raise DataError(
            f"webdataset: {unknown[0]} is no shard of train, val or test by its name, as others "
            f"are; leave it out of the pattern"
        )
    return {part: tuple(own) for part, own in found.items()}


def _file_and_key(ending: str) -> tuple[str, str]:
    """Split json.KEY into the file's ending and the key; other endings have no key."""
    return ("json", ending[5:]) if ending.startswith("json.") else (ending, "")


def _value(text: bytes, key: str) -> Any:
    """Return what JSON holds under a key; None where it holds nothing there, or is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content.get(key) if isinstance(content, dict) else None
