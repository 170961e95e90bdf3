"""Polysemanticity by integrated gradients: how much of which feature each unit takes up.

Attributions go from the coordinates of a feature space, through its encoder and the network, to
every unit. All of it is importable without a run: `attribution_matrix`, then `polysemanticity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.func import jvp

from polykit.api import Field, Metric
from polykit.errors import DataError, ModelError, UsageError
from polykit.runtime.addressing import select_layers
from polykit.runtime.capture import Reduce, capture, unit_values
from polykit.runtime.trace import evaluating, trace
from polykit.types import Column, FeatureSpace, Measurement, Site, Subject, Trace

Encoder = Callable[[Tensor], Tensor]
"""Maps features `[n, q]` to model inputs `[n, *shape]`, row by row."""

CHUNK_NUMBERS = 2**26
"""How many numbers (inputs and outputs of all modules) the rows of a default chunk may need."""

CAPTUM_STEPS = 50
"""Captum has no exact form; 50 steps are its default and the thesis's."""


class IntegratedGradients(Metric):
    """How many features share a unit, by integrated gradients from the features to the unit.

    M_ij is the integrated gradient of unit i along feature j, baseline 0, input e_j. Only that
    coordinate moves, so it is n_i(e_j) − n_i(0): the default. `steps` gives the right-Riemann sum
    of Plettscher §3.3.2 instead. Every statistic is made from |M|; a unit that no feature moves is
    silent, and 0 everywhere. Source: Sundararajan et al. 2017; Plettscher, Def. 14 ff.; capacity:
    Scherlis et al. 2022.
    """

    columns: ClassVar[dict[str, Column]] = {
        "ratio": Column("polysemanticity, 0 for silent units", "features per unit", 0),
        "entropy": Column("entropy of a unit's attributions", "nats", 0),
        "entropy_normalised": Column("entropy, min–max over the responding units", "", 0, 1),
        "effective_features": Column("exp(entropy); 0 if silent", "features per unit", 0),
        "count": Column("attributions above the threshold", "features per unit", 0),
        "participation": Column("(sum of attributions)² / sum of squares", "features per unit", 0),
        "silent": Column("units that no feature moves", "share", 0, 1),
        "ratio_responding": Column("polysemanticity of responding units", "features per unit", 1),
        "capacity": Column("how much of the layer a feature has to itself, mean", "share", 0, 1),
        "total_feature_dimensionality": Column(
            "share of the features that the units represent", "share", 0, 1
        ),
    }
    headline: ClassVar[str] = "ratio_responding"

    steps: int | None = Field(
        None, ge=1, description="steps of the Riemann sum; none: exact (with captum: 50)"
    )
    at: Literal["pre", "post"] = Field("pre", description="before or after the nonlinearity")
    features: str = Field(
        "auto", description="feature space: auto (the truth if known, else classes) or a name"
    )
    backend: Literal["polykit", "captum"] = Field(
        "polykit", description="who computes; captum is the slow reference, always a Riemann sum"
    )
    reduce: Reduce = Field("mean", description="how a unit's map becomes one value")
    threshold: float = Field(
        0.1, ge=0, description="what `count` counts as a feature, as a share of the largest"
    )
    absolute: bool = Field(False, description="take the threshold as it is, not as a share")
    chunk_size: int | None = Field(
        None, ge=1, description="feature vectors in one forward pass; none: what memory allows"
    )

    @model_validator(mode="after")
    def _share(self) -> Self:
        if not self.absolute and self.threshold >= 1:
            raise ValueError("a threshold of 1 or more counts nothing; set absolute or lower it")
        return self

    def measure(self, subject: Subject) -> Measurement:
        """Attribute every unit of `subject.layers` to every feature of the feature space.

        Raises DataError where the data offers no features, ModelError for a NaN attribution.
        """
        space = self._space(subject)
        attribute = attribution_matrix if self.backend == "polykit" else captum_attribution_matrix
        M = attribute(
            subject.model,
            space.encode,
            space.n_features,
            layers=subject.layers,
            steps=self.steps,
            at=self.at,
            chunk_size=self.chunk_size,
            reduce=self.reduce,
        ).cpu()
        counts = [subject.trace.of(layer)[0].units for layer in subject.layers]
        units = polysemanticity(M, threshold=self.threshold, absolute=self.absolute)
        units.insert(0, "layer", np.repeat(subject.layers, counts))
        units.insert(1, "unit", np.concatenate([np.arange(count) for count in counts]))
        layers = {}
        for layer, rows in zip(subject.layers, M.split(counts), strict=True):
            ours = units[units["layer"] == layer]
            layers[layer] = {"capacity": float(capacity(rows).mean()), **_responding(ours)}
        dimensionality = {"total_feature_dimensionality": total_feature_dimensionality(M)}
        return Measurement(
            units, layers, {**dimensionality, **_responding(units)}, {"attributions": M}
        )

    def _space(self, subject: Subject) -> FeatureSpace:
        data = subject.data
        if self.features == "auto" and data.features is None and data.task == "regression":
            raise DataError(
                f"{data.name} has no known features (feature space 'truth') and no classes "
                f"('classes') to measure polysemanticity by; use data that has, such as the "
                f"dataset 'toy', or name another feature space with features=NAME"
            )
        return subject.feature_space(self.features)


