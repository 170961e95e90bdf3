"""The engine that runs cells in processes of this machine."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import ParamSpec, TypeVar

from pydantic import Field

from polykit.api import Engine

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 3
"""How many processes a piece of work may lose before it is given up."""

_log = logging.getLogger("polykit")
_spawn = get_context("spawn")  # a fork would copy torch's threads in the middle of their work


class Local(Engine):
    """Runs cells in several processes of this machine, each with its own copy of the data.

    Each computes with as many threads as the run asks for, so that results are those of every
    other engine; by default there are as many processes as cores for that. On GPUs there is one
    for each, or one in all if the run names a GPU.
    """

    workers: int | None = Field(None, ge=1, description="processes; by default cores / threads")

    def executor(self, *, threads: int, device: str) -> Workers:
        """Return a new pool of processes; they start with the first work."""
        cores = available_cores()
        gpus = visible_gpus() if device == "cuda" else 0
        places = (gpus or 1) if device != "cpu" else max(1, cores // threads)
        workers = self.workers or places
        if workers * threads > cores:
            _log.warning(
                "engine local: %d workers with %d threads each are more than the %d cores; fewer "
                "threads (--threads) or workers (local:workers=N) may be faster",
                workers,
                threads,
                cores,
            )
        return Workers(workers, gpus)


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> int:
    """How many CUDA devices this process may use."""
    import torch

    return torch.cuda.device_count()


class Workers(ThreadPoolExecutor):
    """Threads of this process, each of which has its work done by a process of its own.

    So the death of a process loses only what it was at, which begins again in a fresh one, up to
    `ATTEMPTS` times; then it is given up with BrokenProcessPool. Processes log to this one, end
    with it, and at once if the `with` block is left by an error. Ctrl-C is the business of this
    process: workers do not hear it. `gpus` is the number of GPUs to share out.
    """

    def __init__(self, count: int, gpus: int = 0) -> None:
        super().__init__(count, initializer=self._settle)
        self._place, self._numbers, self._gpus = threading.local(), itertools.count(), gpus
        self._pools: list[ProcessPoolExecutor] = []
        self._ears: list[threading.Thread] = []
        self._tied, self._lifeline = _spawn.Pipe(duplex=False)
        self._ending = False

    def _settle(self) -> None:
        """Prepare a thread."""
        self._place.number, self._place.pool = next(self._numbers), None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function of a module, with arguments that can be pickled."""
        return super().submit(self._in_process, fn, *args, **kwargs)

    def _in_process(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        place = self._place
        for _ in range(ATTEMPTS):
            try:
                place.pool = place.pool or self._start(place.number)
                result: T = place.pool.submit(fn, *args, **kwargs).result()
                return result
            except BrokenProcessPool:
                place.pool = None
                if self._ending:
                    raise
                _log.warning("a worker process was killed; what it was at begins again")
        raise BrokenProcessPool(
            f"{ATTEMPTS} worker processes were killed while they were at it; if memory ran out, "
            f"take fewer: local:workers=N"
        )

    def _start(self, number: int) -> ProcessPoolExecutor:
        """Start a process, and the thread that listens to it."""
        ear, mouth = _spawn.Pipe(duplex=False)
        start = _Start(self._tied, mouth, _log.getEffectiveLevel(), number, self._gpus)
        pool = ProcessPoolExecutor(1, _spawn, initializer=start)
        self._pools.append(pool)
        listener = threading.Thread(target=_relay, args=(ear,), daemon=True)
        listener.start()
        self._ears.append(listener)
        if hasattr(signal, "pthread_sigmask"):  # what this thread starts does not hear Ctrl-C
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pool.submit(os.getpid).result()
        finally:
            mouth.close()  # the process has its own, so that the listener hears its end
        return pool

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the work that is left; do not if the block is left by an error."""
        if kind is not None:
            self._ending = True
            self.shutdown(wait=False, cancel_futures=True)  # before a thread is free to take more
            self._lifeline.close()
        self.shutdown(wait=True)
        for pool in self._pools:
            pool.shutdown()
        for listener in self._ears:
            listener.join()
        self._lifeline.close()


def _relay(ear: Connection) -> None:
    """Hand a worker's log records to this process' loggers, until it has ended."""
    with suppress(EOFError, OSError):
        while True:
            record: logging.LogRecord = ear.recv()
            logging.getLogger(record.name).handle(record)


@dataclass(frozen=True)
class _Start:
    """Makes a fresh process a worker: ties its life and its logs to the driver's."""

    lifeline: Connection
    mouth: Connection
    level: int
    number: int
    gpus: int

    def __call__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(self.lifeline,), daemon=True).start()
        _log.handlers, _log.propagate = [_Sender(self.mouth)], False
        _log.setLevel(self.level)
        if self.gpus > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            names = visible.split(",") if visible else [str(index) for index in range(self.gpus)]
            os.environ["CUDA_VISIBLE_DEVICES"] = names[self.number % self.gpus]


class _Sender(QueueHandler):
    """Sends records through a pipe, made such that they can be pickled."""

    def __init__(self, mouth: Connection) -> None:
        super().__init__(SimpleQueue())
        self._mouth = mouth

    def enqueue(self, record: logging.LogRecord) -> None:
        self._mouth.send(record)


def _end_with(lifeline: Connection) -> None:
    """End this process when the driver lets go of its end of the pipe, or dies."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
