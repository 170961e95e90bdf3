"""Objectives of a unit and a cluster against their formulas, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polykit.errors import DataError, UsageError
from polykit.registry import Registry
from polykit.runtime.clusters.objectives import (
    Balance,
    Contrast,
    Preservation,
    UnitValue,
    contrast,
    preservation,
)
from polykit.runtime.objectives import UnitActivation
from polykit.runtime.passes.reading import Reader, make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates, masked_parameters
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.types import Mask, Objective, UnitRef

TARGET = UnitRef("2", 3)
SALIENCY = ["actgrad", "force", "magnitude", "random", "snip"]


class Case:
    """A convnet read through the cone, ten pictures, four of them in the cluster."""

    def __init__(self) -> None:
        with seeded(0, "cluster objectives"):
            layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU()]
            self.model = nn.Sequential(*layers).double().eval()
            self.x = torch.randn(10, 1, 9, 9, dtype=torch.double)
        self.y = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 1, 0])
        self.trace = trace(self.model, self.x)
        self.read: Reader = make_reader(self.model, self.trace, "2")
        cut = candidates(self.model, self.trace, target=TARGET)
        random = generator(0, "mask")
        self.mask = cut.mask(
            {n: torch.rand(s, generator=random) < 0.6 for n, s in cut.shapes.items()}
        )
        self.params = masked_parameters(self.model, self.mask)

    def batches(self, size: int = 10) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(size), self.y.split(size), strict=True))

    def values(self, *, pruned: bool) -> np.ndarray:
        """The unit in the middle of its map, by running the layers one after the other."""
        with torch.no_grad():
            model = nn.Sequential(*self.model[:3])
            params = self.params if pruned else {}
            maps = torch.func.functional_call(model, params, (self.x,))
        return maps[:, TARGET.index, 2, 2].numpy()

    def ask(self, objective: Objective) -> np.ndarray:
        with torch.no_grad(), unchanged(self.model):
            return objective.values(self.model, self.x, self.y, params=self.params).numpy()


@pytest.fixture
def case() -> Case:
    return Case()


def test_the_cone_is_read(case: Case) -> None:
    assert case.read.way == "cone"


def test_unit_value_is_the_unit_at_the_centre(case: Case) -> None:
    given = case.ask(UnitValue(TARGET, case.read))
    np.testing.assert_allclose(given, case.values(pruned=True), rtol=1e-12)
    np.testing.assert_allclose(
        given, case.ask(UnitActivation(TARGET, case.trace, "center")), rtol=1e-12
    )


@pytest.mark.parametrize("normalise", ["dense", "batch"])
def test_contrast_is_the_weighted_cross_entropy_of_the_normalised_unit(
    case: Case, normalise: Any
) -> None:
    dense, value, y = case.values(pruned=False), case.values(pruned=True), case.y.numpy()
    objective = contrast(case.model, TARGET, case.read, case.batches(), normalise)
    np.testing.assert_allclose([objective.mean, objective.std], [dense.mean(), dense.std()])
    if normalise == "dense":
        logit = (value - dense.mean()) / dense.std()
    else:
        logit = (value - value.mean()) / max(value.std(), dense.std())
    chance = 1 / (1 + np.exp(-logit))
    losses = -np.where(y == 1, np.log(chance), np.log(1 - chance))
    given = case.ask(objective)
    np.testing.assert_allclose(given, losses * np.where(y == 1, 10 / 8, 10 / 12), rtol=1e-10)
    balanced = (losses[y == 1].mean() + losses[y == 0].mean()) / 2
    np.testing.assert_allclose(given.mean(), balanced, rtol=1e-10)


def test_a_batch_that_varies_more_than_the_dense_unit_is_scaled_by_itself(case: Case) -> None:
    """The other side of max(σ_batch, σ_dense); a batch without any spread has a slope, too."""
    narrow = Contrast(TARGET, case.read, 0.0, 1e-3, Balance(4, 6), "batch")
    value = case.values(pruned=True)
    logit = torch.tensor((value - value.mean()) / value.std())
    losses = nn.functional.binary_cross_entropy_with_logits(
        logit, case.y.double(), reduction="none"
    )
    np.testing.assert_allclose(case.ask(narrow), narrow.balance.weigh(losses, case.y), rtol=1e-10)
    params = {name: value.requires_grad_() for name, value in case.params.items()}
    same, labels = case.x[:1].expand(4, -1, -1, -1), case.y[:4]
    loss = narrow.values(case.model, same, labels, params=params).mean()
    for slope in torch.autograd.grad(loss, list(params.values())):
        assert bool(torch.isfinite(slope).all())


def test_preservation_is_the_distance_on_the_cluster_and_the_firing_off_it(case: Case) -> None:
    dense, value, y = case.values(pruned=False), case.values(pruned=True), case.y.numpy()
    objective = preservation(case.model, TARGET, case.read, case.batches())
    scale = np.sqrt((dense[y == 1] ** 2).mean())
    np.testing.assert_allclose(objective.scale, scale)
    distance = np.where(y == 1, value - dense, np.maximum(value, 0)) / scale
    given = case.ask(objective)
    np.testing.assert_allclose(given, distance**2 * np.where(y == 1, 10 / 8, 10 / 12), rtol=1e-10)


def test_preservation_is_zero_for_the_ideal_and_a_half_for_silence(case: Case) -> None:
    """Ideal: the dense network where no other picture makes the unit fire."""
    objective = Preservation(TARGET, case.read, 1.0, Balance(4, 6))
    silent = [Mask({n: torch.zeros_like(m) for n, m in case.mask.items()})]
    with torch.no_grad():
        case.model[2].bias.fill_(0)
        case.model[0].bias.fill_(0)
    objective = preservation(case.model, TARGET, case.read, case.batches())
    case.params = masked_parameters(case.model, silent[0])
    np.testing.assert_allclose(case.ask(objective).mean(), 0.5)
    case.params = {}
    off = case.values(pruned=False)[case.y.numpy() == 0]
    fires = (np.maximum(off, 0) ** 2).mean() / objective.scale**2
    np.testing.assert_allclose(case.ask(objective).mean(), fires / 2, rtol=1e-10)


@pytest.mark.parametrize("make", [contrast, preservation])
def test_what_is_measured_does_not_depend_on_batches(case: Case, make: Any) -> None:
    with unchanged(case.model):
        found = [make(case.model, TARGET, case.read, case.batches(size)) for size in (10, 3, 1)]
    for one in found[1:]:
        assert one.balance == found[0].balance == Balance(4, 6)
        for name in ("mean", "std") if make is contrast else ("scale",):
            np.testing.assert_allclose(getattr(one, name), getattr(found[0], name), rtol=1e-12)


@pytest.mark.parametrize("make", [contrast, preservation])
def test_bad_pictures_are_refused(case: Case, make: Any) -> None:
    def ask(x: Tensor, y: Tensor) -> None:
        make(case.model, TARGET, case.read, [(x, y)])

    for label in (0, 1):
        with pytest.raises(UsageError, match=r"in the cluster and off it, but there are"):
            ask(case.x, torch.full((10,), label))
    with pytest.raises(UsageError, match="takes labels 1"):
        ask(case.x, torch.arange(10))
    with pytest.raises(UsageError, match="takes labels 1"):
        ask(case.x, case.y[:, None])
    case.x[3, 0, 4, 4] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        ask(case.x, case.y)


def test_a_unit_that_never_moves_has_nothing_to_contrast_or_preserve(case: Case) -> None:
    with torch.no_grad():
        case.model[2].weight[TARGET.index] = 0
        case.model[2].bias[TARGET.index] = 0
    with pytest.raises(DataError, match="2:3 has the same value on all 10 pictures"):
        contrast(case.model, TARGET, case.read, case.batches())
    with pytest.raises(DataError, match="2:3 is zero on all of the cluster"):
        preservation(case.model, TARGET, case.read, case.batches())


@pytest.mark.parametrize("name", SALIENCY)
@pytest.mark.parametrize("granularity", ["weight", "kernel", "unit"])
def test_every_pruner_takes_every_objective(case: Case, name: str, granularity: Any) -> None:
    options = {"rounds": 3} if name == "force" else {}
    pruner = Registry.discover().create("pruner", name, options).instance
    cut = candidates(case.model, case.trace, granularity, target=TARGET)
    for objective in (
        UnitValue(TARGET, case.read),
        contrast(case.model, TARGET, case.read, case.batches()),
        contrast(case.model, TARGET, case.read, case.batches(), "batch"),
        preservation(case.model, TARGET, case.read, case.batches()),
    ):
        with unchanged(case.model):
            mask = pruner.prune(
                case.model,
                objective,
                case.batches(4),
                density=0.4,
                candidates=cut,
                generator=generator(0),
            )
        size = max(cut.element_size(weight) for weight in cut.shapes)
        assert abs(mask.kept - 0.4 * mask.total) <= size
