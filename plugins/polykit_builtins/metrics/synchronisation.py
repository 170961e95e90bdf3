"""How many directions in weight space change nothing: low rank, and ReLUs that fire together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from polykit.api import Field, StreamingMetric
from polykit.errors import ModelError
from polykit.runtime.degeneracy.bases import rank_of
from polykit.runtime.degeneracy.relu_chain import Link, relu_chain
from polykit.runtime.degeneracy.slope_rows import INPUT, double
from polykit.runtime.degeneracy.slopes import Factors, add
from polykit.types import Batch, Column, Measurement, Subject


class Firing(NamedTuple):
    """Sums over samples for the ReLUs of one layer, p their inputs and r = 1 where p ≥ 0."""

    apart: Tensor  # [units, units] Σ p_i² where r_i ≠ r_j
    squares: Tensor  # [units] Σ p_i²
    fired: Tensor  # [units] samples with p > 0


class State(NamedTuple):
    """The factors at the input of each linear layer, and the firing behind it."""

    factors: dict[str, Factors]
    firing: dict[str, Firing]


class Synchronisation(StreamingMetric):
    """Free directions of each linear layer's weights W̄ = (b, W), d_out × d_in, by their reason.

    `free_activations` (d_in − g) d_out, g the rank of the incoming (1, f); `free_jacobians`
    (d_out − k) g, k the rank of the outputs' slopes along p = W̄ f: what both free counts once.
    ReLUs that fire on the same samples form a block; one that never fires is counted by its slopes
    already. A block of s independent units has s² free directions: s rescale single units, as in
    every ReLU network (`free_rescaling`), the others mix them (`free_synchronised`). Here s is the
    rank of the block's p, or of the slopes along it, if that is smaller. A block that always fires
    can also be shifted against the next layer's bias, s more (`free_shift`; the source leaves these
    out: two affine maps in a row have them). `effective_parameters` is what is left. Counts are of
    first order, and of all weights of the layer's shape, those that a mask removed included.
    Source: Bushnaq et al. 2024, arXiv:2405.10927, §3, eq. 10, 12, 17–20 (in eq. 17 the second r
    belongs to the other neuron).
    """

    columns: ClassVar[dict[str, Column]] = {
        "effective_parameters": Column("parameters less free directions", "parameters"),
        "parameters": Column("parameters of the linear layers", "parameters", 0),
        "free": Column("directions that change nothing", "directions", 0),
        "free_activations": Column("from activations of low rank", "directions", 0),
        "free_jacobians": Column("from slopes of low rank", "directions", 0),
        "free_rescaling": Column("from rescaling single ReLUs", "directions", 0),
        "free_synchronised": Column("from mixing ReLUs that fire together", "directions", 0),
        "free_shift": Column("from shifting ReLUs that always fire", "directions", 0),
        "blocks": Column("different firing patterns, never firing left out", "patterns", 0),
        "synchronised": Column("ReLUs that share their pattern / ReLUs that fire", "share", 0, 1),
    }
    headline: ClassVar[str] = "effective_parameters"

    tolerance: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="how far apart units of a block may fire: share of their mean square",
    )

    def check(self, subject: Subject) -> None:
        """Raise ModelError for anything but linear layers and ReLUs."""
        _links(subject)

    def update(self, subject: Subject, state: State | None, batch: Batch) -> State:
        """Add the chunk, in float64."""
        links = _links(subject)
        factors, firing = state or State({}, {})
        before = _inputs(links)
        found = add(
            factors, subject.model, batch.inputs, subject.trace, before, at="post", ones="exo"
        )
        values = double(batch.inputs).flatten(1)
        sums = {}
        for link in links:
            values = torch.addmm(link.bias, values, link.weight.T)
            if link.relu:
                sums[link.layer] = _joined(firing.get(link.layer), _fire(values))
                values = values.relu()
        return State(found, sums)

    def finish(self, subject: Subject, state: State) -> Measurement:
        """Count each layer's free directions, and add them up."""
        links = relu_chain(subject.model, subject.trace)
        layers = {}
        behind = [*links[1:], None]
        for link, before, after in zip(links, _inputs(links), behind, strict=True):
            layers[link.layer] = self._counts(
                link,
                state.factors[before],
                state.firing.get(link.layer),
                shifts=link.biased and after is not None and after.biased,
            )
        summary = {
            name: sum(values[name] for values in layers.values())
            for name in self.columns
            if name not in ("blocks", "synchronised")
        }
        firing = [values for values in layers.values() if "blocks" in values]
        if firing:
            summary["blocks"] = sum(values["blocks"] for values in firing)
            summary["synchronised"] = sum(values["synchronised"] for values in firing) / len(firing)
        return Measurement(layers=layers, summary=summary)

    def _counts(
        self, link: Link, factors: Factors, firing: Firing | None, *, shifts: bool
    ) -> dict[str, float]:
        incoming = factors.activations if link.biased else factors.activations[:, 1:]
        d_in, d_out = incoming.shape[1], len(link.weight)
        g, k = (rank_of(torch.linalg.svdvals(each)) for each in (incoming, factors.slopes))
        values: dict[str, float] = {
            "parameters": d_in * d_out,
            "free_activations": (d_in - g) * d_out,
            "free_jacobians": (d_out - k) * g,
            "free_rescaling": 0,
            "free_synchronised": 0,
            "free_shift": 0,
        }
        if firing is not None:
            assert factors.into is not None
            blocks = self.blocks(firing)
            p = factors.activations @ factors.into.T
            for block in blocks:
                s = min(_rank(p, block), _rank(factors.slopes, block))
                values["free_rescaling"] += s
                values["free_synchronised"] += s * (s - 1)
                always = int(firing.fired[block].min()) == factors.samples
                values["free_shift"] += s if shifts and always else 0
            shared = sum(len(block) for block in blocks if len(block) > 1)
            values["blocks"] = len(blocks)
            values["synchronised"] = shared / max(1, sum(map(len, blocks)))
        values["free"] = sum(count for name, count in values.items() if name.startswith("free_"))
        values["effective_parameters"] = values["parameters"] - values["free"]
        return {name: float(value) for name, value in values.items()}

    def blocks(self, firing: Firing) -> list[list[int]]:
        """Return the units of each block, of those that ever fire.

        Any two units of a block are no further apart than `tolerance` (complete linkage): apart is
        the mean of p_i² and p_j² where only one of both fires, as a share of their mean squares.
        """
        live = (firing.fired > 0).nonzero().squeeze(1)
        if len(live) < 2:
            return [[unit] for unit in live.tolist()]
        apart, squares = firing.apart[live][:, live], firing.squares[live]
        distances = (apart + apart.T) / (squares[:, None] + squares)
        tree = linkage(squareform(distances.numpy(force=True), checks=False), "complete")
        labels = fcluster(tree, self.tolerance, "distance")
        return [live[torch.from_numpy(labels == label)].tolist() for label in np.unique(labels)]


def _links(subject: Subject) -> tuple[Link, ...]:
    links = relu_chain(subject.model, subject.trace)
    if not links:
        raise ModelError(
            f"free directions are counted in chains of linear layers and ReLUs, and "
            f"{type(subject.model).__name__} has other parts; take the metric "
            f"learning-coefficient, which any network has"
        )
    return links


def _inputs(links: Sequence[Link]) -> list[str]:
    """What comes before each link."""
    return [INPUT, *(link.layer for link in links[:-1])]


def _fire(p: Tensor) -> Firing:
    r, squares = (p >= 0).to(p), p.square()
    apart = (squares * r).T @ (1 - r) + (squares * (1 - r)).T @ r
    return Firing(apart, squares.sum(dim=0), (p > 0).sum(dim=0).to(p))


def _joined(firing: Firing | None, more: Firing) -> Firing:
    if firing is None:
        return more
    return Firing(*(one + other for one, other in zip(firing, more, strict=True)))


def _rank(rows: Tensor, columns: list[int]) -> int:
    """The rank of some columns, relative to the largest singular value of all."""
    scale = float(torch.linalg.matrix_norm(rows, 2))
    return rank_of(torch.linalg.svdvals(rows[:, columns]), noise=scale * 1e-12)
