"""Measuring holds one chunk at a time, and states that do not grow."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from polykit.api import StreamingMetric
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.types import Data, Subject

REGISTRY = Registry.discover()
STREAMING = [
    found.entry.name
    for found in REGISTRY.entries("metric")
    if issubclass(found.target, StreamingMetric)
]


class Stream:
    """Batches made on the fly; counts how many of them are alive at once."""

    def __init__(self, batches):
        self.count, self.most, self.alive = batches, 0, weakref.WeakSet()

    def __len__(self):
        return 8 * self.count

    def batches(self, batch_size, *, order=None):
        for index in range(self.count):
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(index))
            self.alive.add(x)
            self.most = max(self.most, len(self.alive))
            yield x, torch.arange(8) % 3
            del x

    def skipped(self):
        return ()


def subject(split):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    path = trace(model, torch.zeros(1, 5))
    data = Data("stream", split, split, split, "classification", (5,), 3, ("a", "b", "c"))
    return Subject(model, path, select_layers(path), data, torch.device("cpu"), 8, lambda *_: None)


def test_one_chunk_at_a_time():
    split = Stream(50)
    metrics = [REGISTRY.create("metric", name).instance for name in STREAMING]
    measure_all(metrics, subject(split))
    assert split.most <= 2  # the one at work, and the one it replaces


@pytest.mark.parametrize("name", STREAMING)
def test_states_do_not_grow(name, monkeypatch):
    metric = REGISTRY.create("metric", name).instance
    states = []
    kind = type(metric)
    finish = kind.finish

    def watched(self, subject, state):
        states.append(numbers(state))
        return finish(self, subject, state)

    monkeypatch.setattr(kind, "finish", watched)
    for batches in (4, 30):  # four chunks have more samples than any layer units: factors are full
        measure_all([metric], subject(Stream(batches)))
    assert states[0] == states[1] > 0


def numbers(state):
    """How many numbers a state holds, however it is nested."""
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, int | float):
        return 1
    if isinstance(state, dict):
        return sum(map(numbers, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(numbers, state))
    return sum(map(numbers, vars(state).values()))
