"""Activations in shards: one pass over them says the same however they are cut."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from polykit.errors import RunError, UsageError
from polykit.runtime.samples.shards import FILE, Chunk, Shards, summarise, to_tensors


def cut(values, size):
    index = torch.arange(len(values))
    return [
        Chunk(i, torch.zeros_like(i), v)
        for i, v in zip(index.split(size), values.split(size), strict=True)
    ]


def write(folder: Path, values, size, precision="float32"):
    paths = []
    for number, chunk in enumerate(cut(values, size)):
        paths.append(folder / str(number) / FILE)
        paths[-1].parent.mkdir()
        made = to_tensors(chunk.index, chunk.index % 3, {"a": chunk.values}, precision)
        save_file(made, paths[-1])
    return Shards(tuple(paths), "a")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 15), st.booleans(), st.data())
def test_a_pass_says_what_a_look_at_all_says(seed, n, top, positive, data):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (n, 4), generator=draw).float()  # many ties
    units = data.draw(st.lists(st.integers(0, 3), min_size=1, unique=True))
    found = summarise(cut(values, data.draw(st.integers(1, n))), units, top, positive=positive)
    assert found.count == n
    assert torch.allclose(found.mean, values.double().mean(0))
    assert torch.allclose(found.std, values.double().std(0, correction=0))
    assert torch.equal(found.most, values.double().amax(0))
    assert torch.allclose(found.fires, (values > 0).double().mean(0))
    for place, unit in enumerate(units):
        order = sorted(range(n), key=lambda i: (-float(values[i, unit]), i))
        expected = [i for i in order[:top] if not positive or values[i, unit] > 0]
        assert found.pictures[place].tolist() == expected
        assert found.values[place].tolist() == values[expected, unit].tolist()


def test_nothing_to_look_at():
    found = summarise([], [0, 1], 3, positive=True)
    assert found.count == 0
    assert [len(p) for p in found.pictures] == [0, 0]


def test_pictures_are_gathered_in_the_order_asked(tmp_path):
    values = torch.randn(10, 3)
    shards = write(tmp_path, values, 4)
    chunk = shards.gather(torch.tensor([9, 0, 4, 0]))
    assert torch.equal(chunk.values, values[[9, 0, 4, 0]])
    assert chunk.label.tolist() == [0, 0, 1, 0]
    assert [len(c.index) for c in shards] == [4, 4, 2]
    with pytest.raises(UsageError, match="no activations of picture 11"):
        shards.gather(torch.tensor([1, 11]))
    assert shards.gather(torch.zeros(0, dtype=torch.long)).values.shape == (0, 3)


def test_half_precision_takes_half_the_space_and_no_infinity(tmp_path):
    values = torch.tensor([[1e6, 0.1], [-1e6, 2.0]])
    shards = write(tmp_path, values, 2, "float16")
    read = next(iter(shards)).values
    assert read.dtype == torch.float32
    assert read[:, 0].tolist() == [65504.0, -65504.0]
    assert torch.allclose(read[:, 1], values[:, 1], atol=1e-4)


def test_a_damaged_shard_is_named(tmp_path):
    shards = write(tmp_path, torch.randn(4, 3), 2)
    shards.paths[1].write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"1/activations\.safetensors cannot be read.*resume"):
        list(shards)


def test_memory_does_not_grow_with_the_pictures():
    alive, most = weakref.WeakSet(), []

    def stream():
        for number in range(30):
            values = torch.randn(50, 4, generator=torch.Generator().manual_seed(number))
            alive.add(values)
            most.append(len(alive))
            yield Chunk(torch.arange(50) + 50 * number, torch.zeros(50), values)
            del values

    found = summarise(stream(), range(4), 20, positive=False)
    assert found.count == 1500
    assert max(most) <= 2  # the one at work, and the one that comes next
    kept = [*found.pictures, *found.values]
    assert all(tensor.untyped_storage().nbytes() <= 20 * 4 * 8 for tensor in kept)
