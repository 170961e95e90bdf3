"""How strongly nodes act across whatever lies between two layers, by slopes along a path."""

from __future__ import annotations

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn
from torch.autograd import forward_ad

from polykit.errors import ModelError
from polykit.runtime.degeneracy.jacobian_rows import constants
from polykit.runtime.degeneracy.nodes import Nodes
from polykit.runtime.degeneracy.slope_rows import INPUT, double, in_double
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.dual import dual_numbers, tangent_of
from polykit.runtime.passes.trace import evaluating
from polykit.types import Site, Trace


class Paths:
    """From the values of one layer to those of another, in float64; the model is not touched.

    The integral over α is a Gauss–Legendre sum of `steps` points. At each, one pass with dual
    numbers gives the slopes along one node's part of one sample: as many rows at once as `numbers`
    entries of the widest layer are.
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Trace,
        layers: tuple[str, str],
        nodes: tuple[Nodes, Nodes],
        steps: int,
        numbers: int,
    ) -> None:
        self._model, self._trace = model, trace
        self._before, self._after = layers
        self._source, self._target = nodes
        self._tensors = in_double(model)
        # from the mean, the constant is 1 all along the path
        grows = not bool(self._source.origin.any())
        self._constants = constants(model, self._tensors) if grows else {}
        points, weights = leggauss(steps)
        self._path = [((1 + p) / 2, w / 2) for p, w in zip(points, weights, strict=True)]
        self._rows = max(1, numbers // max(call.units * call.positions for call in trace.calls))

    def sums(self, x: Tensor) -> Tensor:
        """Return the sum over samples `x [n, *shape]` of A², `[nodes behind, nodes before]`."""
        total = torch.zeros(len(self._target), len(self._source)).to(self._source.forward)
        if total.numel():
            for chunk in x.split(self._rows):
                self._add(total, chunk)
        return total

    def _add(self, total: Tensor, x: Tensor) -> None:
        source, count = self._source, len(self._source)
        f = self._read(x)
        start = _like(source.origin[1:], f)
        C = source.forward
        values = torch.tensordot(f, C[:, 1:].T, ([1], [0])) + C[:, 0]
        values = values.movedim(-1, 1)
        alone = [self._constant(x, start + a * (f - start), a) for a, _ in self._path]
        for rows in torch.arange(len(x) * count).split(self._rows):
            n, j = rows // count, rows % count
            value = values[n, j][:, None]
            along = value * source.backward[1:, j].T.reshape(len(rows), -1, *[1] * (f.dim() - 2))
            one = value.flatten(1).mean(dim=1) * source.backward[0, j]
            A = torch.zeros(()).to(f)
            for (alpha, weight), constant in zip(self._path, alone, strict=True):
                point = start + alpha * (f[n] - start)
                with dual_numbers():
                    dual = forward_ad.make_dual(point, along)
                    slopes = tangent_of(self._run(x[n], dual, self._grown(alpha)))
                A = A + weight * (slopes + _like(one, slopes, 0) * constant[n])
            C = self._target.forward
            parts = torch.tensordot(A, C[:, 1:].T, ([1], [0]))
            parts = parts + _like(one, parts, 0) * C[:, 0]
            strength = parts.square().reshape(len(rows), -1, len(C)).mean(dim=1)
            total.index_add_(1, j.to(total.device), strength.T)

    def _read(self, x: Tensor) -> Tensor:
        """The values of the layer before, `[n, units, *positions]`."""
        if self._before == INPUT:
            return x.flatten(1)
        site = Site(self._before, "post")
        return capture(self._model, x, [site], self._trace, params=self._tensors).values[site]

    def _run(self, x: Tensor, values: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The values of the layer behind, where those of the layer before are `values`."""
        site, feed = Site(self._after, "post"), None
        if self._before == INPUT:
            x = values.reshape(x.shape)
        else:
            feed = (Site(self._before, "post"), values)
        return capture(self._model, x, [site], self._trace, params=tensors, feed=feed).values[site]

    def _grown(self, alpha: float) -> dict[str, Tensor]:
        """The network's tensors where the constant is `alpha`."""
        grown = {n: self._tensors[n] + (alpha - 1) * c for n, c in self._constants.items()}
        return self._tensors | grown

    def _constant(self, x: Tensor, values: Tensor, alpha: float) -> Tensor:
        """The slope of the layer behind along the constant, `[n, units, *positions]`."""
        tensors = self._grown(alpha)
        with dual_numbers():
            duals = {n: forward_ad.make_dual(tensors[n], c) for n, c in self._constants.items()}
            return tangent_of(self._run(x, values, tensors | duals))


def check_follows(model: nn.Module, x: Tensor, trace: Trace, before: str, behind: str) -> None:
    """Raise ModelError where the values of `behind` do not follow from those of `before` alone.

    The values that `x [n, *shape]` gives `before` are fed to it beside a black input: nothing may
    change behind it. From the input itself everything follows.
    """
    if before == INPUT:
        return
    site, source, tensors = Site(behind, "post"), Site(before, "post"), in_double(model)
    x = double(x) if x.is_floating_point() else x
    with evaluating(model), torch.no_grad():
        found = capture(model, x, [source, site], trace, params=tensors).values
        feed = (source, found[source])
        black = torch.zeros_like(x)
        again = capture(model, black, [site], trace, params=tensors, feed=feed).values
    if not torch.equal(found[site], again[site]):
        raise ModelError(
            f"the values of layer {behind!r} do not follow from those of {before!r} alone: a path "
            f"leads beside it. An interaction graph needs layers that follow each other; choose "
            f"such with --layer"
        )


def _like(values: Tensor, like: Tensor, axis: int = 1) -> Tensor:
    """Give `values`, one for each entry of an axis of `like`, as many axes as it has."""
    shape = [1] * like.dim()
    shape[axis] = len(values)
    return values.reshape(shape)
