"""What metrics of one look share, and how a measurement is told in rows."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Measurement
from polykit_builtins.metrics import feature_metric
from polykit_builtins.metrics.feature_dimensionality import FeatureDimensionality
from polykit_builtins.metrics.ig import IntegratedGradients

REGISTRY = Registry.discover()


@pytest.fixture
def looked_at():
    return subject(REGISTRY, networks()["mlp"], datasets()["truth"], 8)


def test_metrics_that_ask_the_same_share_one_answer(looked_at, monkeypatch):
    made = []
    real = feature_metric.attribution_matrix

    def attribution_matrix(*arguments, **options):
        made.append(options["at"])
        return real(*arguments, **options)

    monkeypatch.setattr(feature_metric, "attribution_matrix", attribution_matrix)
    metrics = [FeatureDimensionality(), FeatureDimensionality(), FeatureDimensionality(at="post")]
    first, second, other = measure_all(metrics, looked_at)
    assert made == ["pre", "post"]
    assert first.layers == second.layers != other.layers
    measure_all(metrics[:1], replace(looked_at))
    assert made == ["pre", "post", "pre"]


def test_another_look_sees_another_network(looked_at):
    metric = IntegratedGradients()
    (before,) = measure_all([metric], looked_at)
    for parameter in looked_at.model.parameters():
        parameter.data.mul_(parameter.data)
    (after,) = measure_all([metric], replace(looked_at))
    assert before.summary != after.summary


def test_only_one_statistic_is_told():
    units = pd.DataFrame({"layer": ["a", "b"], "unit": [0, 0], "x": [1.0, 3.0], "y": [0.0, 2.0]})
    found = Measurement(units, {"a": {"x": 7.0, "z": 1.0}}, {"z": 5.0})
    everything = list(found.rows())
    for only in ("x", "y", "z"):
        assert list(found.rows(only)) == [row for row in everything if row[1] == only]
    assert {row[1] for row in everything} == {"x", "y", "z"}
    assert list(found.rows("nothing")) == []
