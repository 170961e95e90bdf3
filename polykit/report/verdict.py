"""An answer in words: what every workflow's verdict looks like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a run found.

    `answer`: the first thing to read, a few sentences. `parts`: for each pruner or scenario its own
    sentences. `notes`: how to read them.
    """

    answer: str
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()
