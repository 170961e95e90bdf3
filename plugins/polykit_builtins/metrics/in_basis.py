"""The coordinates that a metric of units can be taken in, instead of the units themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from polykit.errors import ModelError
from polykit.runtime.degeneracy.bases import Basis, Kind
from polykit.runtime.degeneracy.slopes import Place, find_bases
from polykit.types import Subject
from polykit_builtins.metrics.feature_metric import Attributions

Coordinates = Literal["neuron", "interaction", "pca"]
"""Units as they are, directions of the interaction basis, or principal axes with the constant."""


def bases_of(subject: Subject, coordinates: Coordinates, at: Place) -> dict[str, Basis]:
    """Return a basis of each of `subject.layers` from the test samples; none for neurons.

    Layers without any direction in use are left out. Raises ModelError where that leaves none.
    """
    if coordinates == "neuron":
        return {}
    return subject.share((bases_of, coordinates, at), lambda: _find(subject, coordinates, at))


def in_directions(found: Attributions, bases: Mapping[str, Basis]) -> Attributions:
    """Attribute directions to features instead of units: a direction is a sum of units.

    The constant drops out, since attributions are differences. Layers without a basis are left out.
    """
    M = {
        layer: bases[layer].forward[:, 1:].cpu() @ rows.double()
        for layer, rows in found.by_layer().items()
        if layer in bases
    }
    return Attributions(torch.cat(list(M.values())), tuple(M), tuple(map(len, M.values())))


def _find(subject: Subject, kind: Kind, at: Place) -> dict[str, Basis]:
    batches = (x.to(subject.device) for x, _ in subject.data.test.batches(subject.batch_size))
    found = find_bases(subject.model, batches, subject.trace, subject.layers, kind, at=at)
    found = {layer: basis for layer, basis in found.items() if basis.rank}
    if not found:
        raise ModelError(
            "the outputs respond to no layer, so there are no directions to measure; "
            "take basis=neuron"
        )
    return found
