"""Where the files lie in a tar archive; nothing is unpacked, and little is in memory.

Headers are decoded by `tarfile`. Its walk over an archive is not used: it keeps every member, takes
extended headers of any size into memory and, in older versions, goes round for ever where a header
tells a negative size (CVE-2025-8194).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from polykit.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_LONGEST = 64 * 1024
"""Bytes of an extended header that are read: names are much shorter."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_NO_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
_SPEAKS_OF_NEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, where its headers begin, where its content is."""

    name: str
    header: int
    content: int
    size: int


def members(archive: BinaryIO, start: int = 0) -> Iterator[Member]:
    r"""Yield the regular files of a tar archive from the header at `start` on, in their order.

    Links, folders and devices are passed over. Names are told as they are, also such that would
    lead out of a folder: they are no paths here. Bytes of names that are no UTF-8 become `\xNN`.

    Raises DataError, which says where and how the archive is damaged, if it is none, is compressed,
    holds sparse files, or ends too early: without the empty block that ends every archive.
    """
    length = archive.seek(0, os.SEEK_END)
    here = begin = start
    said: dict[str, str] = {}
    while True:
        block = _read(archive, here, _BLOCK)
        if block == bytes(_BLOCK):
            return
        header = _decoded(block, here)
        content, size = here + _BLOCK, header.size
        if header.type not in _SPEAKS_OF_NEXT and "size" in said:
            size = _number(said["size"], here)
        if header.type in _NO_CONTENT:
            size = 0
        if not 0 <= size <= length - content:
            raise _damaged(here, f"a file of {size} bytes where {length - content} are left")
        if header.type in _SPEAKS_OF_NEXT:
            said |= _extended(archive, header.type, content, size)
        elif header.type == tarfile.GNUTYPE_SPARSE or any("GNU.sparse" in key for key in said):
            raise DataError("holds sparse files; pack it again without --sparse")
        else:
            if header.type in tarfile.REGULAR_TYPES:
                yield Member(said.get("path", header.name), begin, content, size)
            said = {}
        here = content + -(-size // _BLOCK) * _BLOCK
        begin = begin if said else here


def _extended(archive: BinaryIO, kind: bytes, place: int, size: int) -> dict[str, str]:
    """Read what an extended header says of the next file, as far as it matters here."""
    if kind not in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        return {}
    if size > _LONGEST:
        raise _damaged(place - _BLOCK, f"an extended header of {size} bytes")
    text = _read(archive, place, size)
    return _records(text, place) if kind == tarfile.XHDTYPE else {"path": _text(text)}


def _read(archive: BinaryIO, place: int, size: int) -> bytes:
    archive.seek(place)
    found = archive.read(size)
    if len(found) < size:
        raise DataError(f"is cut short: it ends at byte {place + len(found)}")
    return found


def _decoded(block: bytes, place: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError) as error:
        for mark, kind in _COMPRESSED.items():
            if place == 0 and block.startswith(mark):
                raise DataError(
                    f"is compressed by {kind}, so that no picture can be read by itself; unpack it "
                    f"to a plain .tar"
                ) from None
        raise _damaged(place, str(error)) from None


def _records(text: bytes, place: int) -> dict[str, str]:
    """Read what an extended header says: lines `LENGTH KEY=VALUE` (POSIX.1-2001, pax)."""
    found = {}
    while text:
        digits, blank, _ = text[:20].partition(b" ")
        length = _number(digits.decode("latin-1"), place) if blank else 0
        record = text[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not (equals and value.endswith(b"\n") and length <= len(text)):
            raise _damaged(place, "an extended header without sense")
        found[_text(key)] = _text(value[:-1])
        text = text[length:]
    return found


def _number(text: str, place: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise _damaged(place, f"the size {text[:40]!r}")
    return int(text)


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _damaged(place: int, what: str) -> DataError:
    return DataError(f"is no tar archive, or damaged: at byte {place} there is {what}")
