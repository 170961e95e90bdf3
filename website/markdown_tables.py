"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_CODE = re.compile(r"(`[^`]*`)")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    r"""Yield the lines of a table, and an empty one behind it.

    >>> list(table(("name", "meaning"), [("`a|b`", "a | b")]))[2]
    '| `a|b` | a \\| b |'
    """
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(_cell(text) for text in row)} |"
    yield ""


def _cell(text: str) -> str:
    """Keep what would end a cell or open a tag from doing so; code is left as it is."""
    pieces = _CODE.split(" ".join(text.split()))
    pieces[::2] = [piece.replace("|", r"\|").replace("<", "&lt;") for piece in pieces[::2]]
    return "".join(pieces)
