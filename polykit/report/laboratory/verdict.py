"""The answer in words: scenario by scenario and over all, each number with its controls beside it.

No result is written here. What is said follows from the run's tables alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from polykit.report import words
from polykit.report.laboratory.decomposition import Parts
from polykit.report.laboratory.effects import CONTRASTS, PRUNED, SIGNIFICANT, UNPRUNED, Effect
from polykit.report.laboratory.findings import Findings, findings
from polykit.report.laboratory.pooling import Pooled
from polykit.report.numbers import Estimate
from polykit.report.style import CONTROL
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

OVER_ALL = "All scenarios"
_MOST = 0.6  # share of a change from which on “most of it” is said
_ALL = 1.1  # the same for “more than all of it”: the rest goes the other way
_FEWEST = 6  # worlds below which no signs give p < 0.05
ORIGINS = {
    "retraining": "in the no-prune control",
    "composition": "layer composition",
    "within": "change within layers",
}
"""The three parts of pruned − dense, as they are called everywhere."""
_MOSTLY = {
    "retraining": "shows without any pruning",
    "composition": "comes from layers losing different shares of their units",
    "within": "is change within layers",
}


def verdict(run: SavedRun) -> Verdict:
    """Say what a run found. Pure: from the run's tables only."""
    found = findings(run)
    parts = [(name, tuple(scenario_lines(found, name))) for name in found.scenarios]
    if not any(contrast == "pruning" for _, _, contrast in found.effects):
        return Verdict(
            "No scenario has networks that were pruned beside networks that were only retrained, "
            "so this run has no answer yet.",
            tuple(parts),
        )
    over_all = tuple(pooled_lines(found))
    parts = [(OVER_ALL, over_all), *parts] if over_all else parts
    return Verdict(answer(found), tuple(parts), tuple(_notes(found)))


def setting_words(dropout: float) -> str:
    """Say how much dropout.

    >>> setting_words(0.0), setting_words(0.5)
    ('without dropout', 'with dropout 0.5')
    """
    return f"with dropout {dropout:g}" if dropout else "without dropout"


def answer(found: Findings) -> str:
    """Tell what pruning adds to retraining at each share of dropout, the control beside it.

    Only scenarios whose labels can be read count, unless there are none.
    """
    shares = [share for share in found.dropouts if ("pruning", share) in found.pooled]
    if not shares:
        return (
            f"In none of the {len(found.scenarios)} scenarios do the features explain enough of "
            f"the labels (at least {found.threshold:g}) to say what pruning does to "
            f"{found.quantity.summary}; the numbers below are marked."
        )
    told = [_pooled_effect(found, share, first=share == shares[0]) for share in shares]
    text = [f"{words.capital('; '.join(told))}."]
    if len(found.scenarios) > 1:
        singly = "; ".join(_singly(found, share) for share in shares)
        text.append(f"Taken singly, after correction: {singly}.")
    beside = [
        f"{_percent(_shown(found.pooled['choice', share]))} {setting_words(share)}"
        for share in shares
        if ("choice", share) in found.pooled
    ]
    if beside:
        text.append(
            "Beside it the control, random removal at the same widths: pruned − random "
            f"{words.listed(beside)}."
        )
    noisy = [name for name in found.scenarios if found.noisy(name)]
    if noisy:
        text.append(f"Left out, since their labels are too noisy to say: {words.listed(noisy)}.")
    return " ".join(text)


def _singly(found: Findings, dropout: float) -> str:
    """Name the scenarios where pruning has an effect by itself."""
    moved: dict[str, list[str]] = {"raised": [], "lowered": []}
    for name in found.scenarios:
        effect = found.effect(name, dropout, "pruning")
        if effect is not None and effect.significant and not found.noisy(name):
            moved["raised" if effect.estimate.mean > 0 else "lowered"].append(name)
    told = [f"{what} in {words.listed(names)}" for what, names in moved.items() if names]
    return f"{setting_words(dropout)} {' and '.join(told) or 'no effect in any scenario'}"


