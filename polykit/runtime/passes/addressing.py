"""Finds layers and units by name or glob."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from polykit.errors import UsageError, did_you_mean
from polykit.types import Trace, UnitRef


def select_layers(trace: Trace, globs: Iterable[str] = ("*",)) -> tuple[str, ...]:
    """Return the layers that match any glob, in order of the forward pass.

    A glob chooses among the hidden conv and linear layers; the output layer, and modules of other
    kinds, are chosen by a glob that matches no hidden layer. Raises UsageError for a glob that
    matches nothing.
    """
    hidden = [layer for layer in trace.layers if layer != trace.output_layer]
    everything = list(dict.fromkeys(call.layer for call in trace.calls))
    chosen: set[str] = set()
    for glob in globs:
        matches = [name for name in hidden if fnmatchcase(name, glob)]
        matches = matches or [name for name in everything if fnmatchcase(name, glob)]
        if not matches:
            hint = did_you_mean(glob, everything)
            raise UsageError(
                f"no layer matches {glob!r}.{hint} The model's layers: {_short(trace.layers)}"
            )
        chosen.update(matches)
    return tuple(name for name in everything if name in chosen)


def select_units(trace: Trace, pattern: str) -> tuple[UnitRef, ...]:
    """Return the units of `GLOB:INDICES`, indices being `3`, `0-15`, `1,4,7` or `*`.

    Raises UsageError for a layer that does not exist or an index out of range.
    """
    glob, _, indices = pattern.rpartition(":")
    if not glob or not re.fullmatch(r"\*|\d+(-\d+)?(,\d+(-\d+)?)*", indices):
        raise UsageError(f"{pattern!r} names no units; write LAYER:INDEX, LAYER:0-15 or LAYER:*")
    units = []
    for layer in select_layers(trace, [glob]):
        count = trace.of(layer)[0].units
        for index in range(count) if indices == "*" else _numbers(indices):
            if index >= count:
                raise UsageError(f"layer {layer!r} has units 0 to {count - 1}, not {index}")
            units.append(UnitRef(layer, index))
    return tuple(units)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _short(names: Iterable[str], limit: int = 12) -> str:
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
