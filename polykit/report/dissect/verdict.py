"""What a dissection found, in words, with the controls beside every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from polykit.report import words
from polykit.report.dissect import numbers
from polykit.report.dissect.numbers import CONTROLS, Finding, Score, Trial
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

Answer = Literal["parts", "detector", "together", "undecided", "few"]

NOTES = (
    "All numbers are from held-out pictures, and of the worst cluster: a unit is cut apart only if "
    "every cluster has its part. Brackets are 95\u00a0% bootstrap intervals over pictures.",
    "Specificity is min(fidelity, 2·AUC − 1). Fidelity is the correlation of the masked with the "
    "dense unit within the cluster. A mask that keeps the whole unit has fidelity alone, a "
    "detector made of the network's weights has separation alone.",
    "Dissociation is what the dense unit loses of the cluster without the part, less what it loses "
    "of the others, in units of its response. No pruner is asked for it.",
    f"A part counts as the unit's own from specificity {numbers.SPECIFIC:g} and dissociation "
    f"{numbers.DISSOCIATED:g} on, if at most a quarter of the other units and of those with random "
    "weights come to the same.",
)


def verdict(run: SavedRun) -> Verdict:
    """Say of each unit whether its clusters come from different parts; pure, from tables only."""
    found = numbers.findings(run)
    units = list(dict.fromkeys(finding.unit for finding in found))
    if not units:
        return Verdict("No part was found, so this run has no answer yet.")
    parts = []
    for unit in units:
        here = [finding for finding in found if finding.unit == unit]
        parts.append((unit, tuple(_sentences(run, here))))
    lead = " ".join(f"{unit}: {sentences[0]}" for unit, sentences in parts)
    return Verdict(lead, tuple(parts), NOTES)


def answer(run: SavedRun, found: Sequence[Finding]) -> tuple[Answer, Finding]:
    """Return the answer about one unit, and the finding that it rests on."""
    enough = int(run.meta.get("enough") or 0)
    if min(finding.pictures for finding in found) < enough:
        return "few", found[0]
    best = max(found, key=lambda finding: finding.own.specificity.value)
    for kind, holds in (
        ("parts", [f for f in found if f.different_parts]),
        ("detector", [f for f in found if f.made]),
        ("undecided", [f for f in found if f.own.separated]),
    ):
        if holds:
            lead = max(holds, key=lambda f: f.own.specificity.value)
            return kind, lead  # type: ignore[return-value]
    return "together", best


def _sentences(run: SavedRun, found: Sequence[Finding]) -> list[str]:
    kind, lead = answer(run, found)
    said = [_answer(run, kind, lead)]
    said += [_about(finding) for finding in found]
    said += _overlaps(run, lead)
    if math.isfinite(lead.drift):
        said.append(
            f"On pictures of neither cluster {lead.name} moved the unit by "
            f"{words.number(lead.drift)} of its dense standard deviations there (root mean square)."
        )
    return said


def _answer(run: SavedRun, kind: Answer, lead: Finding) -> str:
    clusters = run.rows.loc[run.rows["unit"] == lead.unit, "cluster"].nunique()
    features = "the two features" if clusters == 2 else f"its {clusters} features"
    own, rivals = lead.own, lead.rivals
    apart = f"{sum(trial.separated for trial in rivals)} of {len(rivals)}"
    proof = (
        f"({lead.name}) they have specificity {_score(own.specificity)} and dissociation "
        f"{two(own.dissociation)}; the best of {len(rivals)} controls has specificity "
        f"{_best(rivals)}."
    )
    if kind == "few":
        share = float(run.meta.get("held_out") or 0.5)
        enough = int(run.meta["enough"])
        return (
            f"not enough pictures to say: the smallest cluster has {lead.pictures} held-out "
            f"pictures, and {enough} are needed, that is {math.ceil(enough / share)} in each "
            f"cluster."
        )
    if kind == "parts":
        return f"this unit carries {features} by different parts: {proof}"
    if kind == "detector":
        return (
            f"any unit can be masked into this detector: masked by {lead.name} the unit tells its "
            f"clusters apart with AUC {_score(own.auc)}, but so do {apart} controls (other units, "
            f"random weights); specificity is {_score(own.specificity)}, that of the best control "
            f"{_best(rivals)}."
        )
    if kind == "undecided":
        return (
            f"the clusters come apart (AUC {_score(own.auc)} by {lead.name}, and in {apart} "
            f"controls), but the parts are not shown to be the unit's own: specificity "
            f"{_score(own.specificity)}, dissociation {two(own.dissociation)}."
        )
    return (
        f"no mask tells the clusters apart on held-out pictures: the best, by {lead.name}, comes "
        f"to AUC {_score(own.auc)}, dense {two(lead.auc_before)}."
    )


def _about(found: Finding) -> str:
    """Say what one pruner came to, with every control."""
    beside = [f"dense {two(found.auc_before)}"]
    if math.isfinite(found.auc_random.value):
        beside.append(f"random masks as sparse {two(found.auc_random.value)}")
    for control, name in CONTROLS.items():
        values = [trial.auc.value for trial in found.of(control)]
        if values:
            ends = [two(end) for end in (min(values), max(values))]
            beside.append(f"{name} {' to '.join(dict.fromkeys(ends))}")
    own = found.own
    return (
        f"By {found.name}, with {100 * found.achieved:.2g}\u00a0% of the parameters "
        f"({100 * found.effective:.2g}\u00a0% on a path to the unit): AUC {_score(own.auc)} "
        f"({'; '.join(beside)}); fidelity {_score(own.fidelity)}, specificity "
        f"{_score(own.specificity)}, dissociation {two(own.dissociation)}."
    )


def _overlaps(run: SavedRun, lead: Finding) -> list[str]:
    table = run.tables["overlaps"]
    here = table[(table["unit"] == lead.unit) & (table["pruner"] == lead.pruner)]
    here = here[here["density"] == lead.density]
    said = []
    for row in here.to_dict("records"):
        iou, chance, low, high = (
            float(row[name]) for name in ("iou", "chance", "chance_low", "chance_high")
        )
        how = "less than chance" if iou < low else "no more than chance"
        how = "more than chance" if iou > high else how
        said.append(
            f"The parts of clusters {row['cluster_a']} and {row['cluster_b']} by {lead.name} share "
            f"{two(iou)} of what either keeps, {how} ({two(chance)} [{two(low)}, {two(high)}] for "
            f"random masks as sparse in each layer)."
        )
    return said


def _score(score: Score) -> str:
    """Write a score with its interval."""
    text = two(score.value)
    return text if math.isnan(score.low) else f"{text} [{two(score.low)}, {two(score.high)}]"


def two(value: float) -> str:
    """Write a score in [−1, 1] with two decimals.

    >>> two(-0.0136), two(0.957), two(-0.004)
    ('−0.01', '0.96', '0.00')
    """
    return f"{value:z.2f}".replace("-", "−")


def _best(rivals: Sequence[Trial]) -> str:
    return two(max((trial.specificity.value for trial in rivals), default=math.nan))