def _pooled_effect(found: Findings, dropout: float, *, first: bool) -> str:
    """Tell what pruning adds to retraining at one share of dropout, over scenarios."""
    made, noun = found.pooled["pruning", dropout], found.quantity.summary
    where, alone = setting_words(dropout), len(made.scenarios) == 1
    value, p = _value(found, made, dropout), _p(found, made, dropout)
    if value is None:
        return f"{where}, {noun} has no value in the dense networks to compare with"
    number = _percent(value, "95\u00a0% interval " if first else "")
    if alone:
        source = f"scenario {made.scenarios[0]}, {words.seeds(value.n)}"
    else:
        source = f"{len(made.scenarios)} scenarios, {made.worlds.n} worlds"
    how = f"pruned − unpruned, of the dense value; {source}" if first else source
    how += f"; {words.chance(p)}" if p is not None else ""
    if p is None:
        return f"{where}, with one seed no effect on {noun} is claimed: {number} ({how})"
    inside = found.pooled.get(("within", dropout))
    within = ""
    if inside is not None:
        within = f", within layers {words.interval(_shown(inside), like=value)}\u00a0%"
    if p >= SIGNIFICANT:
        name = f"on {noun} beyond retraining " if first else ""
        return (
            f"{where}, no effect of pruning {name}was found at this power: {number}{within} ({how})"
        )
    moved = "raised" if (value.mean if alone else made.worlds.mean) > 0 else "lowered"
    what = f"{noun} beyond retraining" if first else "it"
    text = f"{where}, pruning {moved} {what}: {number}{within} ({how})"
    if not alone and not value.clear:
        text += ", though scenarios differ too much to expect it of another one"
    return text


def _value(found: Findings, made: Pooled, dropout: float) -> Estimate | None:
    """The random-effects mean, or the effect itself where there is one scenario."""
    if len(made.scenarios) > 1:
        return made.at_large
    effect = found.effect(made.scenarios[0], dropout, "pruning")
    return effect.percent if effect else None


def _p(found: Findings, made: Pooled, dropout: float) -> float | None:
    if len(made.scenarios) > 1:
        return found.chances.get(("pruning", dropout))
    effect = found.effect(made.scenarios[0], dropout, "pruning")
    return effect.corrected if effect else None


def pooled_lines(found: Findings) -> Iterator[str]:
    """Share out the whole change over scenarios; nothing where there is but one."""
    if len(found.scenarios) < 2:
        return
    for share in found.dropouts:
        total = found.pooled.get(("total", share))
        if total is None or len(total.scenarios) < 2:
            continue
        parts = [
            f"{words.interval(_shown(part), like=_shown(total))}\u00a0% {title}"
            for name, title in ORIGINS.items()
            if (part := found.pooled.get((name, share))) is not None
        ]
        yield (
            f"{words.capital(setting_words(share))}, the whole change (pruned − dense) is "
            f"{_percent(_shown(total))} of the dense value: {words.listed(parts) or 'unknown'}."
        )
    for share in found.dropouts:
        made = found.pooled_all.get(("pruning", share))
        if made is not None and any(found.noisy(name) for name in made.scenarios):
            yield (
                f"{words.capital(setting_words(share))}, all {len(made.scenarios)} scenarios, "
                f"noisy ones included: pruned − unpruned {_percent(_shown(made))}."
            )


def _shown(made: Pooled) -> Estimate:
    return made.at_large if len(made.scenarios) > 1 else made.worlds


def _percent(found: Estimate, name: str = "") -> str:
    return f"{words.interval(found, name)}\u00a0%"


def scenario_lines(found: Findings, scenario: str) -> Iterator[str]:
    """Tell one scenario, for each share of dropout: the question, the controls, the origin."""
    ceiling = found.ceilings.get(scenario)
    if found.noisy(scenario) and ceiling is not None:
        yield (
            f"Labels too noisy to say: the features explain {words.number(ceiling.mean)} of the "
            f"labels, less than {found.threshold:g}. The numbers all the same, marked with *."
        )
    mark = "* " if found.noisy(scenario) else ""
    for dropout in found.dropouts:
        lines = [_question(found, scenario, dropout), _origin(found, scenario, dropout)]
        lines.append(_trend(found, scenario, dropout))
        yield from (f"{mark}{line}" for line in lines if line)


