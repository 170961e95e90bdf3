"""A matrix as coloured cells with their numbers written in."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

_PALETTE = "cividis"  # even in lightness, and the same to every kind of colour vision
_BRIGHT, _DARK = "#ffffff", "#101418"


def draw_heat(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    size: float = 9,
) -> None:
    """Colour `values [rows, columns]` from `low` to `high`, the first row at the top.

    What is NaN stays empty. `texts` are written into the cells, in ink that can be read there.
    """
    palette = mpl.colormaps[_PALETTE]
    span = high - low or 1.0
    shares = (np.asarray(values, dtype=float) - low) / span
    axes.pcolormesh(
        np.ma.masked_invalid(shares), cmap=palette, vmin=0, vmax=1, edgecolors="white", linewidth=1
    )
    for place in np.ndindex(*shares.shape):
        if np.isfinite(shares[place]):
            red, green, blue, _ = palette(min(max(float(shares[place]), 0.0), 1.0))
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            axes.text(
                place[1] + 0.5,
                place[0] + 0.5,
                texts[place[0]][place[1]],
                ha="center",
                va="center",
                fontsize=size,
                color=_DARK if light > 0.45 else _BRIGHT,
            )
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.invert_yaxis()
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
