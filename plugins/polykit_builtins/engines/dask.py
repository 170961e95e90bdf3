"""The engine that runs cells on a dask cluster: one of this machine, or any other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar

from dask import config
from distributed import CancelledError, Client, KilledWorker, LocalCluster
from distributed.scheduler import NoValidWorkerError
from pydantic import Field, model_validator

from polykit.api import Engine
from polykit.errors import RunError
from polykit_builtins.engines.local import available_cores

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = "10s"
"""How long to wait for a scheduler that does not answer."""

MADE_HERE = {
    # How long work waits where all workers are lost.
    "distributed.scheduler.no-workers-timeout": "300s",
    # Looks at the work's stack every 10 ms, for a dashboard that nobody opens.
    "distributed.worker.profile.enabled": False,
    # A worker that is down so long after it was killed is let go for good, however often it came
    # back in between: on a busy machine, work that kills often would end with no worker at all.
    "distributed.deploy.lost-worker-timeout": "365d",
}
"""What is set while a cluster made here is there; one at an address is its owner's to set."""

_log = logging.getLogger("polykit")
_one_at_a_time = threading.Lock()


class Dask(Engine):
    """Runs cells on the workers of a dask scheduler, or on a cluster made on this machine.

    The workers need the same packages, and see the run's directory and the data under the same
    paths. A worker does one cell at a time, so give it one thread: `dask worker --nthreads 1`.
    """

    argument: ClassVar[str] = "address"

    address: str = Field(
        "", description="of a scheduler, as tcp://host:8786; by default one made here"
    )
    workers: int | None = Field(
        None, ge=1, description="processes of a cluster made here; by default cores / threads"
    )

    @model_validator(mode="after")
    def _no_idle_option(self) -> Dask:
        if self.address and self.workers:
            raise ValueError("workers are those of the scheduler at address; drop one of the two")
        return self

    def executor(self, *, threads: int, device: str) -> DaskExecutor:
        """Connect to the cluster, or start one."""
        if self.address:
            return DaskExecutor(_connect(self.address), self.address)
        fitting = max(1, available_cores() // threads) if device == "cpu" else 1
        with ExitStack() as made:
            made.enter_context(config.set(MADE_HERE))
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=self.workers or fitting,
                threads_per_worker=1,
                memory_limit=None,  # of dask's own accounts, by which it would kill a large cell
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            made.callback(cluster.close)
            client = _connect(cluster.scheduler_address)
            return DaskExecutor(client, "this machine", made.pop_all())


def _connect(address: str) -> Any:
    try:
        return Client(  # type: ignore[no-untyped-call]
            address, timeout=PATIENCE, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise RunError(
            f"no dask scheduler answers at {address} ({error}); start one with `dask scheduler` "
            f"and workers with `dask worker --nthreads 1 {address}`, or leave the address out"
        ) from error


class DaskExecutor(Executor):
    """Hands work to a dask client, and dask's ways to fail to whoever asked, in standard terms.

    Work that loses too many workers ends with BrokenExecutor, all work ends with RunError if the
    scheduler is lost. Log records of workers come to this process. `made` is undone at the end.
    """

    def __init__(self, client: Any, place: str, made: ExitStack | None = None) -> None:
        self._client, self._place, self._made = client, place, made or ExitStack()
        self._running: dict[Future[Any], Any] = {}
        client.forward_logging("polykit", _log.getEffectiveLevel())

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function of a module, with arguments that can be pickled."""
        future: Future[T] = Future()
        there = self._client.submit(_alone, fn, *args, **kwargs, pure=False)
        self._running[future] = there  # dask forgets what nobody holds
        there.add_done_callback(lambda done: self._take(done, future))
        return future

    def _take(self, there: Any, future: Future[Any]) -> None:
        try:
            future.set_result(there.result())  # waits if a worker died with it, so it is done again
        except NoValidWorkerError:
            future.set_exception(RunError("no dask worker is left, and none came back"))
        except KilledWorker:
            future.set_exception(BrokenExecutor("several workers died in the middle of it"))
        except CancelledError:
            future.set_exception(
                RunError(
                    f"the dask scheduler at {self._place} was lost; what is done is kept. Start "
                    f"it again, then go on with: polykit run --resume RUN"
                )
            )
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._running.pop(future, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the work that is left; give it up if the block is left by an error."""
        if kind is None:
            wait(self._running)
        self._client.cancel(list(self._running.values()))
        self._client.close()
        self._made.close()


def _alone(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do a piece of work while no other thread of this worker does one: seeds are the process'."""
    with _one_at_a_time:
        return fn(*args, **kwargs)
