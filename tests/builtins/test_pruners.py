"""The built-in pruners against brute force, torch's own pruning, and their contracts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from polykit.api import Pruner, SaliencyPruner
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.clusters.objectives import UnitValue
from polykit.runtime.objectives import TaskLoss, UnitActivation
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.types import (
    Candidates,
    Competition,
    Granularity,
    Mask,
    Objective,
    Scores,
    Trace,
    UnitRef,
)
from polykit_builtins.pruners.actgrad import ActGrad
from polykit_builtins.pruners.force import Force
from polykit_builtins.pruners.magnitude import Magnitude
from polykit_builtins.pruners.random import Random
from polykit_builtins.pruners.snip import Snip

SAMPLES = 8
BUILTIN = sorted(
    found.entry.name
    for found in Registry.discover().entries("pruner")
    if found.distribution == "polykit" and issubclass(found.options, SaliencyPruner)
)
SETTINGS = list(itertools.product(get_args(Granularity), get_args(Competition)))
Batches = list[tuple[Tensor, Tensor]]


def mlp() -> nn.Module:
    layers = [nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(5, 3))


def convnet() -> nn.Module:
    """Stride, padding and groups; one layer without a bias, one ReLU in place."""
    first = [nn.Conv2d(1, 4, 3, stride=1, padding=1, bias=False), nn.ReLU(inplace=True)]
    second = [nn.Conv2d(4, 6, 2, stride=2, groups=2), nn.Tanh()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(24, 3))


NETWORKS = {"mlp": mlp, "convnet": convnet}
TARGETS = {"mlp": UnitRef("3", 2), "convnet": UnitRef("2", 4)}


class Case:
    """A small float64 network with data and an objective."""

    def __init__(self, network: str, *, unit: bool = False) -> None:
        with seeded(0, "pruners", network):
            self.model = NETWORKS[network]().double().eval()
            self.x = torch.randn(SAMPLES, 1, 4, 4, dtype=torch.double)
            self.y = torch.randint(3, (SAMPLES,))
        self.trace: Trace = trace(self.model, self.x)
        self.objective: Objective = TaskLoss()
        if unit:
            self.objective = UnitActivation(TARGETS[network], self.trace)

    def batches(self, size: int = SAMPLES) -> Batches:
        return list(zip(self.x.split(size), self.y.split(size), strict=True))

    def candidates(
        self, granularity: Granularity = "weight", competition: Competition = "global"
    ) -> Candidates:
        target = self.objective.target
        return candidates(self.model, self.trace, granularity, competition, target=target)

    def some_mask(self, granularity: Granularity = "weight") -> Mask:
        cut, random = self.candidates(granularity), generator(1, "mask")
        shapes = {name: cut.element_shape(name) for name in cut.shapes}
        return cut.mask({n: torch.rand(s, generator=random) < 0.7 for n, s in shapes.items()})

    def scores(
        self,
        pruner: SaliencyPruner,
        granularity: Granularity = "weight",
        mask: Mask | None = None,
        batch: int = SAMPLES,
    ) -> Mapping[str, Tensor]:
        cut = self.candidates(granularity)
        with unchanged(self.model):
            return pruner.scores(
                self.model,
                self.objective,
                self.batches(batch),
                candidates=cut,
                mask=cut.full() if mask is None else mask,
                generator=generator(0),
            ).values

    def prune(
        self,
        pruner: Pruner,
        density: float,
        granularity: Granularity = "weight",
        competition: Competition = "global",
        seed: int = 0,
    ) -> Mask:
        with unchanged(self.model):
            return pruner.prune(
                self.model,
                self.objective,
                self.batches(3),
                density=density,
                candidates=self.candidates(granularity, competition),
                generator=generator(seed),
            )


CASES = pytest.mark.parametrize(
    ("network", "unit"), list(itertools.product(NETWORKS, [False, True]))
)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert float(value.abs().max()) > 0, f"{name}: nothing to compare"
        atol = rtol * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=name)


def create(name: str, **options: Any) -> Pruner:
    pruner: Pruner = Registry.discover().create("pruner", name, options).instance
    return pruner


# --- SNIP ---------------------------------------------------------------------------------------


def multiplier_gradient(case: Case, mask: Mask, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """∂f/∂m by central differences, one multiplier after the other; f = mean over the images."""
    own = dict(case.model.named_parameters())
    params = {name: own[name].detach() * keep for name, keep in mask.items()}
    found = {}
    for name in case.candidates().shapes:
        slopes = torch.zeros(own[name].numel(), dtype=torch.double)
        for index in range(len(slopes)):
            values = []
            for step in (1e-5, -1e-5):
                moved = params[name].clone()
                moved.view(-1)[index] += step * own[name].detach().view(-1)[index]
                with torch.no_grad():
                    given = {**params, name: moved}
                    values.append(case.objective.values(case.model, x, y, params=given).mean())
            slopes[index] = (values[0] - values[1]) / 2e-5
        found[name] = slopes.view_as(own[name])
    return found


@CASES
@pytest.mark.parametrize("pruned", [False, True])
def test_snip_is_the_slope_of_the_objective_in_each_multiplier(
    network: str, unit: bool, pruned: bool
) -> None:
    case = Case(network, unit=unit)
    mask = case.some_mask() if pruned else case.candidates().full()
    expected = multiplier_gradient(case, mask, case.x, case.y)
    absolute = {name: value.abs() for name, value in expected.items()}
    assert_same(case.scores(Snip(), mask=mask), absolute, 1e-7)


@pytest.mark.parametrize("group", [1, 3, 8, 100])
@CASES
def test_snip_takes_the_absolute_value_per_group(network: str, unit: bool, group: int) -> None:
    case = Case(network, unit=unit)
    mask = case.some_mask()
    own = dict(case.model.named_parameters())
    params = {n: (own[n].detach() * keep).requires_grad_() for n, keep in mask.items()}
    expected = {n: torch.zeros_like(own[n]) for n in case.candidates().shapes}
    for x, y in zip(case.x.split(group), case.y.split(group), strict=True):
        objective = case.objective.values(case.model, x, y, params=params).mean()
        for name in expected:
            (slope,) = torch.autograd.grad(objective, params[name], retain_graph=True)
            expected[name] += (slope * own[name].detach()).abs() * len(x) / SAMPLES
    for batch in (SAMPLES, 3, 5):
        assert_same(case.scores(Snip(group=group), mask=mask, batch=batch), expected, 1e-12)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batches_are_only_chunks_to_snip(batch: int) -> None:
    case = Case("convnet")
    assert_same(case.scores(Snip(), batch=batch), case.scores(Snip()), 1e-12)


@CASES
def test_the_group_makes_a_difference(network: str, unit: bool) -> None:
    case = Case(network, unit=unit)
    each, together = case.scores(Snip(group=1)), case.scores(Snip())
    assert all(bool((each[name] >= value - 1e-12).all()) for name, value in together.items())
    assert sum(float((each[name] - value).sum()) for name, value in together.items()) > 1e-3


@pytest.mark.parametrize("pruner", [Snip(), Snip(group=3), Magnitude()])
@CASES
def test_kernels_and_units_score_the_mean_of_their_weights(
    network: str, unit: bool, pruner: SaliencyPruner
) -> None:
    case = Case(network, unit=unit)
    weights = case.scores(pruner)
    for granularity, axes in (("kernel", 2), ("unit", 1)):
        elements = case.scores(pruner, granularity)  # type: ignore[arg-type]
        expected = {
            name: weights[name].reshape(*weights[name].shape[:axes], -1).mean(-1)
            for name in elements
        }
        assert_same(elements, expected, 1e-12)


# --- ActGrad ------------------------------------------------------------------------------------


def layer_readings(
    case: Case, mask: Mask, x: Tensor, y: Tensor
) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Each layer's input and the gradient at its output in the masked network, by hand."""
    with masked(case.model, mask):
        value, reads = x.clone(), []
        for name, layer in case.model.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                before = value.detach()
                value = layer(value)
                reads.append((name, layer, before, value))
                if case.objective.target and case.objective.target.layer == name:
                    break
            else:
                value = F.relu(value) if isinstance(layer, nn.ReLU) else layer(value)
        if case.objective.target is None:
            objective = F.cross_entropy(value, y, reduction="sum")
        else:
            unit = value[:, case.objective.target.index].reshape(SAMPLES, -1)
            objective = unit.mean(1).sum()
        gradients = torch.autograd.grad(objective, [out for *_, out in reads])
    return [
        (f"{name}.weight", layer, before, gradient)
        for (name, layer, before, _), gradient in zip(reads, gradients, strict=True)
    ]


