"""Pictures of a page: in the page itself as long as there is room, else in a folder beside it."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from torch import Tensor

from polykit.errors import RunError
from polykit.runtime.samples import pictures

FOLDER = "report-pictures"
"""The folder beside `report.html` for pictures that it has no room for."""

ROOM = 25_000_000
"""Bytes of pictures and figures that a page takes in; its tables and words come on top."""


@dataclass(frozen=True)
class Image:
    """An encoded picture with its size in pixels and the text that stands in for it."""

    content: bytes
    kind: Literal["png", "jpeg"]
    width: int
    height: int
    alt: str

    @property
    def tiny(self) -> bool:
        """Whether its pixels are to be seen one by one."""
        return self.width * self.height <= pictures.LOSSLESS


def image(picture: Tensor, alt: str) -> Image:
    """Encode a picture `[3, h, w]` of uint8: a tiny one as PNG, a photograph as JPEG."""
    height, width = picture.shape[1:]
    if width * height <= pictures.LOSSLESS:
        return Image(pictures.png(picture), "png", width, height, alt)
    return Image(pictures.jpeg(picture), "jpeg", width, height, alt)


def png_image(content: bytes, alt: str) -> Image:
    """Take a PNG file as it is; raise RunError for anything else."""
    try:
        with Pillow.open(io.BytesIO(content), formats=["PNG"]) as opened:
            return Image(content, "png", opened.width, opened.height, alt)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise RunError(f"a picture of the run is damaged: {error}") from error


class Sources:
    """Gives each picture of a page its address, and keeps the files that go beside the page.

    Pictures go into the page in the order in which they are asked for, as long as all together
    take no more than `room` bytes there; those that do not fit become files.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self.files: dict[str, bytes] = {}

    def __call__(self, image: Image) -> str:
        """Return what to write into `src`.

        >>> one = Image(b"x" * 9, "png", 1, 1, "")
        >>> source = Sources(room=50)
        >>> source(one), source(one)[:16], len(source.files)
        ('data:image/png;base64,eHh4eHh4eHh4', 'report-pictures/', 1)
        """
        text = f"data:image/{image.kind};base64,{base64.b64encode(image.content).decode()}"
        if len(text) <= self._room:
            self._room -= len(text)
            return text
        suffix = "jpg" if image.kind == "jpeg" else "png"
        name = f"{FOLDER}/{hashlib.sha256(image.content).hexdigest()[:20]}.{suffix}"
        self.files[name] = image.content
        return name
