"""FORCE: SNIP under an iterative schedule, with removed parts allowed back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polykit_builtins.pruners.snip import Snip


class Force(Snip):
    """Repeats SNIP on the network as pruned so far, with exponentially falling density.

    The gradient is taken with respect to the mask, so a removed weight keeps its value and may
    come back in a later round; `resurrect=false` is iterative SNIP. A unit removed with its bias
    in front of a ReLU has no slope there, and stays out. Exactly k elements are kept (the
    published rule keeps k − 1). Late rounds are chaotic: a change in the sixth digit of the input
    moves half of the final mask, so compare masks by the objective they preserve.
    """

    schedule: Literal["oneshot", "linear", "exponential"] = Field(
        "exponential", description="how the density falls: at once, or over rounds"
    )
    rounds: int = Field(60, ge=1, le=10_000, description="rounds of an iterative schedule")
