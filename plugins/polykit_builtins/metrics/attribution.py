"""From features to units: what each feature of a space does to each unit of a network.

Attributions go from the coordinates of a feature space, through its encoder and the network (or
the part of it behind a layer), to every unit. Importable without a run: `attribution_matrix`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from polykit.errors import ModelError, UsageError
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.capture import Reduce, capture, unit_values
from polykit.runtime.passes.feeding import downstream
from polykit.runtime.passes.trace import evaluating, trace
from polykit.types import Site, Trace
from polykit_builtins.metrics.slopes import slopes

Encoder = Callable[[Tensor], Tensor]
"""Maps features `[n, q]` to model inputs `[n, *shape]`, or to a layer's values, row by row."""

CHUNK_NUMBERS, CACHED_NUMBERS, LEAST_ROWS = 2**26, 2**21, 64
"""How many numbers (inputs and outputs of all modules) the rows of a default chunk may need: a few
that stay near the processor, but for at least 64 rows more, if memory allows."""

CAPTUM_STEPS = 50
"""Captum has no exact form; 50 steps are its default and the thesis's."""


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
    layer: str = "",
    inputs: Tensor | None = None,
    passed: Trace | None = None,
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

    With `layer` what `encoder` gives, `[n, units, *positions]`, takes the place of that layer's
    values behind its nonlinearity. Rows of M are then the units of those `layers` that depend on
    it. `inputs [1, *shape]` is what the model reads meanwhile: it says what shape inputs have, and
    only paths around `layer`, such as skip connections, carry it to a unit, as a constant. `passed`
    is the model's trace, for who has it already.

    Raises UsageError for a layer that does not exist, a number below 1, or `layers` none of which
    lies behind `layer`; ModelError for NaN.

    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    >>> model[0].weight = nn.Parameter(torch.tensor([[3.0, -1.0]]))
    >>> attribution_matrix(model, lambda features: features, n_features=2)
    tensor([[ 3., -1.]])
    >>> attribution_matrix(model, lambda features: features, n_features=2, at="post", steps=50)
    tensor([[3., 0.]])
    """
    entry = _Entry(layer, inputs, passed)
    with _units(model, encoder, n_features, layers, at, reduce, steps, chunk_size, entry) as units:
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
    layer: str = "",
    inputs: Tensor | None = None,
    passed: Trace | None = None,
) -> Tensor:
    """Return the same as `attribution_matrix`, by Captum, unit by unit: the reference.

    Captum's IntegratedGradients with the method `riemann_right`, baseline 0 and input e_j; it
    has no exact form, so `steps = None` means 50.
    """
    from captum.attr import IntegratedGradients as Captum  # slow to import, rarely needed

    steps = CAPTUM_STEPS if steps is None else steps
    entry = _Entry(layer, inputs, passed)
    with _units(model, encoder, n_features, layers, at, reduce, steps, chunk_size, entry) as units:
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


def response_matrix(
    model: nn.Module,
    encoder: Encoder,
    n_features: int,
    *,
    layers: Sequence[str] | None = None,
    chunk_size: int | None = None,
    reduce: Reduce = "mean",
    layer: str = "",
    inputs: Tensor | None = None,
    passed: Trace | None = None,
) -> Tensor:
    """Return the values n_i(e_j) `[p, q]` behind the nonlinearity, of all units, for each feature.

    The arguments are those of `attribution_matrix`.

    >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> weights = torch.tensor([[3.0, -1.0]]), torch.tensor([0.5])
    >>> model[0].weight, model[0].bias = map(nn.Parameter, weights)
    >>> response_matrix(model, lambda features: features, n_features=2)
    tensor([[3.5000, 0.0000]])
    """
    entry = _Entry(layer, inputs, passed)
    with _units(model, encoder, n_features, layers, "post", reduce, 1, chunk_size, entry) as units:
        with torch.no_grad():
            rows = [units(features.clone()).T for features in units.eye.split(units.chunk)]
        return units.checked(torch.cat(rows, dim=1))


def attributed(
    model: nn.Module,
    inputs: Tensor,
    passed: Trace,
    layers: Sequence[str],
    layer: str,
    name: str = "encoder",
) -> tuple[str, ...]:
    """Return those of `layers` that features entering at `layer` reach: all, if it is the input.

    Raises UsageError where there is none.
    """
    if not layer:
        return tuple(layers)
    found = downstream(model, inputs, layer, passed, layers)
    if not found:
        raise UsageError(
            f"the features of {name!r} enter behind layer {layer!r}, which none of the layers "
            f"{', '.join(layers)} depends on; measure layers behind it, such as the output layer "
            f"{passed.output_layer!r}, or let the features enter further up"
        )
    return found


@dataclass(frozen=True)
class _Entry:
    """Where features enter: the values of `layer`, or the model's input; and what else is known."""

    layer: str
    inputs: Tensor | None
    passed: Trace | None

    def example(self, encoder: Encoder, zero: Tensor) -> Tensor:
        """Return one input `[1, *shape]` to run the model on."""
        if not self.layer:
            return encoder(zero)
        if self.inputs is None:
            raise UsageError(
                f"features that enter at layer {self.layer!r} do not tell what inputs are like; "
                f"give inputs=, an input [1, *shape] such as torch.zeros(1, *shape)"
            )
        return self.inputs[:1].to(zero)

    def site(self, passed: Trace) -> Site | None:
        """Return the site to feed; raise UsageError where the model has no such layer."""
        if not self.layer:
            return None
        (name, *more) = select_layers(passed, [self.layer])
        if more:
            raise UsageError(f"features enter at one layer; {self.layer!r} names {name}, {more[0]}")
        return Site(name, "post")