def attribution_matrix(
    model: nn.Module,
    encoder: Encoder,
    n_features: int,
    *,
    layers: Sequence[str] | None = None,
    steps: int | None = None,
    at: Literal["pre", "post"] = "pre",
    chunk_size: int | None = None,
    reduce: Reduce = "mean",
) -> Tensor:
    """Return the integrated gradients M `[p, q]` of all p units along all q features.

    Baseline 0, input e_j. Without `steps` M_ij = n_i(e_j) − n_i(0) (Sundararajan et al. 2017,
    completeness), where n_i is the value of unit i behind `encoder` and `model`. With `steps = m`
    the right-Riemann sum (1/m) Σ_k ∂n_i/∂f_j(k/m · e_j), by forward mode over features × steps.

    `layers` are names or globs (default: all hidden conv and linear layers), whose units are the
    rows of M, in order of the forward pass; a module called more than once is read at its first
    call. `at` reads before or after the nonlinearity, `reduce` makes one value of a unit's map.
    `chunk_size` bounds the rows of one pass and does not change the result. M has the model's
    float type and device; the model runs in evaluation mode and is left as it was.

    Raises UsageError for a layer that does not exist or a number below 1, ModelError for NaN.

    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    >>> model[0].weight = nn.Parameter(torch.tensor([[3.0, -1.0]]))
    >>> attribution_matrix(model, lambda features: features, n_features=2)
    tensor([[ 3., -1.]])
    >>> attribution_matrix(model, lambda features: features, n_features=2, at="post", steps=50)
    tensor([[3., 0.]])
    """
    with _units(model, encoder, n_features, layers, at, reduce, steps, chunk_size) as units:
        with torch.no_grad():
            M = _differences(units) if steps is None else _riemann(units, steps)
        return units.checked(M)


