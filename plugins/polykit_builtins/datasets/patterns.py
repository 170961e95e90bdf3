"""Files by a folder, a glob or a list in braces, as shells expand them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

from polykit.errors import DataError

MOST = 100_000
"""Files that a pattern may name."""

_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def matching(pattern: str, ending: str, who: str) -> list[Path]:
    """Return the files that `pattern` names, in its order, those of a folder or a glob sorted.

    `a-{00..12}.tar` and `{a,b}.tar` name one file after the other, which must all be there. In a
    folder, all files with the `ending` are meant, hidden ones aside. Raises DataError, on behalf of
    `who`, where one is missing or none is found.
    """
    names = list(islice(expanded(pattern), MOST + 1)) if pattern else []
    if len(names) > MOST:
        raise DataError(f"{who}: {pattern} names more than {MOST:,} files")
    found = [path for name in names for path in _files(Path(name).expanduser(), ending, who)]
    if not found:
        raise DataError(
            f"{who}: {f'{pattern} names no *{ending} file' if pattern else 'no path was named'}; "
            f"write {who}:PATH with a folder of *{ending} files, a glob, or a list such as "
            f"part-{{000..146}}{ending}"
        )
    return list(dict.fromkeys(found))


def expanded(pattern: str) -> Iterator[str]:
    """Expand braces, the last ones fastest; braces within braces are not expanded.

    >>> list(expanded("{a,b}-{08..10}"))
    ['a-08', 'a-09', 'a-10', 'b-08', 'b-09', 'b-10']
    """
    pieces = _BRACES.split(pattern)  # what is in braces stands at odd places
    choices = [_choices(piece) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    return map("".join, product(*choices))


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return [str(n).zfill(width) for n in range(first, min(last, first + MOST) + 1)]


def _files(path: Path, ending: str, who: str) -> list[Path]:
    try:
        if path.is_dir():
            below = (p for p in path.rglob(f"*{ending}") if p.is_file())
            return sorted(p for p in below if not _hidden(p.relative_to(path)))
        if path.is_file():
            return [path]
        if glob.has_magic(str(path)):
            return sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
    except (OSError, ValueError) as error:
        raise DataError(f"{who}: {path!s} cannot be read: {error}") from None
    raise DataError(f"{who}: there is no file {path}")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