@dataclass(frozen=True)
class _Units:
    """Unit values as a function of features `[n, q]`."""

    model: nn.Module
    encoder: Encoder
    trace: Trace
    sites: tuple[Site, ...]
    fed: Site | None
    example: Tensor
    reduce: Reduce
    eye: Tensor
    chunk: int

    def __call__(self, features: Tensor) -> Tensor:
        """Return the values of all units `[n, p]`."""
        return torch.cat(self.by_layer(features), dim=1)

    def by_layer(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the values `[n, units]` of each layer in turn."""
        x, feed = self.encoder(features), None
        if self.fed is not None:
            feed, x = (self.fed, x), self.example.expand(len(x), *self.example.shape[1:])
        values = capture(self.model, x, self.sites, self.trace, feed=feed).values
        return tuple(unit_values(values[site], self.reduce) for site in self.sites)

    @property
    def counts(self) -> list[int]:
        return [self.trace.of(site.layer)[0].units for site in self.sites]

    @property
    def count(self) -> int:
        return sum(self.counts)

    def checked(self, M: Tensor) -> Tensor:
        """Return M, or say which unit's attribution is not a number."""
        if torch.isfinite(M.sum()):  # as it is where every number is, and quickly found out
            return M
        bad = (~torch.isfinite(M)).nonzero()
        if len(bad):
            row, feature = bad[0].tolist()
            pairs = zip(self.sites, self.counts, strict=True)
            units = [f"{site.layer}:{index}" for site, count in pairs for index in range(count)]
            raise ModelError(
                f"unit {units[row]} gives NaN or infinity for feature {feature} ({len(bad)} "
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
    entry: _Entry,
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
            example = entry.example(encoder, torch.zeros_like(eye[:1]))
            passed = entry.passed or trace(model, example)
        fed = entry.site(passed)
        chosen = select_layers(passed, layers or ("*",))
        reached = attributed(model, example, passed, chosen, fed.layer if fed else "")
        sites = tuple(Site(layer, at) for layer in reached)
        size = _row_size(passed)
        chunk = chunk_size or max(CACHED_NUMBERS // size, min(LEAST_ROWS, CHUNK_NUMBERS // size), 1)
        yield _Units(model, encoder, passed, sites, fed, example, reduce, eye, chunk)


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
    baseline: tuple[Tensor, ...] = (units.eye[:0],)
    for features in units.eye.split(units.chunk):
        if len(baseline[0]) != len(features):
            baseline = units.by_layer(torch.zeros_like(features))
        moved = zip(units.by_layer(features.clone()), baseline, strict=True)
        parts.append(torch.cat([value - still for value, still in moved], dim=1).T)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _riemann(units: _Units, steps: int) -> Tensor:
    """(1/m) Σ_k ∂n/∂f_j(k/m · e_j), one row of a batch per feature j and step k."""
    sums = [units.eye.new_zeros(len(units.eye), count) for count in units.counts]
    for rows in torch.arange(len(units.eye) * steps, device=units.eye.device).split(units.chunk):
        feature, step = rows // steps, rows % steps + 1
        direction = units.eye[feature]
        points = direction * (step / steps).to(direction).unsqueeze(1)
        for total, slope in zip(sums, slopes(units.by_layer, points, direction), strict=True):
            total.index_add_(0, feature, slope)
    return torch.cat([total.T / steps for total in sums])
