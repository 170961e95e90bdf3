"""Lets many metrics look at one network in a single pass over the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from polykit.api import AnyMetric, Metric, StreamingMetric
from polykit.errors import ModelError, PluginError
from polykit.runtime.blame import blaming
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import evaluating
from polykit.types import At, Batch, Measurement, Site, Subject


def measure_all(metrics: Sequence[AnyMetric], subject: Subject) -> list[Measurement]:
    """Return each metric's measurement, in order.

    Memory: one chunk of `subject.batch_size` samples with the activations asked for, and the
    metrics' states; nothing grows with the number of samples.

    Raises ModelError where the network gives NaN or infinite values.
    """
    streaming = [metric for metric in metrics if isinstance(metric, StreamingMetric)]
    with evaluating(subject.model), torch.no_grad():
        states = _stream(streaming, subject) if streaming else {}
    results = []
    for metric in metrics:
        if isinstance(metric, StreamingMetric):
            with blaming(metric):
                results.append(metric.finish(subject, states[id(metric)]))
        elif isinstance(metric, Metric):
            with blaming(metric):
                results.append(metric.measure(subject))
        else:
            raise PluginError(
                f"{type(metric).__name__} is no metric; derive it from Metric or StreamingMetric"
            )
    return results


def _stream(metrics: Sequence[StreamingMetric], subject: Subject) -> dict[int, Any]:
    states: dict[int, Any] = {id(metric): None for metric in metrics}
    readings = sorted({at for metric in metrics for at in metric.reads})
    outputs = any(metric.needs_outputs for metric in metrics)
    sites = [Site(layer, at) for layer in subject.layers for at in readings]
    for x, y in subject.data.test.batches(subject.batch_size):
        inputs, targets = x.to(subject.device), y.to(subject.device)
        if sites or outputs:
            captured = capture(subject.model, inputs, sites, subject.trace, outputs=outputs)
            activations: dict[At, dict[str, torch.Tensor]] = {at: {} for at in readings}
            for site, values in captured.values.items():
                activations[site.at][site.layer] = _finite(values, f"layer {site.layer!r}")
            if captured.outputs is not None:
                _finite(captured.outputs, "the network")
            batch = Batch(inputs, targets, captured.outputs, activations)
        else:
            batch = Batch(inputs, targets)
        for metric in metrics:
            with blaming(metric):
                states[id(metric)] = metric.update(subject, states[id(metric)], batch)
    return states


def _finite(values: torch.Tensor, what: str) -> torch.Tensor:
    """Refuse NaN here, once: in a metric's sums it would pass for a number."""
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            f"{what} gives NaN or infinite values on the test samples; look for NaN in the "
            f"weights, or train with a lower lr"
        )
    return values