def part_of(layer: nn.Module, x: Tensor, o: int, i: int, tap: tuple[int, ...] | None) -> Tensor:
    """What input channel `i` (or one weight of its kernel) brings to output channel `o`."""
    weight = torch.zeros_like(layer.get_parameter("weight")[:1, :1]).detach()
    own = layer.get_parameter("weight").detach()[o, i]
    if isinstance(layer, nn.Linear):
        return x[:, i] * own
    assert isinstance(layer, nn.Conv2d)
    if tap is None:
        weight[0, 0] = own
    else:
        weight[0, 0][tap] = own[tap]
    channel = o // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups) + i
    padding = layer.padding if isinstance(layer.padding, tuple) else 0
    return F.conv2d(x[:, channel : channel + 1], weight, None, layer.stride, padding)[:, 0]


def brute_activation_gradient(
    case: Case, granularity: Granularity, mask: Mask
) -> dict[str, Tensor]:
    cut = case.candidates(granularity)
    found = {}
    for name, layer, x, g in layer_readings(case, mask, case.x, case.y):
        if name not in cut.shapes:
            continue
        scores = torch.zeros(cut.element_shape(name), dtype=torch.double)
        for place in itertools.product(*map(range, scores.shape)):
            if granularity == "unit":
                part = layer(x)[:, place[0]].detach()
            else:
                tap = place[2:] if granularity == "weight" and len(place) > 2 else None
                part = part_of(layer, x, place[0], place[1], tap)
            product = (part * g[:, place[0]]).abs().reshape(SAMPLES, -1)
            scores[place] = product.mean(1).mean()
        found[name] = scores
    return found