def captum_attribution_matrix(
    model: nn.Module,
    encoder: Encoder,
    n_features: int,
    *,
    layers: Sequence[str] | None = None,
    steps: int | None = None,
    at: Literal["pre", "post"] = "pre",
    chunk_size: int | None = None,
    reduce: Reduce = "mean",
) -> Tensor:
    """Return the same as `attribution_matrix`, by Captum, unit by unit: the reference.

    Captum's IntegratedGradients with the method `riemann_right`, baseline 0 and input e_j; it
    has no exact form, so `steps = None` means 50.
    """
    from captum.attr import IntegratedGradients as Captum  # slow to import, rarely needed

    steps = CAPTUM_STEPS if steps is None else steps
    with _units(model, encoder, n_features, layers, at, reduce, steps, chunk_size) as units:
        captum = Captum(units)
        rows = []
        for index in range(units.count):
            parts = []
            for features in units.eye.split(max(1, units.chunk // steps)):
                attributions = captum.attribute(
                    features.clone().requires_grad_(),
                    baselines=0.0,
                    target=index,
                    n_steps=steps,
                    method="riemann_right",
                    internal_batch_size=units.chunk,
                )
                parts.append(attributions.sum(dim=1).detach())  # of other features it is 0
            rows.append(torch.cat(parts))
        return units.checked(torch.stack(rows))


@dataclass(frozen=True)
class _Units:
    """Unit values `[n, p]` as a function of features `[n, q]`."""

    model: nn.Module
    encoder: Encoder
    trace: Trace
    sites: tuple[Site, ...]
    reduce: Reduce
    eye: Tensor
    chunk: int

    def __call__(self, features: Tensor) -> Tensor:
        values = capture(self.model, self.encoder(features), self.sites, self.trace).values
        return torch.cat([unit_values(values[site], self.reduce) for site in self.sites], dim=1)

    @property
    def count(self) -> int:
        return sum(self.trace.of(site.layer)[0].units for site in self.sites)

    def checked(self, M: Tensor) -> Tensor:
        """Return M, or say which unit's attribution is not a number."""
        bad = (~torch.isfinite(M)).nonzero()
        if len(bad):
            unit, feature = bad[0].tolist()
            for site in self.sites:
                if unit < (size := self.trace.of(site.layer)[0].units):
                    break
                unit -= size
            raise ModelError(
                f"unit {site.layer}:{unit} gives NaN or infinity for feature {feature} ({len(bad)} "
                f"such attributions in all); look for NaN in the weights, or train with a lower lr"
            )
        return M


@contextmanager
def _units(
    model: nn.Module,
    encoder: Encoder,
    n_features: int,
    layers: Sequence[str] | None,
    at: Literal["pre", "post"],
    reduce: Reduce,
    steps: int | None,
    chunk_size: int | None,
) -> Iterator[_Units]:
    """Give the units of a network as a function, with model and encoder in evaluation mode."""
    numbers = {"n_features": n_features, "steps": steps, "chunk_size": chunk_size}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; it must be at least 1")
    tensors = chain(model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    eye = torch.eye(n_features, dtype=like.dtype, device=like.device)
    quiet = evaluating(encoder) if isinstance(encoder, nn.Module) else nullcontext()
    with quiet, evaluating(model):
        with torch.no_grad():
            passed = trace(model, encoder(torch.zeros_like(eye[:1])))
        sites = tuple(Site(layer, at) for layer in select_layers(passed, layers or ("*",)))
        chunk = chunk_size or max(1, CHUNK_NUMBERS // _row_size(passed))
        yield _Units(model, encoder, passed, sites, reduce, eye, chunk)


def _row_size(passed: Trace) -> int:
    """Numbers in the inputs and outputs of all module calls of one sample."""
    shapes = [shape for call in passed.calls for shape in (call.input_shape, call.shape)]
    return sum(prod(shape) for shape in shapes)


def _differences(units: _Units) -> Tensor:
    """n(e_j) − n(0), where both stand at the same place of equally large batches.

    Rounding depends on the place in a batch. So it cancels, and a unit that a feature does not
    move is exactly 0, where one shared row for n(0) would leave noise that looks like features.
    """
    parts: list[Tensor] = []
    baseline = units.eye.new_empty(0)
    for features in units.eye.split(units.chunk):
        if len(baseline) != len(features):
            baseline = units(torch.zeros_like(features))
        parts.append(units(features.clone()) - baseline)
    return torch.cat(parts).T.contiguous()


def _riemann(units: _Units, steps: int) -> Tensor:
    """(1/m) Σ_k ∂n/∂f_j(k/m · e_j), one row of a batch per feature j and step k."""
    total = units.eye.new_zeros(len(units.eye), units.count)
    for rows in torch.arange(len(units.eye) * steps, device=units.eye.device).split(units.chunk):
        feature, step = rows // steps, rows % steps + 1
        direction = units.eye[feature]
        points = direction * (step / steps).to(direction).unsqueeze(1)
        total.index_add_(0, feature, jvp(units, (points,), (direction,))[1])
    return (total.T / steps).contiguous()


def polysemanticity(M: Tensor, *, threshold: float = 0.1, absolute: bool = False) -> pd.DataFrame:
    """Return the statistics of each unit (row of the attribution matrix M `[p, q]`, finite).

    With A = |M|: `ratio` ΣA / max A (Plettscher, Def. 14), in {0} ∪ [1, q]; `entropy` of A / ΣA
    in nats, [0, ln q]; `entropy_normalised`, min–max over the responding units; its exponential
    `effective_features`; `count` of entries above `threshold` times the largest (or above
    `threshold` itself, if `absolute`); `participation` (ΣA)² / ΣA²; `silent`, 1 where A is 0
    everywhere, and then all others are 0. Computed in float64.

    >>> polysemanticity(torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))[["ratio", "silent"]]
       ratio  silent
    0    2.0     0.0
    1    0.0     1.0
    """
    A = M.detach().cpu().double().abs()
    S, shares, silent = _shares(A)
    ratio, entropy = S.sum(dim=1), torch.special.entr(shares).sum(dim=1)
    columns = {
        "ratio": ratio,
        "entropy": entropy,
        "entropy_normalised": _min_max(entropy, ~silent),
        "effective_features": entropy.exp().masked_fill(silent, 0),
        "count": ((A if absolute else S) > threshold).sum(dim=1).double(),
        "participation": ratio.square() / S.square().sum(dim=1).masked_fill(silent, 1),
        "silent": silent.double(),
    }
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def total_feature_dimensionality(M: Tensor) -> float:
    """Return (1/q) Σ_j min(Σ_i D_ij, 1) of M `[p, q]`, D_ij = |M_ij| / Σ_j |M_ij|; in [0, 1].

    Each unit has one dimension to share out among features, silent ones give none (Plettscher).

    >>> total_feature_dimensionality(torch.tensor([[1.0, 0.0, 0.0], [0.0, -3.0, 3.0]]))
    0.6666666666666666
    """
    _, D, _ = _shares(M.detach().cpu().double().abs())
    return float(D.sum(dim=0).clamp(max=1).mean())


def capacity(M: Tensor) -> Tensor:
    """Return each feature's capacity `[q]` in one layer's M `[p, q]`, in [0, 1].

    C_j = (c_j·c_j)² / Σ_l (c_j·c_l)², c_j the columns of M; 0 for a zero column (Scherlis et al.
    2022, eq. 1): 1 for a feature orthogonal to all others, 1/2 for each of two that coincide.

    >>> capacity(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    C = M.detach().cpu().double()
    C = C / (C.abs().max() or 1)  # the square of a square underflows soon
    products = (C.T @ C).square()
    return products.diag() / products.sum(dim=1).masked_fill(products.diag() == 0, 1)


def _shares(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of A ≥ 0 relative to their largest entry, and to their sum; and which are all 0.

    The first keeps squares and sums of very small numbers from underflowing.
    """
    peak = A.amax(dim=1, keepdim=True)
    S = A / peak.masked_fill(peak == 0, 1)
    return S, S / S.sum(dim=1, keepdim=True).clamp_min(1), peak.squeeze(1) == 0


def _min_max(values: Tensor, where: Tensor) -> Tensor:
    if not bool(where.any()):
        return torch.zeros_like(values)
    low, high = values[where].min(), values[where].max()
    spread = (high - low).item() or 1.0
    return ((values - low) / spread).masked_fill(~where, 0)


def _responding(units: pd.DataFrame) -> dict[str, float]:
    """The mean ratio over units that respond; nothing where none does."""
    ratios = units.loc[units["silent"] == 0, "ratio"]
    return {"ratio_responding": float(ratios.mean())} if len(ratios) else {}
