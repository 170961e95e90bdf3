"""Input that nobody meant: damaged files, and documents in which something was exchanged."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "../../escape",
            "/etc/passwd",
            "a\0b",
            "\ud800",
            "<script>alert(1)</script>",
            "\x1b[31m",
            "none",
            "nan",
            "-1",
            "1e999",
            "a" * 5000,
            "{0..99999999}",
        ]
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30]),
    st.floats(),
    TEXT,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)
"""Anything that JSON can hold, and a little more."""


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file in which bytes were changed, lost, doubled or cut off, or which is another one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        length = draw(st.integers(1, 16))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            found[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = found[place : place + length]
        else:
            del found[place:]
    return bytes(found)


@st.composite
def exchanged(draw: Any, document: Any) -> Any:
    """A document in which a few values were taken away or exchanged for others."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            holder[key] = draw(VALUES)
        elif isinstance(holder, dict) and draw(st.booleans()):
            holder[draw(TEXT)] = holder.pop(key)
        else:
            del holder[key]
    return found


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: what holds it, and under which key."""
    pairs = (
        list(document.items())
        if isinstance(document, dict)
        else list(enumerate(document))
        if isinstance(document, list)
        else []
    )
    for key, value in pairs:
        yield document, key
        yield from _places(value)


def exchanged_json(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file in which values were exchanged."""
    return exchanged(json.loads(content)).map(_json)


@st.composite
def exchanged_header(draw: Any, content: bytes) -> bytes:
    """A safetensors file in whose header values were exchanged, JSON within JSON included."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    meta = header.get("__metadata__", {})
    if meta and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(meta)))
        meta[name] = _json(draw(exchanged(json.loads(meta[name])))).decode("utf-8", "replace")
    else:
        header = draw(exchanged(header))
    text = _json(header)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
