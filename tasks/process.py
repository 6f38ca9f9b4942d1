"""What a pool process has for its life: one thread with one event loop, and in it one client and one store.

Made after the fork, never before. A shard's coroutines run in that loop and end with their task: cancelling waits until
they have (docs/decisions/0003), since a DELETE that outlives its shard is the worst fault there is.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog
import uvloop
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutting_down
from redis.exceptions import RedisError

from tasks.app import settings
from worker.wiring import Worker, open_worker

EXIT_WITH_STDIN = "EXPUNGE_EXIT_WITH_STDIN"
"""Set by ``expunge run`` for its children: they stop when it is gone, however it went."""

T = TypeVar("T")
log = structlog.get_logger(__name__)
stopping = multiprocessing.Event()  # made before the fork: SIGTERM reaches only the parent


class Process:
    """The loop's thread and what lives in it."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._worker: Future[Worker] = Future()
        self._closing = asyncio.Event()
        self.busy = False
        self.stopping = False
        self._thread = threading.Thread(target=self._serve, name="expunge-loop", daemon=True)
        self._thread.start()

    def worker(self) -> Worker:
        """What was opened for this process; waits for it."""
        return self._worker.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it.

        An exception that is raised into this thread meanwhile (Celery's soft time limit) cancels the coroutine, and
        goes on only when that has ended.
        """
        self.busy = True
        try:
            return self._run(work)
        finally:
            self.busy = False
            if self.stopping and not stopping.is_set():
                raise SystemExit

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        started: Future[asyncio.Task[T]] = Future()
        ended: Future[None] = Future()

        def start() -> None:
            task = self._loop.create_task(work)
            task.add_done_callback(lambda _: ended.set_result(None))
            started.set_result(task)

        self._loop.call_soon_threadsafe(start)
        task = started.result()
        try:
            ended.result()
        except BaseException:
            self._loop.call_soon_threadsafe(task.cancel)
            ended.result()
            raise
        return task.result()

    def close(self) -> None:
        """End the loop and close what is in it."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._live())
        self._loop.close()

    async def _live(self) -> None:
        while not self._closing.is_set():
            try:
                async with open_worker(settings, lambda: self.stopping or stopping.is_set()) as worker:
                    await self._reconcile_until_closed(worker)
            except RedisError as error:
                log.warning("waiting for Redis", error=type(error).__name__)
                await asyncio.sleep(1)

    async def _reconcile_until_closed(self, worker: Worker) -> None:
        self._worker.set_result(worker)
        name = f"{socket.gethostname()}:{os.getpid()}"
        reconciler = asyncio.create_task(worker.store.feeder.reconcile_forever(name))
        await self._closing.wait()
        reconciler.cancel()
        await asyncio.wait([reconciler])


_process: Process | None = None


def current() -> Process:
    """This pool process's; it exists from the process's start to its end."""
    if _process is None:
        raise RuntimeError("tasks run in prefork pool processes only")
    return _process


@worker_process_init.connect
def _open(**_: object) -> None:
    global _process  # noqa: PLW0603 - one for the process, as Celery's signals are
    gc.freeze()  # what was imported lives as long as the process; collecting less often saves a tenth of its time
    gc.set_threshold(50_000, 20, 20)
    _process = Process()
    signal.signal(signal.SIGTERM, _stop_here)


def _stop_here(*_: object) -> None:
    """SIGTERM to a pool process: a whole process group is stopped, or Celery lost its connection and wants it gone.

    A shard under way is given back first.
    """
    if _process is None or not _process.busy:
        raise SystemExit
    _process.stopping = True


@worker_process_shutdown.connect
def _close(**_: object) -> None:
    if _process is not None:
        _process.close()


@worker_shutting_down.connect
def _stop(**_: object) -> None:
    stopping.set()


@worker_init.connect
def _watch_parent(**_: object) -> None:
    if os.environ.get(EXIT_WITH_STDIN):
        threading.Thread(target=_stop_at_end_of_stdin, name="expunge-parent", daemon=True).start()


def _stop_at_end_of_stdin() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock would be held in every forked child, which closes it
        pass
    os.kill(os.getpid(), signal.SIGTERM)
