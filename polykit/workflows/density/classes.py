"""Each class's own subnetwork: how much two of them share, and what each is good for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polykit.entries import Chosen
from polykit.errors import ModelError
from polykit.runtime.clusters.separation import auc
from polykit.runtime.clusters.specificity import chance_overlap, shuffled
from polykit.runtime.objectives import UnitActivation
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import derive, generator
from polykit.types import Candidates, Mask, UnitRef
from polykit.workflows.density.network import Network

WHOLE, RANDOM = "whole", "random"
"""What the column `mask` says where that is no class's."""


@dataclass(frozen=True)
class Subnetworks:
    """Each class's mask over `candidates`, for `network`; and what a reader should know."""

    network: nn.Module
    candidates: Candidates
    masks: dict[int, Mask]
    notices: tuple[str, ...]


def class_rows(found: Subnetworks, network: Network) -> list[dict[str, Any]]:
    """Return a row for each mask and each class whose logit is read in the masked network.

    `auc`: how well the logit tells validation samples of the class from all others; missing where
    there are none. `iou` with the class's own mask, and `chance`, what random masks of the same
    layer densities share. The whole network, and each class's mask shuffled within layers, are
    there to compare with. Memory: the validation split and its logits for each mask.
    """
    batches = list(network.data.validation.batches(network.setup.config.eval_batch_size))
    targets = torch.cat([y for _, y in batches])
    rng = np.random.default_rng(derive(network.cell.seed, "class overlaps"))

    def logits(model: nn.Module, mask: Mask) -> Tensor:
        with masked(model, mask), evaluating(model), torch.no_grad():
            return torch.cat([model(x.to(network.setup.device)).cpu() for x, _ in batches])

    def row(mask: str, label: int, values: Tensor, *overlap: float) -> dict[str, Any]:
        iou, chance = overlap or (math.nan, math.nan)
        told = _told(values[:, label], targets == label)
        return {"mask": mask, "class": label, "auc": told, "iou": iou, "chance": chance}

    whole = logits(network.model, found.candidates.full())
    rows = [row(WHOLE, label, whole) for label in found.masks]
    read = {label: logits(found.network, mask) for label, mask in found.masks.items()}
    for label, mask in found.masks.items():
        draw = generator(network.cell.seed, "class shuffle", label)
        drawn = logits(found.network, shuffled(mask, found.candidates, draw))
        rows.append(row(RANDOM, label, drawn))
    for owner, label in product(found.masks, found.masks):
        mine, theirs = found.masks[owner], found.masks[label]
        shared = chance_overlap(mine, theirs, found.candidates, rng)
        rows.append(row(str(owner), label, read[owner], shared.iou, shared.chance))
    return rows


def class_subnetworks(network: Network, chosen: Chosen) -> Subnetworks:
    """Find a mask for the logit of each class, on the training samples of that class.

    Of hidden layers only, since each class has its own row of the output layer. Raises ModelError
    for a network of one layer, or whose last layer does not give the classes.
    """
    label, pruner, passed = chosen.name, chosen.instance, network.kind.trace
    cut = _hidden(network)
    samples, start = network.samples(), network.prepared(label, pruner)
    seen = torch.cat([y for _, y in samples])
    masks: dict[int, Mask] = {}
    for number in range(network.data.outputs):
        rows = (seen == number).nonzero().flatten()
        if len(rows):
            masks[number] = network.prune(
                label,
                pruner,
                start,
                network.setup.config.class_density,
                objective=UnitActivation(UnitRef(passed.output_layer, number), passed),
                batches=replace(samples, order=samples.order[rows]),
                candidates=cut,
                use=f"class {number}",
            )
    return Subnetworks(start, cut, masks, _notices(masks, label, network.classes))


def _hidden(network: Network) -> Candidates:
    """Return the weights of all layers but the last."""
    passed, classes = network.kind.trace, network.data.outputs
    hidden = [layer for layer in passed.layers if layer != passed.output_layer]
    if not hidden or passed.of(passed.output_layer)[0].units != classes:
        raise ModelError(
            f"classes have subnetworks where hidden layers lead to one unit for each of {classes} "
            f"classes; this network has the layers {', '.join(passed.layers)}: leave "
            f"--class-pruner out"
        )
    scope = network.setup.config.scope
    return candidates(network.model, passed, competition=scope, layers=hidden)


def _told(values: Tensor, own: Tensor) -> float:
    """The AUC of samples of a class against all others; missing without either."""
    if bool(own.all()) or not bool(own.any()):
        return math.nan
    return auc(values[own].numpy(), values[~own].numpy())


def _notices(masks: Mapping[int, Mask], pruner: str, classes: Sequence[str]) -> tuple[str, ...]:
    missing = [name for number, name in enumerate(classes) if number not in masks]
    said = []
    if missing:
        said.append(
            f"pruners see no sample of class {', '.join(missing)}, which has no subnetwork; give "
            f"more --score-samples"
        )
    first, *others = masks.values()
    if others and all(mask == first for mask in others):
        said.append(f"{pruner} finds the same subnetwork for every class: it looks at no objective")
    return tuple(said)