@pytest.mark.parametrize("granularity", get_args(Granularity))
@pytest.mark.parametrize("pruned", [False, True])
@CASES
def test_actgrad_is_activation_times_gradient_of_each_part(
    network: str, unit: bool, pruned: bool, granularity: Granularity
) -> None:
    """Removed parts are scored with the weights they would come back with."""
    case = Case(network, unit=unit)
    mask = case.some_mask(granularity) if pruned else case.candidates(granularity).full()
    expected = brute_activation_gradient(case, granularity, mask)
    for batch in (SAMPLES, 3):
        assert_same(case.scores(ActGrad(), granularity, mask, batch), expected, 1e-12)
    if pruned and not unit and network == "convnet":
        gone = ~case.candidates(granularity).elements(mask)["2.weight"]
        assert float(expected["2.weight"][gone].sum()) > 0


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_actgrad_over_tokens_averages_over_tokens(granularity: Granularity) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x)).mean(1))  # type: ignore[no-any-return]

    with seeded(0, "tokens"):
        model, x, y = Tokens().double().eval(), torch.randn(6, 5, 3).double(), torch.ones(6).long()
    cut = candidates(model, trace(model, x), granularity)
    found = ActGrad().scores(
        model, TaskLoss(), [(x, y)], candidates=cut, mask=cut.full(), generator=generator(0)
    )
    inner = model.inner(x).detach().requires_grad_()
    loss = F.cross_entropy(model.outer(torch.tanh(inner).mean(1)), y, reduction="sum")
    (g,) = torch.autograd.grad(loss, inner)
    if granularity == "unit":
        expected = (inner * g).abs().mean((0, 1))
    else:
        expected = torch.einsum("oi,nti,nto->oi", model.inner.weight.abs(), x.abs(), g.abs()) / 30
    torch.testing.assert_close(found.values["inner.weight"], expected.detach())


def test_actgrad_of_a_convolution_in_one_dimension() -> None:
    with seeded(0, "1d"):
        model = nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2), nn.ReLU()).double().eval()
        x = torch.randn(4, 2, 9).double()
    objective = UnitActivation(UnitRef("0", 1), trace(model, x))
    cut = candidates(model, objective.trace, "kernel", target=objective.target)
    found = ActGrad().scores(
        model, objective, [(x, x)], candidates=cut, mask=cut.full(), generator=generator(0)
    )
    weight = model[0].weight.detach()
    for i in range(2):
        part = F.conv1d(x[:, i : i + 1], weight[1:2, i : i + 1], dilation=2)
        expected = (part / part.shape[2]).abs().mean()
        torch.testing.assert_close(found.values["0.weight"][1, i], expected)
    assert not found.values["0.weight"][[0, 2]].any()


