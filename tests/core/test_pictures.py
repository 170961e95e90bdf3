"""From a network's inputs back to pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polykit.errors import DataError
from polykit.types import Denormalise
from polykit.types.pictures import stretch

SHAPES = st.tuples(*(st.integers(1, 4) for _ in range(4)))


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_any_picture_becomes_rgb_in_the_unit_range(
    shape: tuple[int, ...], seed: int, constant: bool
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100
    x = x.mean(dim=(1, 2, 3), keepdim=True).expand(shape) if constant else x
    channels = shape[1]
    for show in (stretch, Denormalise((0.4,) * channels, (0.2,) * channels)):
        shown = show(x)
        assert shown.shape == (shape[0], 3, *shape[2:])
        assert bool(((shown >= 0) & (shown <= 1)).all())


def test_each_picture_is_stretched_by_itself_over_all_its_channels() -> None:
    x = torch.randn(5, 3, 4, 4)
    for one, shown in zip(x, stretch(x), strict=True):
        torch.testing.assert_close(shown, (one - one.min()) / (one.max() - one.min()))


def test_channels_have_their_own_mean_and_std() -> None:
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    rgb = torch.rand(2, 3, 4, 5)
    x = (rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    shown = Denormalise(tuple(mean.tolist()), tuple(std.tolist()))(x)
    torch.testing.assert_close(shown, rgb)


@pytest.mark.parametrize("show", [stretch, Denormalise((0.0,), (1.0,))])
def test_inputs_that_are_no_pictures_are_refused(show: Any) -> None:
    with pytest.raises(DataError, match="inputs of shape 5 are no pictures"):
        show(torch.zeros(2, 5))
