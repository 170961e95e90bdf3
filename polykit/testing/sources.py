"""What polykit asks of datasets, models, feature spaces and engines."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from polykit.api import Dataset, Engine, FeatureSpacePlugin, Model
from polykit.errors import DataError
from polykit.runtime.passes.trace import trace
from polykit.runtime.seeds import seeded
from polykit.testing.plugin import Plugin, answer_all, expect
from polykit.testing.samples import OUTPUTS, datasets, networks, subject
from polykit.testing.state import unchanged
from polykit.types import Data, FeatureSpace, Split, Subject

SHAPES = ((13,), (1, 8, 8), (3, 32, 32), (3, 224, 224))
"""Input shapes that a model is offered; it must take one."""
LOOK = 4
"""Batches of a split that are looked at: a dataset may be large."""


def loads(plugin: Plugin, folder: Path) -> None:
    """It loads three non-empty splits of what it promises, the same bytes each time."""
    dataset: Dataset = plugin.create(folder)
    with unchanged():
        try:
            data, again = dataset.load(), dataset.load()
        except DataError as refusal:
            hint = "say how to test it with contract(…, options={name: function of a folder})"
            raise AssertionError(f"it refuses: {refusal}; {hint}") from refusal
        for part in ("train", "validation", "test"):
            _check_split(data, part, getattr(data, part), getattr(again, part))
    expect(data.outputs > 0, "it has no outputs")
    expect(len(data.classes) in (0, data.outputs), "it names more or fewer classes than it has")
    if data.features is not None:
        expect(not data.features.layer, "its features must enter at the input, not at a layer")
        _check_space(data.features, data.input_shape)


def _check_split(data: Data, part: str, split: Split, again: Split) -> None:
    expect(len(split) > 0, f"{part} is empty")
    pairs = zip(split.batches(7), again.batches(7), strict=True)
    for (x, y), (x_again, y_again) in islice(pairs, LOOK):
        same = torch.equal(x, x_again) and torch.equal(y, y_again)
        expect(same, f"{part} differs between two loads")
        shape = tuple(x.shape[1:])
        expect(shape == data.input_shape, f"{part} has inputs {shape}, not {data.input_shape}")
        expect(bool(torch.isfinite(x).all()), f"{part} has inputs that are not finite")
        if data.task == "classification":
            right = y.dtype == torch.int64 and y.dim() == 1 and int(y.min()) >= 0
            expect(right and int(y.max()) < data.outputs, f"{part} has targets that are no classes")
        else:
            right = y.is_floating_point() and tuple(y.shape[1:]) == (data.outputs,)
            expect(right, f"{part} has targets {tuple(y.shape)}, not [n, {data.outputs}]")
    if len(split) > 1 and not split.skipped():
        x, y = next(iter(split.batches(2)))
        x_back, y_back = next(iter(split.batches(2, order=torch.tensor([1, 0]))))
        right = torch.equal(x.flip(0), x_back) and torch.equal(y.flip(0), y_back)
        expect(right, f"{part} does not give samples in the order asked for")


def builds(plugin: Plugin, folder: Path) -> None:
    """It builds networks whose outputs have the shape asked for, the same for the same seed."""
    model: Model = plugin.create(folder)

    def check(shape: tuple[int, ...]) -> None:
        networks = []
        for _ in range(2):
            with unchanged(), seeded(0, "polykit.testing"):
                networks.append(model.build(shape, OUTPUTS).eval())
        first, second = (network.state_dict() for network in networks)
        same = list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)
        expect(same, "one seed gave two different networks")
        _check_forward(networks[0], shape)

    answer_all((f"inputs {shape}", partial(check, shape)) for shape in SHAPES)


def _check_forward(network: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.zeros(2, *shape)
    with unchanged(network), torch.no_grad():
        found, outputs = trace(network, x), network(x)
    expect(tuple(outputs.shape) == (2, OUTPUTS), f"outputs are {tuple(outputs.shape)}")
    expect(bool(torch.isfinite(outputs).all()), "outputs are not finite")
    expect(bool(found.layers), "it has no linear or convolutional layer")


def encodes(plugin: Plugin, folder: Path) -> None:
    """Its spaces map coefficients to values of the right shape, row by row and differentiably.

    The same space comes out each time, for every choice an option offers.
    """

    def check(maker: FeatureSpacePlugin, found: Subject) -> None:
        with unchanged(found.model):
            space, again = maker.build(found), maker.build(found)
        shape = found.data.input_shape
        if space.layer:
            calls = found.trace.of(space.layer)
            expect(bool(calls), f"its features enter at {space.layer!r}, which is no layer")
            positions = list(calls[0].shape)
            shape = (positions.pop(calls[0].unit_axis - 1), *positions)
        _check_space(space, shape)
        same = space.n_features == again.n_features and space.names == again.names
        unit = torch.eye(space.n_features)
        expect(same and torch.equal(space.encode(unit), again.encode(unit)), "two spaces differ")

    answer_all(
        (f"{label}, {name} on {data_name}", partial(check, maker, found))
        for label, maker in plugin.variants(folder)
        for name, model in networks().items()
        for data_name, data in datasets().items()
        for found in (subject(plugin.registry, model, data, 16),)
    )


def _check_space(space: FeatureSpace, expected: tuple[int, ...]) -> None:
    expect(space.n_features > 0, "the space has no features")
    expect(len(space.names) in (0, space.n_features), "it names more or fewer features than it has")
    draw = torch.Generator().manual_seed(0)
    features = torch.rand(3, space.n_features, generator=draw).requires_grad_()
    with unchanged():
        inputs: Tensor = space.encode(features)
        shape = tuple(inputs.shape)
        expect(
            shape == (3, *expected), f"3 coefficient vectors became {shape}, not {(3, *expected)}"
        )
        rows = torch.cat([space.encode(row.unsqueeze(0)) for row in features])
        expect(torch.allclose(inputs, rows, atol=1e-6), "a row depends on the other rows")
        weights = torch.rand(inputs.shape, generator=draw)
        (slope,) = torch.autograd.grad((inputs * weights).sum(), features)
    right = bool(torch.isfinite(slope).all()) and bool((slope != 0).any())
    expect(right, "values do not depend differentiably on the coefficients")


def maps(plugin: Plugin, folder: Path) -> None:
    """Its executor maps a function in order, raises what the function raises, and ends."""
    engine: Engine = plugin.create(folder)
    with engine.executor(threads=1, device="cpu") as executor:
        results = list(executor.map(_square, range(5)))
        expect(results == [0, 1, 4, 9, 16], f"the squares of 0 to 4 came back as {results}")
        error = executor.submit(_square, None).exception()
        expect(isinstance(error, TypeError), f"an error of the function became {error!r}")


def _square(value: int | None) -> int:
    return value * value  # type: ignore[operator]


def callable_target(plugin: Plugin, folder: Path) -> None:
    """A command is a Typer app, a Click command or a function."""
    expect(callable(plugin.found.target), f"{plugin.found.entry.target} cannot be called")
