"""Pictures in a Hugging Face dataset, on disk or from the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np

from polykit.api import Field
from polykit.errors import DataError
from polykit.runtime.samples.splits import Unreadable
from polykit.types import Data
from polykit_builtins.datasets.labels import PARTS, class_name, order_classes
from polykit_builtins.datasets.pictures import Numbers, PictureDataset


class HuggingFace(PictureDataset):
    """Pictures in a dataset that `save_to_disk` wrote, or that the Hub knows by `path`.

    Only rows are read, never code. A dataset of several splits gives its `train`, `validation` (or
    `val`, `valid`) and `test`; parts that it lacks are taken from `train`, each class in
    proportion. A dataset of one split is `train`. Rows without a class are left out and counted,
    pictures that cannot be read are skipped and named. The table stays on disk; what is in memory
    is one batch, and the labels.

    Inputs are RGB `[3, crop, crop]`, as `imagefolder` makes them. Classes are those that the label
    column names; of other columns, whole numbers are the network's outputs of these numbers, and
    texts are sorted. Needs `pip install 'polykit[huggingface]'`.

    Source: Lhoest et al. 2021, Datasets: a community library for natural language processing,
    arXiv:2109.02846.
    """

    path: str = Field("", description="folder that save_to_disk wrote, or a name on the Hub")
    configuration: str = Field("", description="configuration of a dataset on the Hub")
    revision: str = Field("", description="commit or tag of a dataset on the Hub")
    picture: str = Field("", description="column of pictures; the first there is")
    label: str = Field("", description="column of classes; the first that names classes")

    def load(self) -> Data:
        """Open the tables; raise DataError where they are damaged, or hold no two classes."""
        tables = self._by_part(self._open())
        first = tables["train"].features
        picture = _column(first, self.picture, "picture", datasets.Image)
        label = _column(first, self.label, "label", datasets.ClassLabel)
        named = getattr(first[label], "names", None)
        parts: dict[str, tuple[Rows, list[str | None]]] = {}
        for part, table in tables.items():
            if not {picture, label} <= set(table.features):
                raise DataError(
                    f"huggingface: {part} has not the columns {picture} and {label} of train"
                )
            values = table.with_format(None)[label]
            names = [_class_of(value, named) for value in values]
            rows = np.flatnonzero([name is not None for name in names])
            raw = table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
            parts[part] = Rows(raw.with_format(None), picture, part, rows), names
        every = {name: None for _, names in parts.values() for name in names if name is not None}
        if len(every) < 2:
            raise DataError(
                f"huggingface: column {label} of {self.path} holds fewer than two classes"
            )
        classes, place = _numbered(list(every), named)
        lost = {part: names.count(None) for part, (_, names) in parts.items()}
        return self.assemble(
            f"huggingface:{Path(self.path).name}",
            {
                part: (rows, np.array([place[n] for n in names if n is not None], dtype=np.int64))
                for part, (rows, names) in parts.items()
            },
            classes,
            [f"{part}: {n} rows without a class, left out" for part, n in lost.items() if n],
        )

    def _open(self) -> Any:
        if not self.path:
            raise DataError(
                "huggingface: no dataset was named; write huggingface:PATH with a folder that "
                "save_to_disk wrote, or huggingface:NAME with a name on the Hub"
            )
        try:
            if Path(self.path).expanduser().is_dir():
                return datasets.load_from_disk(str(Path(self.path).expanduser()))
            return datasets.load_dataset(
                self.path, self.configuration or None, revision=self.revision or None
            )
        except Exception as error:  # the library raises whatever a damaged file leads to
            raise DataError(
                f"huggingface: {self.path} cannot be opened ({type(error).__name__}: {error}); it "
                f"is the name of a dataset on the Hub, or a folder that save_to_disk wrote "
                f"(for folders of pictures there is imagefolder)"
            ) from error

    def _by_part(self, found: Any) -> dict[str, Any]:
        """Sort the splits of a dataset into the parts; a lone one is `train`."""
        if not isinstance(found, Mapping):
            return {"train": found}
        parts = {PARTS[name]: table for name, table in found.items() if name in PARTS}
        if len(found) == 1:
            parts = {"train": next(iter(found.values()))}
        if "train" not in parts:
            raise DataError(
                f"huggingface: {self.path} has no split train, but {', '.join(found) or 'none'}"
            )
        return parts


@dataclass(frozen=True, eq=False)
class Rows:
    """Pictures in a column of a table: `rows [n]` are their places in it."""

    table: Any
    column: str
    part: str
    rows: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The split and the row."""
        return f"{self.part}:{self.rows[index]}"

    def open(self, index: int) -> Path | BinaryIO:
        """The content of the picture's file, or the file that the row names."""
        found = self.table[int(self.rows[index])][self.column]
        if found and found.get("bytes"):
            return BytesIO(found["bytes"])
        path = Path(found["path"]) if found and found.get("path") else None
        if path is None or not path.is_file():
            raise Unreadable("no picture" if path is None else f"there is no file {path}")
        return path

    def only(self, indices: Numbers) -> Rows:
        """The pictures at `indices`."""
        return Rows(self.table, self.column, self.part, self.rows[indices])

    def ends(self) -> tuple[int, ...]:
        """One table, no ends."""
        return ()


def _column(features: Mapping[str, Any], name: str, what: str, kind: type) -> str:
    """Return the column called `name`, or the first of a kind; raise DataError if there is none."""
    fitting = [column for column, feature in features.items() if isinstance(feature, kind)]
    if (name and name not in features) or not (name or fitting):
        missing = repr(name) if name else f"of type {kind.__name__}"
        raise DataError(
            f"huggingface: no column {missing}; name the column with option {what}=…, one of "
            f"{', '.join(features) or 'none'}"
        )
    return name or fitting[0]


def _numbered(
    names: Sequence[str], fixed: Sequence[str] | None
) -> tuple[Sequence[str], dict[str, int]]:
    """Return the classes in order, and the number of each; `fixed` ones have theirs already."""
    if fixed is not None:
        return fixed, {name: number for number, name in enumerate(fixed)}
    classes, numbers = order_classes(names, "huggingface")
    return classes, dict(zip(names, numbers.tolist(), strict=True))


def _class_of(value: Any, names: Sequence[str] | None) -> str | None:
    """Return what a label is called; None where it is none."""
    if names is None:
        return class_name(value)
    known = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if known else None
