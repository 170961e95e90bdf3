"""Pictures of the pruners: what they keep of a digits network, and how well it then does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from panels_of_density import draw_against_density, picture_style, two_panels
from runs import DENSITIES, SEEDS, Runs

from polykit.report.style import CONTROL, looks

_SHOWN = 0.1
"""The density whose mask is shown."""


def _masked(name: str, run: str, runs: Runs) -> Figure:
    """Draw how many weights each pixel keeps, beside accuracy against density."""
    with picture_style():
        figure, pixels, curve = two_panels()
        mask = runs.tensors(run, f"seed-{SEEDS[0]}-{name}-{_SHOWN:g}", "mask.safetensors")
        kept = mask["keep/hidden1.weight"].sum(dim=0).reshape(8, 8).numpy()
        shown = pixels.imshow(kept, cmap="cividis", vmin=0, interpolation="none")
        figure.colorbar(shown, ax=pixels, orientation="horizontal", shrink=0.8)
        pixels.set(title="weights kept by pixel", xticks=[], yticks=[])
        _accuracy(curve, name, run, runs)
        return figure


def _smaller(name: str, run: str, runs: Runs) -> Figure:
    """Draw how many units each layer keeps, beside accuracy against density."""
    with picture_style():
        figure, widths, curve = two_panels()
        color = looks([name])[name].color
        for layer, line in (("hidden1", "-"), ("hidden2", "--")):
            cells = (f"seed-{SEEDS[0]}-{name}-{density:g}" for density in DENSITIES)
            kept = [
                len(runs.tensors(run, cell, "units.safetensors")[f"units/{layer}"])
                for cell in cells
            ]
            places = range(1 + len(DENSITIES))
            widths.plot(places, [64, *kept], line, color=color, marker="o", label=layer)
        widths.set_xticks(places, ["1", *(f"{density:g}" for density in DENSITIES)])
        widths.set(title="units kept", xlabel="density", ylim=(0, None))
        widths.legend()
        _accuracy(curve, name, run, runs)
        return figure


def _accuracy(axes: Axes, name: str, run: str, runs: Runs) -> None:
    shown = {name, CONTROL}
    draw_against_density(axes, runs[run], "accuracy", "accuracy", "test accuracy", shown)
    axes.set_ylim(0, 1)


PICTURES: Mapping[str, Callable[[Runs], Figure]] = {
    **{
        name: partial(_masked, name, run)
        for name, run in (
            ("actgrad", "scored"),
            ("continuous-sparsification", "continuous-sparsification"),
            ("edge-popup", "edge-popup"),
            ("force", "scored"),
            ("iterative-magnitude", "iterative-magnitude"),
            ("magnitude", "scored"),
            ("prune-and-grow", "prune-and-grow"),
            ("random", "scored"),
            ("snip", "scored"),
        )
    },
    "structured": partial(_smaller, "structured", "structured"),
}
