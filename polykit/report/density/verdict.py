"""The answer of a density study in words."""

from __future__ import annotations

from collections.abc import Sequence

from polykit.report import words
from polykit.report.density import numbers, subnetworks
from polykit.report.density.numbers import Width
from polykit.report.density.relations import Relation, relations
from polykit.report.density.subnetworks import Alike, Classes, Ticket
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun


def verdict(run: SavedRun) -> Verdict:
    """Say how dense the networks are, and what goes with it, of all that the run looked at."""
    found = numbers.widths(run)
    extra = [
        ("Density and what metrics find", tuple(_relations(run))),
        ("Subnetworks of classes", tuple(map(_classes, subnetworks.classes(run)))),
        ("Lottery tickets", tuple(_tickets(run))),
    ]
    told = [(name, lines) for name, lines in extra if lines]
    if not found:
        return Verdict(
            "No network crossed the threshold, so this run has no effective density.", tuple(told)
        )
    parts = []
    for pruner, optimizer, table in numbers.studies(run):
        rows = [w for w in found if (w.pruner, w.optimizer) == (pruner, optimizer)]
        lines = [*map(_width, rows), *_growth(rows, numbers.anova(table))]
        parts.append((f"{pruner}, {optimizer}", tuple(lines)))
    lost = int(run.tables["effective"]["density"].isna().sum())
    notes = [
        "Effective density: the share of weights left at the first step that crosses the "
        "threshold; the core is their number. Nothing is retrained"
        f"{' but where that is said' if run.meta.get('trained') else ''}. In brackets: 95\u00a0% "
        "t-interval; of correlations, a bootstrap interval over networks.",
        *([sought(run)] if sought(run) else []),
        *([f"{lost} networks never crossed the threshold and are left out."] if lost else []),
    ]
    return Verdict(_answer(run, found, len(parts) > 1), (*told, *parts), tuple(notes))


def sought(run: SavedRun) -> str:
    """Say which pruners were asked density by density, and whose subnetworks were trained."""
    searched, trained = (run.meta.get(name) or [] for name in ("searched", "trained"))
    text = ""
    if searched:
        text = (
            f"{words.listed(searched)} {_was(searched)} asked for subnetworks of one density after "
            f"another, by bisection: the effective density is the smallest found to stay within "
            f"the threshold."
        )
    if trained:
        text += (
            f" Subnetworks of {words.listed(trained)} were trained from the network's start, as "
            f"the whole network was."
        )
    return text


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def percent(value: float) -> str:
    r"""Write a share as a percentage.

    >>> percent(0.7061)
    '70.6\xa0%'
    """
    return f"{100 * value:.1f}\u00a0%"


def _answer(run: SavedRun, found: list[Width], several: bool) -> str:
    lead = [w for w in found if (w.pruner, w.optimizer) == (found[0].pruner, found[0].optimizer)]
    first, last = lead[0], lead[-1]
    whose = f" (by {first.pruner}, {first.optimizer})" if several else ""
    if first is last:
        return (
            f"The networks of scale {first.scale:g} need {percent(first.density.mean)} of their "
            f"weights{whose}.{_best(run, found, last)}"
        )
    text = (
        f"From scale {first.scale:g} to {last.scale:g} the effective density goes from "
        f"{percent(first.density.mean)} to {percent(last.density.mean)}{whose}, while the weights "
        f"grow {last.parameters / first.parameters:.3g}-fold and the core "
        f"{last.core.mean / first.core.mean:.3g}-fold."
    )
    other = first if last.scale == numbers.reference(numbers.effective(run)) else last
    if other.null is not None:
        text += (
            f" If the core did not grow with the width, the density at scale {other.scale:g} would "
            f"be {percent(other.null)}."
        )
    return text + _best(run, found, last)


def _best(run: SavedRun, found: list[Width], lead: Width) -> str:
    """Name the pruners that need fewest weights at the lead's width and optimiser."""
    trained = run.meta.get("trained") or []
    rivals = [w for w in found if (w.scale, w.optimizer) == (lead.scale, lead.optimizer)]
    text = ""
    for group, how in ((False, "without training"), (True, "trained from the start")):
        rows = [w for w in rivals if (w.pruner in trained) == group and w.pruner != lead.pruner]
        if rows:
            best = min(rows, key=lambda w: w.density.mean)
            if best.density.mean < lead.density.mean:
                text += (
                    f" {words.capital(how)}, the best subnetworks, by {best.pruner}, need "
                    f"{percent(best.density.mean)} at scale {lead.scale:g}."
                )
    return text


