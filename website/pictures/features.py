"""Pictures of the feature spaces: what their unit vectors stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from matplotlib.figure import Figure
from panels_of_density import HEIGHT, picture_style
from runs import Runs

from polykit.registry import Registry
from polykit.report.style import WIDTH
from polykit.runtime.passes.trace import trace
from polykit.types import Data, FeatureSpace, Subject


def _images(space: str, runs: Runs) -> Figure:
    """Draw what each unit vector adds to the origin, as pictures of 8×8 pixels."""
    data = _load("digits")
    found = _space(space, data)
    units = torch.cat([torch.zeros(1, found.n_features), torch.eye(found.n_features)])
    with torch.no_grad():
        inputs = found.encode(units).reshape(-1, 8, 8)
    shown = [inputs[0], *(inputs[1:] - inputs[0])]
    with picture_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        columns = 7
        rows = -(-len(shown) // columns)
        cells = figure.subplots(rows, columns).flatten()
        for cell, picture, name in zip(cells, shown, ("origin", *found.names), strict=False):
            bound = float(picture.abs().max())
            cell.imshow(picture, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
            cell.set_title(name.removeprefix("direction "), fontsize=9, fontweight="normal")
        for cell in cells:
            cell.axis("off")
        return figure


def _samples(runs: Runs) -> Figure:
    """Draw drawn features beside the inputs they are encoded to."""
    data = _load("feature-model:N1,samples=400,encoder_epochs=20")
    assert data.features is not None
    size = data.features.n_features
    with torch.no_grad():
        units = torch.cat([torch.zeros(1, size), torch.eye(size)])
        inputs = data.features.encode(units)
    with picture_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        shown = axes.imshow(
            (inputs[1:] - inputs[0]).T, cmap="RdBu_r", aspect="auto", interpolation="none"
        )
        figure.colorbar(shown, ax=axes, label="change of the input")
        axes.set(xlabel="feature switched on", ylabel="input")
        axes.grid(visible=False)
        return figure


def _load(spec: str) -> Data:
    data: Data = Registry.discover().create("dataset", spec).instance.load()
    return data


def _space(spec: str, data: Data) -> FeatureSpace:
    inputs, _ = next(data.train.batches(1))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    registry = Registry.discover()
    subject = Subject(
        model=model,
        trace=trace(model, inputs),
        layers=("1",),
        data=data,
        device=torch.device("cpu"),
        batch_size=512,
        spaces=lambda name, subject: registry.create("feature-space", name).instance.build(subject),
    )
    return subject.feature_space(spec)


PICTURES: Mapping[str, Callable[[Runs], Figure]] = {
    "classes": partial(_images, "classes"),
    "dictionary": partial(_images, "dictionary:input,size=20"),
    "truth": _samples,
}
