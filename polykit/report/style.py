"""The one figure style: colours, markers, lines and type, the same for every figure of polykit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.style

LineStyle = Literal["-", "--", ":"]

INK = "#1d2733"
"""Colour of text, axes and the control; becomes `currentColor` in SVG."""

DENSE = "dense"
CONTROL = "random"
DENSE_COLOR = "#8a8f98"
WIDTH = 6.8
"""Width of every figure in inches; with 11 pt type it stays readable at half size."""

# Okabe & Ito's palette (2008) without yellow and black, which vanish on white or on dark grounds,
# and a violet that stays apart from it under protanopia and deuteranopia. Markers tell apart what
# colour cannot.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6549ea")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
_SLOTS = {
    "magnitude": 0,
    "force": 1,
    "snip": 2,
    "actgrad": 3,
    "cs": 6,
    "continuous-sparsification": 6,
}

_STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.8,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "polykit",
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a plugin's or a layer's name is a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
}


@dataclass(frozen=True)
class Look:
    """How one series is drawn: colour, marker and line style, in matplotlib's words."""

    color: str
    marker: str
    line: LineStyle = "-"


# The laboratory's arms have fixed looks, too: what was not pruned is grey, the control dashed.
ARM_LOOKS: Mapping[str, Look] = {
    DENSE: Look(DENSE_COLOR, "None"),
    "unpruned": Look(DENSE_COLOR, "None", ":"),
    "pruned": Look("#0072b2", "o"),
    CONTROL: Look(INK, "s", "--"),
    "scratch": Look("#e69f00", "^"),
}
_DROPOUT_SLOTS = ("#009e73", "#cc79a7", "#6549ea", "#56b4e9")


def dropout_looks(dropouts: Iterable[float]) -> dict[float, Look]:
    """Give each share of dropout its look: none at all is always the same green.

    >>> dropout_looks([0.5])[0.5].color == dropout_looks([0.0, 0.5])[0.5].color
    True
    """
    rest = [dropout for dropout in sorted(set(dropouts)) if dropout]
    colors = itertools.cycle(_DROPOUT_SLOTS[1:])
    markers = itertools.cycle(_MARKERS[1:])
    table = {0.0: Look(_DROPOUT_SLOTS[0], _MARKERS[0])}
    return table | {d: Look(c, m) for d, c, m in zip(rest, colors, markers, strict=False)}


def cluster_looks(clusters: Iterable[int]) -> dict[int, Look]:
    """Give each cluster of a unit its look, by its number; noise, −1, is grey.

    >>> cluster_looks([1])[1] == cluster_looks([-1, 0, 1])[1]
    True
    """
    table = {c: (_COLORS[c % len(_COLORS)], _MARKERS[c % len(_MARKERS)]) for c in clusters}
    return {c: Look(DENSE_COLOR, "x") if c < 0 else Look(*look) for c, look in table.items()}


def figure_style() -> AbstractContextManager[None]:
    """Return the context in which figures are made and saved; the user's style comes back after."""
    return matplotlib.style.context(_STYLE, after_reset=True)


def looks(pruners: Iterable[str]) -> dict[str, Look]:
    """Give each pruner label its look.

    The dense network is grey, the control dashed in ink. Built-in pruners have fixed colours; any
    other gets the slot its name hashes to, or the next free one, so a colour changes only when two
    names of one run meet.

    >>> looks(["force", "random"])["force"].color
    '#d55e00'
    >>> looks(["force", "snip", "random"])["random"].line
    '--'
    """
    names = sorted(set(pruners))
    table: dict[str, Look] = {}
    free: list[int] = []
    for name in sorted(names, key=lambda name: (name not in _SLOTS, name)):
        if name in (DENSE, CONTROL):
            continue
        free = free or list(range(len(_COLORS)))
        slot = _slot(name, free)
        free.remove(slot)
        turn = len(table) // len(_COLORS)  # colours that come again come with another marker
        table[name] = Look(_COLORS[slot], _MARKERS[(slot + 3 * turn) % len(_MARKERS)])
    fixed = {DENSE: Look(DENSE_COLOR, "None"), CONTROL: Look(INK, "o", "--")}
    return {name: fixed.get(name) or table[name] for name in names}


def _slot(name: str, free: list[int]) -> int:
    """The free colour slot of one name: its own, its method's, or the one it hashes to."""
    own = _SLOTS.get(name.partition(":")[0])
    if own in free:
        return own
    # Colours of built-in pruners are given away last, so that a reader may rely on them.
    choice = [slot for slot in free if slot not in _SLOTS.values()] or free
    return choice[int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % len(choice)]