def _width(w: Width) -> str:
    between = (
        f" [{percent(max(0.0, w.density.low))}, {percent(min(1.0, w.density.high))}]"
        if w.density.half is not None
        else ""
    )
    text = (
        f"scale {w.scale:g}: {percent(w.density.mean)}{between} of {w.parameters:,} weights "
        f"({w.density.n} network{'' if w.density.n == 1 else 's'})"
    )
    if w.null is not None and w.null != w.density.mean:  # the width of reference is its own
        text += f"; null hypothesis {percent(w.null)}"
    return text + (f", t-test {words.chance(w.p)}" if w.p is not None else "")


def _growth(rows: list[Width], p: float | None) -> list[str]:
    if len(rows) < 2:
        return []
    if p is None:
        return ["too few networks of a width for an analysis of variance of the core sizes"]
    differ = "differ" if p < 0.05 else "were not found to differ"
    return [f"core sizes {differ} between widths (one-way ANOVA, {words.chance(p)})"]


def _relations(run: SavedRun) -> list[str]:
    """One sentence on what moves with the effective density by the first pruner."""
    names = numbers.pruners(run)
    found = [r for r in relations(run, names[0]) if r.kind == "Spearman"] if names else []
    if not found:
        return []
    pooled, within = ([r for r in found if r.scope == scope] for scope in ("pooled", "within"))
    text = (
        f"over all {found[0].n} networks the effective density by {names[0]} {_moves(pooled)} "
        f"(Spearman)"
    )
    if within:
        text += f"; among networks of one width, initialisation and optimiser it {_moves(within)}"
    return [text]


def _moves(found: list[Relation]) -> str:
    """Say which metrics move with it, and which were not found to."""
    groups = [[r for r in found if r.clear == clear] for clear in (True, False)]
    clear, unclear = (
        words.listed(
            [f"{r.quantity.metric} {words.correlation(r.value, r.low, r.high)}" for r in group]
        )
        for group in groups
    )
    if clear and unclear:
        return f"moves with {clear}, and was not found to with {unclear}"
    return f"moves with {clear}" if clear else f"was not found to move with {unclear}"


def _classes(found: Classes) -> str:
    return (
        f"scale {found.scale:g}: subnetworks of two classes share {words.number(found.iou.mean)} "
        f"of what they hold together (IoU; chance {words.number(found.chance.mean)}). A class's "
        f"logit tells it from the others with AUC {words.number(found.own.mean)} in its own "
        f"subnetwork, {words.number(found.others.mean)} in another class's "
        f"(difference {words.interval(found.edge)}), {words.number(found.random.mean)} in a random "
        f"one and {words.number(found.whole.mean)} in the whole network"
    )


def _tickets(run: SavedRun) -> list[str]:
    """Say what tickets of the widest networks keep; the tables tell of the others."""
    found = list(subnetworks.lottery(run))
    if not found:
        return []
    scales = sorted({ticket.scale for ticket in found})
    lines = [_ticket(ticket) for ticket in found if ticket.scale == scales[-1]]
    lines += [_alike(alike) for alike in subnetworks.alike(run) if alike.scale == scales[-1]]
    if len(scales) > 1:
        others = words.listed([f"{scale:g}" for scale in scales[:-1]])
        lines.append(f"scale {others}: in the tables of tickets")
    return lines


def _ticket(found: Ticket) -> str:
    changes = [
        f"{name} {words.interval(change)}"
        for name, change in (
            ("ticket − dense", found.change),
            ("random − dense", found.control),
            ("ticket − random", found.difference),
        )
        if change is not None
    ]
    return (
        f"scale {found.scale:g}, {found.quantity.noun}: dense {words.number(found.dense.mean)}, "
        f"ticket {words.number(found.ticket.mean)}, random ticket "
        f"{words.number(found.random.mean)} ({', '.join(changes)})"
    )


def _alike(found: Alike) -> str:
    """Say how far the same units stay what they were in the dense network."""
    return (
        f"scale {found.scale:g}, the same units' {found.statistic} ({found.metric}): rank "
        f"correlation with the dense network {words.interval(found.ticket)} in the ticket, "
        f"{words.interval(found.random)} in a random ticket"
    )
