"""Named streams of random numbers, and where to compute."""

from __future__ import annotations

import pytest
import torch

from polykit.errors import UsageError
from polykit.runtime.devices import cpu_threads, pick_device
from polykit.runtime.seeds import derive, generator, seeded
from polykit.testing import unchanged


def test_a_stream_is_the_same_in_every_process() -> None:
    assert derive(0) == 3456079177858693020
    assert derive(7, "order", 3) == 7391995676944021016


def test_streams_of_other_seeds_and_names_are_others() -> None:
    names = [(), ("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), (1, 1), ("a", "")]
    seeds = {derive(seed, *name) for seed in (0, 1, 11, -1) for name in names}
    assert len(seeds) == 4 * len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_draws_its_stream_and_touches_no_other() -> None:
    with unchanged():
        first = torch.rand(5, generator=generator(3, "mask", "snip"))
        again = torch.rand(5, generator=generator(3, "mask", "snip"))
        other = torch.rand(5, generator=generator(3, "mask", "force"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeded_fixes_torch_inside_and_puts_its_state_back_behind() -> None:
    with unchanged():
        with seeded(0, "init"):
            first = torch.rand(3)
        with seeded(0, "init"):
            again = torch.rand(3)
            with seeded(1, "init"):
                other = torch.rand(3)
            following = torch.rand(3)
        with pytest.raises(KeyError), seeded(0):
            raise KeyError
    with seeded(0, "init"):
        torch.rand(3)
        undisturbed = torch.rand(3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(following, undisturbed)


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cpu:", "cuda:", "cuda:x", "mps:1", "CPU"])
def test_what_is_no_device_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="is no device; choose auto, cpu, cuda, cuda:N or mps"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps"])
def test_a_device_that_is_not_there_is_refused_with_what_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"'{name}' is not available here; available: cpu, cuda"):
        pick_device(name)
    assert pick_device("cuda:1") == torch.device("cuda", 1)


def test_cpu_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), cpu_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
