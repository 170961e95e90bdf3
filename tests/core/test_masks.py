"""Mask, Candidates and Scores: what is kept, counted and chosen."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polykit.errors import UsageError
from polykit.types import Candidates, Competition, Granularity, Mask, Scores

SETTINGS = list(itertools.product(get_args(Granularity), get_args(Competition)))


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


# --- Mask ---------------------------------------------------------------------------------------


def test_a_mask_does_not_change_with_what_it_was_made_from_or_what_is_read() -> None:
    keep, part = bools(1, 0, 1), bools(1, 1, 0)
    mask = Mask({"w": keep}, {"w": part})
    keep[:], part[:] = False, True
    mask["w"][:] = False
    mask.eligible("w")[:] = True
    assert mask["w"].tolist() == [True, False, True]
    assert mask.eligible("w").tolist() == [True, True, False]
    with pytest.raises(TypeError):
        mask["w"] = keep  # type: ignore[index]
    with pytest.raises(TypeError):
        hash(mask)


def test_an_expanded_tensor_becomes_a_mask_of_its_own() -> None:
    row = bools(1, 0).view(2, 1)
    mask = Mask({"w": row.expand(2, 3)})
    row[:] = True
    assert mask["w"].tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("keep", "part", "said"),
    [
        ({"w": torch.ones(2)}, {}, "'w' is torch.float32"),
        ({"w": bools(1, 1)}, {"w": torch.ones(2)}, "'w' is torch.float32"),
        ({"w": bools(1, 1)}, {"w": bools(1)}, "'w' has no mask entry of the same shape"),
        ({"w": bools(1, 1)}, {"v": bools(1, 1)}, "'v' has no mask entry of the same shape"),
    ],
)
def test_what_is_no_mask_is_refused(
    keep: dict[str, Tensor], part: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Mask(keep, part)


def test_densities_count_what_was_eligible() -> None:
    mask = Mask(
        {"a": bools(1, 0, 0, 1), "b": bools(1, 1), "c": bools(1)},
        {"a": bools(1, 1, 1, 0), "c": bools(0)},
    )
    assert (mask.kept, mask.total) == (3, 5)
    assert mask.density == 3 / 5
    assert mask.layer_density() == {"a": 1 / 3, "b": 1.0}
    assert Mask({"c": bools(1)}, {"c": bools(0)}).density == 1.0


def test_masks_are_equal_when_they_keep_and_could_keep_the_same() -> None:
    mask = Mask({"a": bools(1, 0), "b": bools(1)}, {"a": bools(1, 0)})
    assert mask == Mask({"b": bools(1), "a": bools(1, 0)}, {"a": bools(1, 0), "b": bools(1)})
    assert mask != Mask({"a": bools(1, 0), "b": bools(1)})
    assert mask != Mask({"a": bools(0, 0), "b": bools(1)}, {"a": bools(1, 0)})
    assert mask != Mask({"a": bools(1, 0)}, {"a": bools(1, 0)})
    assert mask != {"a": bools(1, 0), "b": bools(1)}


def test_iou_is_over_eligible_parameters() -> None:
    one = Mask({"a": bools(1, 1, 0, 0, 1)}, {"a": bools(1, 1, 1, 1, 0)})
    other = Mask({"a": bools(1, 0, 1, 0, 1)}, {"a": bools(1, 1, 1, 1, 0)})
    assert one.iou(other) == other.iou(one) == 1 / 3
    assert one.iou(one) == 1
    none = Mask({"a": bools(0, 0)})
    assert none.iou(none) == 1
    for stranger in (Mask({"b": bools(1, 1, 0, 0, 1)}), Mask({"a": bools(1)})):
        with pytest.raises(UsageError, match="different parameters"):
            one.iou(stranger)


# --- Candidates ---------------------------------------------------------------------------------

SHAPES = {"conv": (4, 3, 2, 2), "linear": (5, 8)}


@pytest.mark.parametrize(
    ("granularity", "grids", "sizes"),
    [
        ("weight", [(4, 3, 2, 2), (5, 8)], [1, 1]),
        ("kernel", [(4, 3), (5, 8)], [4, 1]),
        ("unit", [(4,), (5,)], [13, 8]),
    ],
)
def test_elements_of_each_granularity(
    granularity: Granularity, grids: list[tuple[int, ...]], sizes: list[int]
) -> None:
    biases = {"conv": "conv.bias"} if granularity == "unit" else {}
    cut = Candidates(SHAPES, granularity, biases=biases)
    assert [cut.element_shape(name) for name in SHAPES] == grids
    assert [cut.element_size(name) for name in SHAPES] == sizes
    assert all(cut.eligible_elements(name).shape == cut.element_shape(name) for name in SHAPES)
    full = cut.full()
    assert full.total == sum(
        size * torch.Size(grid).numel() for grid, size in zip(grids, sizes, strict=True)
    )
    assert full.density == 1
    assert list(full) == [*(["conv", "conv.bias"] if biases else ["conv"]), "linear"]


def test_a_mask_of_units_takes_their_biases_and_leaves_what_is_not_eligible() -> None:
    cut = Candidates({"w": (3, 2)}, "unit", eligible={"w": bools(1, 1, 0)}, biases={"w": "b"})
    mask = cut.mask({"w": bools(1, 0, 0)})
    assert mask["w"].tolist() == [[True] * 2, [False] * 2, [True] * 2]
    assert mask["b"].tolist() == [True, False, True]
    assert mask.eligible("b").tolist() == [True, True, False]
    assert (mask.kept, mask.total) == (3, 6)


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_elements_give_back_what_mask_was_given(granularity: Granularity) -> None:
    cut = Candidates(SHAPES, granularity)
    random = torch.Generator().manual_seed(0)
    keep = {n: torch.rand(cut.element_shape(n), generator=random) < 0.5 for n in SHAPES}
    back = cut.elements(cut.mask(keep))
    assert all(torch.equal(keep[name], back[name]) for name in SHAPES)


def test_reduce_is_the_mean_over_an_element() -> None:
    scores = torch.arange(48.0).view(4, 3, 2, 2)
    assert torch.equal(Candidates(SHAPES, "weight").reduce("conv", scores), scores)
    kernels = Candidates(SHAPES, "kernel").reduce("conv", scores)
    assert kernels.shape == (4, 3)
    assert kernels[1, 2] == scores[1, 2].mean()
    units = Candidates(SHAPES, "unit").reduce("conv", scores)
    assert units[3] == scores[3].mean()
    linear = torch.rand(5, 8)
    assert torch.equal(Candidates(SHAPES, "kernel").reduce("linear", linear), linear)


# --- Scores -------------------------------------------------------------------------------------


def test_scores_of_the_wrong_shape_or_nan_are_refused() -> None:
    cut = Candidates({"w": (2, 3)}, "unit")
    with pytest.raises(UsageError, match=r"'w': expected shape \(2,\), got \(2, 3\)"):
        Scores({"w": torch.zeros(2, 3)}, cut)
    with pytest.raises(UsageError, match=r"'w': expected shape .* got nothing"):
        Scores({"v": torch.zeros(2)}, cut)
    with pytest.raises(UsageError, match="'w' hold NaN; look for NaN"):
        Scores({"w": torch.tensor([0.0, torch.nan])}, cut)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    scores = Scores({"w": torch.rand(4)}, Candidates({"w": (4,)}))
    with pytest.raises(UsageError, match="outside"):
        scores.keep(density)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    setting=st.sampled_from(SETTINGS),
    shapes=st.lists(
        st.tuples(*[st.integers(1, 4)] * 2) | st.tuples(*[st.integers(1, 3)] * 4),
        min_size=1,
        max_size=4,
    ),
    density=st.floats(0.001, 1),
    levels=st.sampled_from([2, 5, 10_000]),
    half=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_keep_takes_the_best_and_comes_nearest(
    setting: tuple[Granularity, Competition],
    shapes: list[tuple[int, ...]],
    density: float,
    levels: int,
    half: bool,
    seed: int,
) -> None:
    """Few `levels` make ties; elements of different sizes compete."""
    granularity, competition = setting
    random = torch.Generator().manual_seed(seed)
    named = {f"w{i}": shape for i, shape in enumerate(shapes)}
    biases = {"w0": "b0"} if granularity == "unit" else {}
    cut = Candidates(named, granularity, competition, biases=biases)
    eligible = {
        n: torch.rand(cut.element_shape(n), generator=random) < 0.7 for n in list(named)[1:]
    }
    for part in eligible.values():
        part.view(-1)[0] = True
    cut = Candidates(named, granularity, competition, eligible, biases)
    values = {
        n: torch.randint(levels, cut.element_shape(n), generator=random).float() for n in named
    }
    if half:
        values = {name: value.half() for name, value in values.items()}
    mask = Scores(values, cut).keep(density)

    for group in [list(named)] if competition == "global" else [[name] for name in named]:
        places = [
            (name, i)
            for name in group
            for i, may in enumerate(cut.eligible_elements(name).flatten().tolist())
            if may
        ]
        scores = [float(values[name].flatten()[i]) for name, i in places]
        sizes = [cut.element_size(name) for name, _ in places]
        kept = {name: cut.elements(mask)[name].flatten() for name in group}
        found = [bool(kept[name][i]) for name, i in places]
        ranked = sorted(range(len(places)), key=lambda place: (-scores[place], place))
        assert [found[place] for place in ranked] == [True] * sum(found) + [False] * found.count(0)
        filled = itertools.accumulate(sizes[place] for place in ranked)
        off = [abs(count - density * sum(sizes)) for count in filled]
        assert off[sum(found) - 1] <= min(off) + 1e-9
    assert all(bool((mask[name] | mask.eligible(name)).all()) for name in mask)


def test_each_layer_gets_the_density_when_layers_do_not_compete() -> None:
    cut = Candidates({"low": (10, 10), "high": (10, 20)}, "weight", "layer")
    scores = Scores({"low": torch.rand(10, 10), "high": 9 + torch.rand(10, 20)}, cut)
    assert scores.keep(0.25).layer_density() == {"low": 0.25, "high": 0.25}
    everywhere = Scores(scores.values, Candidates(cut.shapes)).keep(0.25)
    assert everywhere.layer_density() == {"low": 0.0, "high": 75 / 200}


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_no_group_is_emptied_however_small_the_density(granularity: Granularity) -> None:
    for competition, expected in (("layer", 2), ("global", 1)):
        cut = Candidates(SHAPES, granularity, competition)
        scores = Scores({name: torch.rand(cut.element_shape(name)) for name in SHAPES}, cut)
        kept = cut.elements(scores.keep(1e-9))
        assert sum(int(part.sum()) for part in kept.values()) == expected


def test_equal_scores_are_kept_in_order_of_position() -> None:
    cut = Candidates({"a": (4,), "b": (4,)})
    scores = Scores({"a": torch.tensor([1.0, 2, 1, 1]), "b": torch.tensor([1.0, 2, 1, 0])}, cut)
    mask = scores.keep(0.5)
    assert mask["a"].tolist() == [True, True, True, False]
    assert mask["b"].tolist() == [False, True, False, False]


def test_top_counts_elements_whatever_their_size() -> None:
    cut = Candidates(SHAPES, "kernel", eligible={"linear": torch.zeros(5, 8, dtype=torch.bool)})
    values = {name: torch.rand(cut.element_shape(name)) for name in SHAPES}
    mask = Scores(values, cut).top(5)
    kept = cut.elements(mask)["conv"]
    assert int(kept.sum()) == 5
    assert values["conv"][kept].min() > values["conv"][~kept].max()
    assert bool(mask["linear"].all())
    for count in (0, 13):
        with pytest.raises(UsageError, match=rf"cannot keep {count} of 12 elements"):
            Scores(values, cut).top(count)


@pytest.mark.parametrize(("granularity", "competition"), SETTINGS)
def test_what_only_leaves_out_does_not_come_back(
    granularity: Granularity, competition: Competition
) -> None:
    shapes = {"conv": (40, 3, 2, 2), "linear": (50, 8)}
    cut = Candidates(shapes, granularity, competition)
    random = torch.Generator().manual_seed(0)
    first, second = (
        Scores({n: torch.randn(cut.element_shape(n), generator=random) for n in shapes}, cut)
        for _ in range(2)
    )
    before = first.keep(0.6)
    free, bound = second.keep(0.5), second.only(before).keep(0.5)
    assert any(bool((free[name] & ~before[name]).any()) for name in shapes)
    assert not any(bool((bound[name] & ~before[name]).any()) for name in shapes)