def _question(found: Findings, scenario: str, dropout: float) -> str:
    """Answer the question in one setting, the controls at equal widths beside it."""
    effect = found.effect(scenario, dropout, "pruning")
    where, noun = words.capital(setting_words(dropout)), found.quantity.summary
    if effect is None:
        return _missing(found, scenario, dropout)
    made, unit = effect.estimate, f" {found.quantity.unit}" if found.quantity.unit else ""
    dense = found.dense(scenario, dropout)
    about = [f"mean over {_count(len(effect.ratios), 'pruning ratio')}"]
    about += [f"corrected {words.chance(effect.corrected)}"] if effect.corrected is not None else []
    about += [f"dense {words.number(dense)}"] if dense is not None else []
    number = f"pruned − unpruned {words.interval(made)}{unit} ({'; '.join(about)})"
    if made.half is None:
        said = f"with one seed no interval can be given and no effect is claimed: {number}."
    elif found.noisy(scenario):
        said = f"not to be read as an effect on {noun}: {number}."
    elif effect.significant:
        moved = "raises" if made.mean > 0 else "lowers"
        said = f"pruning {moved} {noun} beyond retraining: {number}."
        if (parts := found.against_unpruned.get((scenario, dropout))) is not None:
            no = "it moves by" if parts.within.clear else "no change is found:"
            said += f" Within layers {no} {words.interval(parts.within, like=made)}."
    else:
        said = (
            f"no effect of pruning on {noun} beyond retraining found at this power "
            f"({words.seeds(made.n)}): {number}."
        )
        if made.clear:
            said += " The interval excludes 0 by itself, but not after correction."
    beside = [
        f"{_called(name)} {words.interval(e.estimate)} ({_reading(e)})"
        for name in ("choice", "history")
        if (e := found.effect(scenario, dropout, name)) is not None
    ]
    controls = f" At the same widths: {'; '.join(beside)}." if beside else ""
    return f"{where}, {said}{controls}"


def _missing(found: Findings, scenario: str, dropout: float) -> str:
    inside = found.values.index.get_level_values("scenario") == scenario
    inside &= found.values.index.get_level_values("dropout") == dropout
    if not inside.any():
        return ""
    there = set(found.values[inside].dropna(axis=1, how="all").columns.get_level_values("arm"))
    gone = [name for name in (PRUNED, UNPRUNED) if name not in there]
    where = words.capital(setting_words(dropout))
    if not gone:
        return f"{where}, no answer: no seed has both pruned and unpruned networks."
    return f"{where}, no answer: there are no {' and no '.join(gone)} networks."


def _called(contrast: str) -> str:
    ours, theirs = CONTRASTS[contrast]
    return f"{ours} − {theirs}{' (control)' if theirs == CONTROL else ''}"


def _reading(effect: Effect) -> str:
    if effect.corrected is None:
        return "one seed"
    text = f"corrected {words.chance(effect.corrected)}"
    return text if effect.significant else f"no difference found, {text}"


