"""Readable names for classes that are stored under codes, such as WordNet's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torchvision.models import AlexNet_Weights

from polykit.errors import DataError

_IMAGENET = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"
"""SHA-256 of ImageNet's 1,000 folders (ILSVRC 2012), sorted, with blanks between."""


def class_names(folders: Sequence[str], file: str) -> tuple[str, ...]:
    """Return a name for each class folder; () where none is known.

    `file` has lines of a folder, a tab or blank, and its name with synonyms behind commas: the
    layout of ImageNet's `words.txt` and `LOC_synset_mapping.txt`. The first synonym is the name,
    unless classes share it: these go by the whole line. A folder that is not in it keeps its own
    name. Without a file, ImageNet's 1,000 classes are known, as torchvision calls them.

    Raises DataError for a file that cannot be read or knows none of the folders.

    >>> class_names(["cat", "dog"], "")
    ()
    """
    if not file:
        digest = hashlib.sha256(" ".join(sorted(folders)).encode()).hexdigest()
        return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"]) * (digest == _IMAGENET)
    known = _read(Path(file).expanduser())
    if not set(folders) & set(known):
        raise DataError(
            f"{file} names none of the {len(folders)} class folders, such as {folders[0]}; its "
            f"lines must begin with the names of the folders"
        )
    whole = [known.get(folder, folder) for folder in folders]
    short = [text.partition(",")[0].strip() for text in whole]
    count = Counter(short)
    return tuple(b if count[b] == 1 else a for a, b in zip(whole, short, strict=True))


def _read(path: Path) -> dict[str, str]:
    """Read a file of names: folder → name and synonyms."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the class names cannot be read from {path}: {error}") from None
    known = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        folder, _, name = line.partition("\t" if "\t" in line else " ")
        if not (folder.strip() and name.strip()):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} has no folder and name with a tab or blank "
                f"between, as in: n01440764 tench, Tinca tinca"
            )
        known[folder.strip()] = name.strip()
    return known
