"""How many directions of each layer a network uses: the interaction basis beside the neurons."""

from __future__ import annotations

import logging
from typing import ClassVar, NamedTuple

from torch import Tensor

from polykit.api import Field, StreamingMetric
from polykit.runtime.degeneracy.bases import TOLERANCE, effective_number, neuron_weights, rank_of
from polykit.runtime.degeneracy.slopes import Factors, Ones, Place, add
from polykit.types import Batch, Column, Measurement, Subject

_LOG = logging.getLogger("polykit")


class State(NamedTuple):
    """How many samples were looked at, and what they gave of each layer."""

    samples: int
    factors: dict[str, Factors]


class InteractionBasis(StreamingMetric):
    """Directions of each layer that vary on the data and that the outputs respond to.

    In the interaction basis f̂ both G = ⟨f fᵀ⟩ and M = ⟨Σ_k ∂y_k ∂y_kᵀ⟩ are diagonal, Ĝ = D_M and
    M̂ = 1; f carries a constant 1. `rank` counts the directions, rank(G M); `effective_rank` is
    exp(entropy) of D_M / ΣD_M, and `effective_neurons` the same of G_ii M_ii in the neuron basis.
    The whole network's counts are sums over its layers. Computed in float64; the positions of a
    map count as samples; layers are read at their first call. Source: Bushnaq et al. 2024,
    arXiv:2405.10927, §4; Roy & Vetterli 2007 for the effective rank.
    """

    columns: ClassVar[dict[str, Column]] = {
        "effective_rank": Column("directions that count: exp(entropy) of D_M", "directions", 0),
        "effective_neurons": Column("the same in the neuron basis, of G_ii M_ii", "neurons", 0),
        "rank": Column("directions in use: rank(G M)", "directions", 0),
        "neurons": Column("neurons in use, the constant included", "neurons", 0),
        "rank_share": Column("directions in use / units and the constant", "share", 0, 1),
        "activation_rank": Column("dimensions that activations span: rank G", "directions", 0),
        "jacobian_rank": Column("dimensions that outputs respond to: rank M", "directions", 0),
        "limited_by_samples": Column("layers with fewer samples than dimensions", "share", 0, 1),
    }
    headline: ClassVar[str] = "effective_rank"
    bases: ClassVar[dict[str, str]] = {
        "neuron": "effective_neurons",
        "interaction": "effective_rank",
    }

    at: Place = Field("post", description="before or after the nonlinearity")
    ones: Ones = Field(
        "carry", description="biases that the constant 1 feeds: all later ones, or the next only"
    )
    centred: bool = Field(False, description="subtract the mean, and leave the constant out")
    samples: int | None = Field(
        None, ge=1, description="test samples to look at, the first ones; none: all"
    )
    tolerance: float = Field(
        TOLERANCE, gt=0, lt=1, description="singular values that count as 0, share of the largest"
    )

    def update(self, subject: Subject, state: State | None, batch: Batch) -> State:
        """Add the chunk to each layer's factors, in a pass of its own in float64."""
        seen, factors = state or State(0, {})
        x = batch.inputs if self.samples is None else batch.inputs[: self.samples - seen]
        if len(x):
            factors = add(
                factors, subject.model, x, subject.trace, subject.layers, at=self.at, ones=self.ones
            )
        return State(seen + len(x), factors)

    def finish(self, subject: Subject, state: State) -> Measurement:
        """Find the bases and count; the spectra D_M are kept as arrays.

        Where samples are too few to show all directions, the log says so.
        """
        layers, arrays, dimensions = {}, {}, 0
        for layer in subject.layers:
            layers[layer], spectrum = self._counts(state.factors[layer])
            arrays[f"spectrum/{layer}"] = spectrum
            dimensions += state.factors[layer].F.shape[1]
        summary = {
            name: sum(values[name] for values in layers.values())
            for name in self.columns
            if name not in ("rank_share", "limited_by_samples")
        }
        summary["rank_share"] = summary["rank"] / dimensions
        limited = [layer for layer, values in layers.items() if values["limited_by_samples"]]
        summary["limited_by_samples"] = len(limited) / len(layers)
        if limited:
            _LOG.warning(
                "interaction-basis: the rank of %s is limited by the number of samples, %d; with "
                "more there may be more directions",
                ", ".join(limited),
                state.samples,
            )
        return Measurement(layers=layers, summary=summary, arrays=arrays)

    def _counts(self, factors: Factors) -> tuple[dict[str, float], Tensor]:
        basis = factors.basis(centred=self.centred, tolerance=self.tolerance)
        weights = neuron_weights(factors.F, factors.J, centred=self.centred)
        counts = {
            "effective_rank": effective_number(basis.spectrum),
            "effective_neurons": effective_number(weights),
            "rank": basis.rank,
            "neurons": rank_of(weights, self.tolerance**2),
            "rank_share": basis.rank / factors.F.shape[1],
            "activation_rank": basis.activation_rank,
            "jacobian_rank": basis.jacobian_rank,
            "limited_by_samples": basis.limited_by_samples,
        }
        return {name: float(value) for name, value in counts.items()}, basis.spectrum