def test_actgrad_takes_other_paddings() -> None:
    """The same as padding the pictures by hand; the map's size is that of the padded layer."""
    with seeded(0, "reflect"):
        wide = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU())
        plain, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.rand(2, 1, 5, 5)
    plain.load_state_dict(wide.state_dict())
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    for granularity in get_args(Granularity):
        found = []
        for model, pictures in ((wide, x), (plain, padded)):
            objective = UnitActivation(UnitRef("0", 0), trace(model.eval(), pictures))
            cut = candidates(model, objective.trace, granularity, target=objective.target)
            scores = ActGrad().scores(
                model,
                objective,
                [(pictures, x)],
                candidates=cut,
                mask=cut.full(),
                generator=generator(0),
            )
            found.append(scores.values)
        assert_same(found[0], found[1], 1e-6)


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_actgrad_through_the_cone_is_actgrad_over_the_full_map(granularity: Granularity) -> None:
    """The cone computes a part of each map; the rest has no gradient and the mean is the same."""
    with seeded(0, "cone"):
        first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        model = nn.Sequential(*first, nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()).double().eval()
        x = torch.randn(6, 1, 16, 16, dtype=torch.double)
    path, target = trace(model, x), UnitRef("3", 5)
    cut = candidates(model, path, granularity, target=target)
    readers = [make_reader(model, path, "3", way=way) for way in ("cone", "full")]  # type: ignore[arg-type]
    full = cut.full()
    cone, whole = (
        ActGrad()
        .scores(
            model,
            UnitValue(target, reader),
            [(x, x)],
            candidates=cut,
            mask=full,
            generator=generator(0),
        )
        .values
        for reader in readers
    )
    assert_same(cone, whole, 1e-12)


@pytest.mark.parametrize("name", BUILTIN)
def test_the_samples_are_left_as_they_were(name: str) -> None:
    case = Case("convnet")
    before = case.x.clone()
    case.prune(create(name), 0.3)
    assert torch.equal(case.x, before)
    assert not case.x.requires_grad
    assert case.x.grad is None


# --- FORCE --------------------------------------------------------------------------------------


class Watched(Force):
    """FORCE that notes the masks it is asked to score."""

    def scores(self, *args: Any, mask: Mask, **kwargs: Any) -> Scores:
        SEEN.append(mask)
        return super().scores(*args, mask=mask, **kwargs)


SEEN: list[Mask] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


@CASES
def test_the_first_round_of_force_is_snip(network: str, unit: bool) -> None:
    case = Case(network, unit=unit)
    assert case.prune(Force(rounds=1), 0.2) == case.prune(Snip(), 0.2)
    case.prune(Watched(rounds=4), 0.1)
    total = SEEN[0].total
    assert SEEN[0] == case.candidates().full()
    assert SEEN[1] == case.prune(Snip(), SEEN[1].kept / total)


@pytest.mark.parametrize(("network", "density"), [("mlp", 0.05), ("convnet", 0.2)])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_force_keeps_k_t_elements_after_each_round(
    network: str, density: float, rounds: int
) -> None:
    case = Case(network)
    final = case.prune(Watched(rounds=rounds), density)
    total = final.total
    k = round(density * total)
    path = [
        math.exp(t / rounds * math.log(k) + (1 - t / rounds) * math.log(total))
        for t in range(1, rounds + 1)
    ]
    found = [mask.kept for mask in [*SEEN[1:], final]]
    assert found[-1] == k
    assert all(abs(kept - wanted) <= 1 for kept, wanted in zip(found, path, strict=True))


def test_a_linear_schedule_removes_equally_many_each_round() -> None:
    case = Case("mlp")
    final = case.prune(Watched(rounds=4, schedule="linear"), 0.2)
    total = final.total
    found = [mask.kept for mask in [*SEEN, final]]
    wanted = [total * share for share in (1, 0.8, 0.6, 0.4, 0.2)]
    assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


@CASES
def test_what_is_removed_comes_back_only_if_it_may(network: str, unit: bool) -> None:
    case = Case(network, unit=unit)
    back = {}
    for resurrect in (True, False):
        SEEN.clear()
        final = case.prune(Watched(rounds=6, resurrect=resurrect), 0.1)
        steps = itertools.pairwise([*SEEN, final])
        back[resurrect] = sum(
            int((after[name] & ~before[name]).sum()) for before, after in steps for name in after
        )
    assert back[False] == 0
    assert unit or back[True] > 0


@pytest.mark.parametrize("group", [None, 2])
def test_each_round_scores_the_network_as_pruned_so_far(group: int | None) -> None:
    case = Case("convnet")
    final = case.prune(Watched(rounds=3, group=group), 0.15)
    for before, after in itertools.pairwise([*SEEN, final]):
        values = case.scores(Snip(group=group), mask=before)
        assert Scores(values, case.candidates()).top(after.kept) == after


