"""What a plugin tells of its progress reaches whoever watches, and nobody else."""

from __future__ import annotations

import threading

import pytest

from polykit.runtime.progress import tell, watching


def test_the_innermost_watcher_hears() -> None:
    outer: list[tuple[int, int, dict[str, float]]] = []
    inner: list[int] = []
    with watching(lambda step, steps, numbers: outer.append((step, steps, dict(numbers)))):
        tell(1, 3, loss=0.5, density=0.25)
        with watching(lambda step, steps, numbers: inner.append(step)):
            tell(2, 3)
        tell(3, 3)
    tell(4, 4)
    assert outer == [(1, 3, {"loss": 0.5, "density": 0.25}), (3, 3, {})]
    assert inner == [2]


def test_other_threads_are_not_overheard() -> None:
    heard: list[int] = []
    with watching(lambda step, steps, numbers: heard.append(step)):
        thread = threading.Thread(target=tell, args=(1, 1))
        thread.start()
        thread.join()
    assert heard == []


def test_a_watcher_that_raises_is_gone_behind_the_block() -> None:
    def refuse(step: int, steps: int, numbers: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watching(refuse):
        tell(1, 1)
    tell(1, 1)
