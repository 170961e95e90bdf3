"""The engine that runs cells in processes of this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from pydantic import Field

from polykit.api import Engine

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("polykit")


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


class Workers(ProcessPoolExecutor):
    """Processes that log to this one, and that end with it or with an error in the `with` block.

    Ctrl-C is the business of this process: workers do not hear it, but end when this one leaves
    the block.
    """

    def __init__(self, count: int, gpus: int = 0) -> None:
        context = get_context("spawn")  # a fork would copy torch's threads in the middle of work
        read_end, self._lifeline = context.Pipe(duplex=False)
        words, self._log = context.Pipe(duplex=False)
        self._listener = threading.Thread(target=_relay, args=(words,), daemon=True)
        self._listener.start()
        log = _Sender(self._log, context.Lock(), _log.getEffectiveLevel())
        numbers = context.Value("i", 0)
        super().__init__(
            count, context, initializer=_start, initargs=(read_end, log, numbers, gpus)
        )

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit work; a process that starts for it does not hear Ctrl-C."""
        with _interrupts_wait():
            return super().submit(fn, *args, **kwargs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the work that is left; do not if the block is left by an error."""
        if kind is not None:
            self._lifeline.close()
        self.shutdown(wait=True, cancel_futures=kind is not None)
        self._lifeline.close()
        self._log.close()
        self._listener.join()


def _relay(words: Connection) -> None:
    """Hand records of workers to this process' loggers, until nobody is left to send any."""
    with suppress(EOFError, OSError):
        while True:
            record: logging.LogRecord = words.recv()
            logging.getLogger(record.name).handle(record)


@dataclass(frozen=True)
class _Sender:
    """The way of a worker's records to the driver; one speaks at a time."""

    words: Connection
    lock: Any
    level: int

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Send a record: what a QueueHandler asks of a queue."""
        with self.lock:
            self.words.send(record)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Keep Ctrl-C for behind the block; processes started inside it never hear it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(lifeline: Connection, log: _Sender, numbers: Any, gpus: int) -> None:
    """Make a fresh process a worker: tie its life and its logs to the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    _log.handlers, _log.propagate = [QueueHandler(log)], False  # type: ignore[arg-type]
    _log.setLevel(log.level)
    if gpus > 1:
        with numbers.get_lock():
            number, numbers.value = numbers.value, numbers.value + 1
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        places = visible.split(",") if visible else [str(index) for index in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = places[number % gpus]


def _end_with(lifeline: Connection) -> None:
    """End this process when the driver lets go of its end of the pipe, or dies."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