def test_a_schedule_goes_on_from_the_mask_it_is_given() -> None:
    case = Case("mlp")
    start = case.prune(Magnitude(), 0.5)
    with unchanged(case.model):
        final = Watched(rounds=3, resurrect=False).prune(
            case.model,
            case.objective,
            case.batches(),
            density=0.1,
            candidates=case.candidates(),
            generator=generator(0),
            mask=start,
        )
    assert SEEN[0] == start
    assert all(SEEN[1][name].sum() <= start[name].sum() for name in start)
    assert not any(bool((final[name] & ~start[name]).any()) for name in start)
    assert abs(SEEN[1].kept - start.total * 0.5 * 0.2 ** (1 / 3)) <= 1


def test_what_is_gone_cannot_come_back_to_fill_a_density() -> None:
    case = Case("mlp")
    start = case.prune(Magnitude(), 0.2)
    again = {"candidates": case.candidates(), "generator": generator(0), "mask": start}
    stay = Magnitude(resurrect=False)
    with pytest.raises(UsageError, match="resurrect=true"):
        stay.prune(case.model, case.objective, case.batches(), density=0.5, **again)
    same = stay.prune(case.model, case.objective, case.batches(), density=0.2, **again)
    assert same == start


def test_options_out_of_bounds_are_refused() -> None:
    for options in ({"rounds": 0}, {"schedule": "cosine"}, {"group": 0}, {"steps": 3}):
        with pytest.raises(ValidationError):
            Force(**options)  # type: ignore[arg-type]


# --- magnitude and random -----------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("network", NETWORKS)
def test_magnitude_is_torchs_l1_pruning(network: str, density: float) -> None:
    everywhere = Case(network).prune(Magnitude(), density)
    by_layer = Case(network).prune(Magnitude(), density, competition="layer")
    case = Case(network)
    modules = dict(case.model.named_modules())
    layers = [modules[name.removesuffix(".weight")] for name in everywhere]
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        torch_prune.L1Unstructured,
        amount=everywhere.total - everywhere.kept,
    )
    for name, layer in zip(everywhere, layers, strict=True):
        assert torch.equal(everywhere[name], layer.get_buffer("weight_mask").bool())
        torch_prune.remove(layer, "weight")
    case = Case(network)
    modules = dict(case.model.named_modules())
    for name, keep in by_layer.items():
        layer = modules[name.removesuffix(".weight")]
        torch_prune.l1_unstructured(layer, "weight", amount=int((~keep).sum()))
        assert torch.equal(keep, layer.get_buffer("weight_mask").bool())


def test_magnitude_of_units_is_torchs_structured_pruning() -> None:
    case = Case("convnet")
    mask = case.prune(Magnitude(), 0.5, "unit", "layer")
    for name in ("0", "2"):
        keep = mask[f"{name}.weight"]
        gone = int((~keep).flatten(1).any(1).sum())
        layer = case.model.get_submodule(name)
        torch_prune.ln_structured(layer, "weight", amount=gone, n=1, dim=0)
        assert torch.equal(keep, layer.get_buffer("weight_mask").bool())


def test_random_is_reproducible_and_its_own() -> None:
    case = Case("mlp")
    assert case.prune(Random(), 0.3, seed=1) == case.prune(Random(), 0.3, seed=1)
    assert case.prune(Random(), 0.3, seed=1).iou(case.prune(Random(), 0.3, seed=2)) < 0.5


@pytest.mark.parametrize("granularity", get_args(Granularity))
@pytest.mark.parametrize(
    "pruner", [Random(), Random(schedule="exponential", rounds=3, resurrect=False)]
)
def test_random_prefers_nothing(pruner: Random, granularity: Granularity) -> None:
    """Each element is kept equally often: within five standard deviations over 300 draws."""
    case = Case("convnet")
    cut = case.candidates(granularity, "layer")
    draws = 300
    stream = generator(0)
    total = {name: torch.zeros(cut.element_shape(name)) for name in cut.shapes}
    shares = {}
    for _ in range(draws):
        mask = pruner.prune(
            case.model, case.objective, [], density=0.4, candidates=cut, generator=stream
        )
        for name, kept in cut.elements(mask).items():
            total[name] += kept
            shares[name] = float(kept.double().mean())
    for name, share in shares.items():
        spread = 5 * math.sqrt(share * (1 - share) / draws)
        assert float((total[name] / draws - share).abs().max()) < spread


