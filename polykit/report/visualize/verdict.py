"""What a run of `visualize` shows, in words."""

from __future__ import annotations

from polykit.report import words
from polykit.report.verdict import Verdict
from polykit.report.visualize.numbers import summary
from polykit.runtime.store import SavedRun

NOTES = (
    "Grown pictures show what raises a unit most, not what it answers to in real pictures: compare "
    "them with the clusters’ pictures.",
    "Pixels are attributed to the unit’s value before its nonlinearity. A masked unit’s row uses "
    "the same pictures and its own colour scale.",
)


def verdict(run: SavedRun) -> Verdict:
    """Say how high the grown pictures take each unit, and how the masked ones compare."""
    numbers = summary(run)
    parts: dict[str, list[str]] = {}
    for (unit, variant, kind), values in zip(
        numbers.index, numbers.to_dict("records"), strict=True
    ):
        if kind == "features":
            grown, real = words.number(values["value"]), words.number(values["real"])
            parts.setdefault(unit, []).append(
                f"{words.capital(variant)}: the grown pictures reach {grown} on average, where the "
                f"highest of the sampled real ones is {real}."
            )
    units = list(dict.fromkeys(run.tables["images"]["unit"]))
    if not units:
        return Verdict("Nothing could be shown; the notices say why.", notes=NOTES)
    masks = len({variant for _, variant, _ in numbers.index} - {"dense"})
    through = f", dense and through {masks} mask{'' if masks == 1 else 's'}" if masks else ""
    answer = f"Pictures of {words.listed(units)}{through}."
    return Verdict(answer, tuple((unit, tuple(lines)) for unit, lines in parts.items()), NOTES)
