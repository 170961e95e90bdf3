"""Feature spaces are built once where that is right, and again where it is not."""

from dataclasses import replace

import pytest
import torch

from polykit.errors import DataError
from polykit.registry import Registry
from polykit.runtime.samples.data import as_data
from polykit.testing.samples import datasets, networks, subject
from polykit.workflows.plugins import Spaces

REGISTRY = Registry.discover()
QUICK = {"dictionary": {"epochs": 1, "size": 8}}


def looked_at(data):
    spaces = Spaces(REGISTRY, QUICK)
    one, other = (
        replace(subject(REGISTRY, networks()["mlp"], data, 10), spaces=spaces) for _ in range(2)
    )
    return one, other


@pytest.mark.parametrize("name", ["truth", "auto", "dictionary:input"])
def test_one_space_serves_all_networks_on_the_same_data(name):
    one, other = looked_at(datasets()["truth"])
    assert one.feature_space(name) is other.feature_space(name)
    third, _ = looked_at(datasets()["truth"])
    assert one.feature_space(name) is not third.feature_space(name)


def test_learned_from_activations_each_network_has_its_own_for_all_its_metrics():
    one, other = looked_at(datasets()["classes"])
    mine = one.feature_space("dictionary")
    assert one.feature_space("dictionary") is mine
    assert other.feature_space("dictionary") is not mine


def test_auto_is_the_truth_else_the_classes():
    assert looked_at(datasets()["truth"])[0].feature_space("auto").name == "truth"
    assert looked_at(datasets()["classes"])[0].feature_space("auto").name == "classes"
    plain = as_data((torch.rand(20, 1, 6, 6), torch.rand(20)), name="plain")
    with pytest.raises(DataError, match="plain has neither ground-truth features nor classes"):
        looked_at(plain)[0].feature_space("auto")