# --- every pruner -------------------------------------------------------------------------------


def test_the_pruners_are_these() -> None:
    assert BUILTIN == ["actgrad", "force", "magnitude", "random", "snip"]


@pytest.mark.parametrize("schedule", ["oneshot", "exponential"])
@pytest.mark.parametrize(("granularity", "competition"), SETTINGS)
@pytest.mark.parametrize("name", BUILTIN)
@CASES
def test_the_density_is_hit_to_one_element(
    network: str,
    unit: bool,
    name: str,
    granularity: Granularity,
    competition: Competition,
    schedule: str,
) -> None:
    case = Case(network, unit=unit)
    cut = case.candidates(granularity, competition)
    for density in (1.0, 0.63, 0.2, 0.01):
        mask = case.prune(
            create(name, schedule=schedule, rounds=3), density, granularity, competition
        )
        assert cut.mask(cut.elements(mask)) == mask, "an element was removed in part"
        for group in [list(cut.shapes)] if competition == "global" else [[n] for n in cut.shapes]:
            names = [*group, *(cut.biases[n] for n in group if n in cut.biases)]
            total = sum(int(mask.eligible(n).sum()) for n in names)
            kept = sum(int((mask[n] & mask.eligible(n)).sum()) for n in names)
            largest = max(cut.element_size(n) for n in group)
            assert kept > 0
            assert abs(kept - density * total) <= largest


@pytest.mark.parametrize("granularity", get_args(Granularity))
@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_unit_objective_leaves_what_is_above_and_other_rows_alone(
    network: str, name: str, granularity: Granularity
) -> None:
    case = Case(network, unit=True)
    target = TARGETS[network]
    mask = case.prune(create(name), 0.05, granularity)
    row = f"{target.layer}.weight"
    below = "1.weight" if network == "mlp" else "0.weight"
    assert {n for n in mask if n.endswith("weight")} == {below, row}
    others = [i for i in range(len(mask[row])) if i != target.index]
    assert bool(mask[row][others].all())
    assert mask.density < 0.3
    bias = f"{target.layer}.bias"
    assert (bias in mask) == (granularity == "unit")
    if bias in mask:
        assert bool(mask[bias][others].all())


@pytest.mark.parametrize("name", BUILTIN)
def test_whatever_state_a_network_is_in_is_left_as_found(name: str) -> None:
    """Frozen parameters, gradients of the user's own, hooks of the user's own, no_grad around."""
    case = Case("convnet")
    first = case.model.get_submodule("0")
    first.requires_grad_(False)
    case.model.get_submodule("2").register_forward_hook(lambda *_: None)
    case.model.get_submodule("5").train()
    F.cross_entropy(case.model(case.x), case.y).backward()
    expected = Case("convnet").prune(create(name), 0.2)
    assert case.prune(create(name), 0.2) == expected
    with torch.no_grad():
        assert case.prune(create(name), 0.2) == expected


@pytest.mark.parametrize("name", ["snip", "actgrad", "force"])
def test_nan_in_the_data_is_an_error_and_no_mask(name: str) -> None:
    case = Case("mlp")
    case.x[2, 0, 1, 1] = torch.nan
    with pytest.raises(UsageError, match="hold NaN"):
        case.prune(create(name), 0.2)


@pytest.mark.parametrize("granularity", get_args(Granularity))
@pytest.mark.parametrize("name", BUILTIN)
def test_shared_weights_and_layers_called_twice_are_pruned_once(
    name: str, granularity: Granularity
) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.twin, self.out = (nn.Linear(4, 4) for _ in range(3))
            self.twin.weight = self.step.weight

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = torch.tanh(self.step(x))
            return self.out(torch.tanh(self.twin(x)))  # type: ignore[no-any-return]

    with seeded(0, "recurrent"):
        model, x = Recurrent().eval(), torch.randn(6, 4)
    y = torch.arange(6) % 4
    cut = candidates(model, trace(model, x), granularity)
    with unchanged(model):
        mask = create(name).prune(
            model, TaskLoss(), [(x, y)], density=0.5, candidates=cut, generator=generator(0)
        )
    assert {n for n in mask if n.endswith("weight")} <= {"step.weight", "out.weight"}
    assert abs(mask.kept - 0.5 * mask.total) <= cut.element_size("step.weight")
