"""Feature spaces: the ground truth and class prototypes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polykit.errors import DataError
from polykit.registry import Registry
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import TensorSplit
from polykit.testing.samples import datasets, subject
from polykit.types import Data, Subject
from polykit_builtins.features.classes import Classes, class_means
from polykit_builtins.features.truth import Truth


def classified(outputs: int = 3) -> Data:
    x = torch.rand(60, 2, 4, generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {j}" for j in range(outputs))
    return as_data((x, torch.arange(60) % 3), name="mine", classes=names)


def seen(data: Data) -> Subject:
    """What a feature space is given; these look at the data only."""
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, data.outputs))
    model(next(iter(data.test.batches(1)))[0])
    return subject(Registry.discover(), model.eval(), data, 16)


def test_truth_is_what_the_dataset_brings() -> None:
    data = datasets()["truth"]
    assert Truth().build(seen(data)) is data.features


def test_truth_names_the_alternative() -> None:
    with pytest.raises(DataError, match=r"mine has no ground-truth.*'classes'"):
        Truth().build(seen(classified()))
    regression = as_data((torch.rand(20, 2), torch.rand(20)), name="mine")
    with pytest.raises(DataError, match=r"mine has no ground-truth.*'toy'"):
        Truth().build(seen(regression))


def test_prototypes_are_the_class_means() -> None:
    data = classified()
    assert isinstance(data.train, TensorSplit)
    x, y = data.train.x.double(), data.train.y
    space = Classes().build(seen(data))
    assert (space.name, space.n_features, space.names) == ("classes", 3, data.classes)
    origin = space.encode(torch.zeros(1, 3))
    torch.testing.assert_close(origin[0], x.mean(0).float())
    for j, prototype in enumerate(space.encode(torch.eye(3))):
        torch.testing.assert_close(prototype, x[y == j].mean(0).float())
    half = space.encode(torch.eye(3) / 2)
    torch.testing.assert_close(half, (space.encode(torch.eye(3)) + origin) / 2)


def test_encoding_is_differentiable_and_follows_the_type_of_its_input() -> None:
    space = Classes().build(seen(classified()))
    f = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(space.encode, f)
    prototypes = space.encode(torch.eye(3).double()) - space.encode(f)
    torch.testing.assert_close(jacobian.squeeze().movedim(-1, 0), prototypes.detach())


def test_means_do_not_depend_on_the_chunk_size() -> None:
    data = classified()
    for one, all_at_once in zip(class_means(data, 1), class_means(data, 1000), strict=True):
        torch.testing.assert_close(one, all_at_once, atol=1e-14, rtol=1e-14)


def test_classes_need_a_classification() -> None:
    with pytest.raises(DataError, match=r"sample is a regression.*'truth'"):
        Classes().build(seen(datasets()["truth"]))


def test_a_class_without_training_samples_is_named() -> None:
    with pytest.raises(DataError, match="no training samples of class class 3"):
        Classes().build(seen(classified(outputs=4)))
