"""What is measured of one part: how far it separates, whether it is the unit's own, how sparse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from polykit.runtime.clusters.objectives import contrast, preservation
from polykit.runtime.clusters.separation import Floats, auc, cohens_d, interval, overlap
from polykit.runtime.clusters.specificity import Groups, dissociation, shuffled, specificity
from polykit.runtime.pruning.effective import effective_mask
from polykit.types import Mask
from polykit.workflows.dissect.parts import NEITHER, Surgery


@dataclass(frozen=True)
class Measured:
    """The statistics of a part, and the tables behind them."""

    statistics: dict[str, float]
    activations: pd.DataFrame
    layers: pd.DataFrame


def measure(surgery: Surgery, mask: Mask, rng: np.random.Generator) -> Measured:
    """Measure a part on pictures that its pruner has not seen.

    Statistics without a suffix are of the masked unit, those with `_before` of the dense one;
    `_low` and `_high` are the ends of a 95 % bootstrap interval over pictures; docs/dissect.md
    explains each. Raises DataError for a unit that has one value for all.
    """
    after = surgery.values(mask)
    before, masked = surgery.groups(surgery.before), surgery.groups(after)
    seen = surgery.groups(after, held_out=False)
    without = surgery.groups(surgery.values(surgery.without(mask)))
    working = effective_mask(surgery.model, mask, surgery.pictures.x[:1], surgery.target)
    found: dict[str, float] = {
        "pictures_seen": len(seen.cluster),
        "pictures_held_out": len(masked.cluster),
        "achieved_density": mask.density,
        "effective_density": working.density,
        "auc_seen": auc(seen.cluster, seen.other),
        "dissociation": dissociation(before, without),
        **_separation(before, "_before"),
        **_separation(masked, ""),
        **_losses(surgery, before, masked),
        **_drift(before, masked),
    }
    if before.response > 0:
        found["kept"] = (masked.cluster.mean() - before.neither.mean()) / before.response
    scores = specificity(before, masked, rng)
    for name, score in (
        ("auc", scores.separation),
        ("fidelity", scores.fidelity),
        ("specificity", scores.specificity),
    ):
        found |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return Measured(
        {name: float(value) for name, value in found.items()},
        _activations(surgery, after),
        _layers(surgery, mask, working),
    )


def random_masks(
    surgery: Surgery, mask: Mask, count: int, generator: torch.Generator
) -> dict[str, float]:
    """Return the AUC of random masks that keep as much of each layer: mean and middle 95 %."""
    labels = surgery.pictures.cluster
    rows = (surgery.pictures.held_out & (labels != NEITHER)).nonzero().squeeze(1)
    member = (labels[rows] == surgery.cluster).numpy()
    areas = []
    for _ in range(count):
        drawn = surgery.values(shuffled(mask, surgery.candidates, generator), rows)
        areas.append(auc(drawn[member], drawn[~member]))
    low, high = interval(np.asarray(areas))
    return {"auc_random": float(np.mean(areas)), "auc_random_low": low, "auc_random_high": high}


def _separation(groups: Groups, suffix: str) -> dict[str, float]:
    return {
        f"auc{suffix}": auc(groups.cluster, groups.other),
        f"d{suffix}": cohens_d(groups.cluster, groups.other),
        f"overlap{suffix}": overlap(groups.cluster, groups.other),
        f"mean{suffix}": groups.cluster.mean(),
        f"mean_other{suffix}": groups.other.mean(),
        f"auc_neither{suffix}": auc(groups.cluster, groups.neither),
    }


def _losses(surgery: Surgery, before: Groups, after: Groups) -> dict[str, float]:
    """What learned masks minimise, on held-out pictures, both groups weighing one half.

    The logit is in the dense unit's mean and standard deviation over the pictures seen, as in
    training. Preservation is 1/2 for a silent unit and 0 for one that is silent off the cluster
    only.
    """
    seen = surgery.seen(others=True)
    apart = contrast(surgery.model, surgery.target, surgery.read, seen)
    keep = preservation(surgery.model, surgery.target, surgery.read, seen)

    def entropy(groups: Groups) -> float:
        inside, outside = (
            (part - apart.mean) / apart.std for part in (groups.cluster, groups.other)
        )
        return float(np.logaddexp(0, -inside).mean() + np.logaddexp(0, outside).mean()) / 2

    kept = np.square((after.cluster - before.cluster) / keep.scale).mean()
    silent = np.square(np.maximum(after.other, 0) / keep.scale).mean()
    return {
        "bce": entropy(after),
        "bce_before": entropy(before),
        "preservation": float(kept + silent) / 2,
    }


def _drift(before: Groups, after: Groups) -> dict[str, float]:
    """How far the unit moved on pictures of no cluster, in its dense deviation on those."""
    spread = float(before.neither.std())
    moved = after.neither - before.neither
    if spread == 0:
        return {}
    return {
        "drift": float(moved.mean()) / spread,
        "drift_rms": float(np.sqrt(np.square(moved).mean())) / spread,
    }


def _activations(surgery: Surgery, after: Floats) -> pd.DataFrame:
    pictures = surgery.pictures
    labels = pictures.cluster.numpy()
    group = np.where(
        labels == surgery.cluster, "cluster", np.where(labels == NEITHER, "neither", "other")
    )
    return pd.DataFrame(
        {
            "picture": pictures.index.numpy(),
            "group": group,
            "held_out": pictures.held_out.numpy(),
            "before": surgery.before,
            "after": after,
        }
    )


def _layers(surgery: Surgery, mask: Mask, working: Mask) -> pd.DataFrame:
    """Count, for each layer, what may be cut, what is kept, and what of that works."""
    rows = []
    for layer, names in _entries(surgery.model, surgery.trace.layers, mask).items():
        parts = {name: mask.eligible(name) for name in names}
        rows.append(
            {
                "layer": layer,
                "kept": sum(int((mask[n] & part).count_nonzero()) for n, part in parts.items()),
                "effective": sum(
                    int((working[n] & part).count_nonzero()) for n, part in parts.items()
                ),
                "parameters": sum(int(part.count_nonzero()) for part in parts.values()),
            }
        )
    return pd.DataFrame(rows)


def _entries(model: nn.Module, layers: Sequence[str], mask: Mask) -> dict[str, list[str]]:
    """The mask's entries by layer, in order of the forward pass; a shared weight counts once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for layer in layers:
        module = model.get_submodule(layer)
        own = [names.get(id(part), "") for part in (module.weight, module.bias)]
        own = [name for name in own if name in mask and name not in taken]
        if own:
            taken |= set(own)
            found[layer] = own
    return found