def _origin(found: Findings, scenario: str, dropout: float) -> str:
    """Share out the change since the dense network: what shows without pruning, and the rest."""
    total = found.effect(scenario, dropout, "total")
    if total is None:
        return ""
    where, whole = words.capital(setting_words(dropout)), total.estimate
    start = f"{where}, the whole change (pruned − dense) is {words.interval(whole)}"
    retraining = found.effect(scenario, dropout, "retraining")
    parts = found.against_unpruned.get((scenario, dropout))
    if retraining is None:
        return f"{start}; without the no-prune control its origin cannot be told."
    pieces = {"retraining": retraining.estimate}
    if parts is not None:
        pieces |= {"composition": parts.composition, "within": parts.within}
    elif (pruning := found.effect(scenario, dropout, "pruning")) is not None:
        pieces["pruning"] = pruning.estimate
    titles = {**ORIGINS, "pruning": "with pruning (layers cannot be told apart)"}
    if not whole.clear:
        told = [f"{words.interval(v, like=whole)} {titles[name]}" for name, v in pieces.items()]
        why = "too uncertain to be shared out in per cent" if whole.half else "with one seed"
        return f"{start}, {why}: {words.listed(told)}.{_rearranged(parts)}"
    shares = {name: value.mean / whole.mean for name, value in pieces.items()}
    told = [
        f"{_share(shares[name])} {titles[name]} ({words.interval(value, like=whole)})"
        for name, value in pieces.items()
    ]
    most = [name for name, share in shares.items() if share > _MOST]
    mostly = ""
    if len(most) == 1 and most[0] in _MOSTLY and pieces[most[0]].clear:
        much = "more than all" if shares[most[0]] > _ALL else "most"
        mostly = f" So {much} of it {_MOSTLY[most[0]]}."
    return f"{start}: {words.listed(told)}.{mostly}"


def _rearranged(parts: Parts | None) -> str:
    """Say so where what pruning adds is clearly a matter of which layers lose their units."""
    if parts is None or not parts.composition.clear or not parts.total.mean:
        return ""
    most = parts.composition.mean / parts.total.mean > _MOST
    return f" So most of what pruning adds {_MOSTLY['composition']}." if most else ""


def _share(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%".replace("-0\u00a0", "0\u00a0").replace("-", "−")


def _trend(found: Findings, scenario: str, dropout: float) -> str:
    """Tell how it moves with the ratio, where that is clear, random removal beside it."""
    ours = found.trends[PRUNED].get((scenario, dropout))
    random = found.trends[CONTROL].get((scenario, dropout))
    if ours is None or found.trend_chances.get((scenario, dropout), 1.0) >= SIGNIFICANT:
        return ""
    beside = f" (random removal: {words.interval(random, like=ours)})" if random else ""
    return (
        f"{words.capital(setting_words(dropout))}, every tenth of the parameters removed moves it "
        f"by {words.interval(ours)}{beside}."
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _notes(found: Findings) -> Iterator[str]:
    """Say how the numbers were made, and how far they carry."""
    counts = [effect.estimate.n for effect in found.effects.values()]
    low, high = min(counts), max(counts)
    if high == 1:
        yield "One seed: no interval can be given. Run more seeds to tell effect from chance."
    else:
        over = words.seeds(high) if low == high else f"{low} to {high} seeds (some are missing)"
        family = sum(1 for _, _, contrast in found.effects if contrast == "pruning")
        yield (
            f"Brackets: two-sided 95\u00a0% t-intervals over {over}, of differences paired by seed "
            "and averaged over pruning ratios within each seed (with no cell missing: the mixed "
            "model of the differences with a random intercept per seed). They are not "
            f"corrected for their number; p is (Holm, over the {_count(family, 'setting')} of each "
            "contrast), and “raises” or “lowers” needs p < 0.05."
        )
    pooled = [made for (name, _), made in found.pooled.items() if name == "pruning"]
    if any(len(made.scenarios) > 1 for made in pooled):
        yield (
            "Over scenarios: in per cent of each world’s dense value. The interval is for "
            "scenarios at large (random effects, DerSimonian–Laird with Hartung–Knapp); p is of a "
            "sign-flip test over worlds (scenario × seed), corrected for the shares of dropout."
        )
        fewest = min(made.worlds.n for made in pooled)
        if fewest < _FEWEST:
            yield (
                f"With {_count(fewest, 'world')} the sign-flip test cannot give p below "
                f"{2.0 ** (1 - fewest):g}: an answer over all needs more seeds or scenarios."
            )
    if found.against_unpruned:
        yield (
            "Layer composition: a network’s mean over units moves when its layers lose different "
            "shares of their units, although no unit changes. Both parts weigh with the mean of "
            "the two states, and add up exactly."
        )
    if found.ceilings and found.threshold is not None:
        yield (
            f"Labels count as too noisy where the features explain less than {found.threshold:g} "
            "of them (label_ceiling, mean over seeds)."
        )
