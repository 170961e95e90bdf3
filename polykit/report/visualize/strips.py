"""The pictures that a run of `visualize` made of a unit, ready for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from polykit.errors import RunError
from polykit.report.images import Image, png_image
from polykit.runtime.store import SavedRun

KINDS: Mapping[str, str] = {
    "features": "Pictures grown to raise the unit",
    "attribution": "What each pixel does for the unit",
}
"""The kinds of pictures, in the order in which they are shown; their headings."""


@dataclass(frozen=True)
class Row:
    """The pictures of one variant of a unit: the dense one, or one that a mask left."""

    name: str
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Strip:
    """Rows of pictures under one heading; pictures below each other belong together."""

    title: str
    note: str
    rows: tuple[Row, ...]


def strips(run: SavedRun, unit: str) -> Iterator[Strip]:
    """Yield what a run shows of one unit, a strip for each kind of pictures."""
    table = run.tables["images"]
    table = table[table["unit"] == unit]
    for kind, title in KINDS.items():
        here = table[table["kind"] == kind]
        rows = [
            Row(
                str(variant),
                tuple(_image(run, r["file"], r["text"]) for r in part.to_dict("records")),
            )
            for variant, part in here.groupby("variant", sort=False)
        ]
        if rows:
            yield Strip(title, _NOTES[kind], tuple(rows))


_NOTES = {
    "features": "Grown from grey by gradient ascent, so they exaggerate; a mask’s row shows what "
    "is left of the unit.",
    "attribution": "The first row holds the pictures. Orange pixels raise the unit’s value, blue "
    "ones lower it.",
}


def _image(run: SavedRun, file: str, text: str) -> Image:
    """Read a picture of the run; raise RunError for a path that leaves it."""
    path = (run.path / file).resolve()
    if not path.is_relative_to(run.path.resolve()):
        raise RunError(f"{run.path} names the picture {file!r}, which is not its own")
    try:
        return png_image(path.read_bytes(), text)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; the run is incomplete") from error
