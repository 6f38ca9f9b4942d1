"""What a pool process has for its life: one thread with one event loop, and in it one client and one store.

Made after the fork, never before. A shard's coroutines run in that loop and end with their task: cancelling waits until
they have (docs/decisions/0003), since a DELETE that outlives its shard is the worst fault there is.
"""

import asyncio
import gc
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import structlog
import uvloop
from billiard.process import active_children
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutting_down
from redis.exceptions import RedisError

from tasks.app import settings
from worker.outfit import Worker, open_worker
from worker.pipeline.duties import Trouble, beside

EXIT_WITH_STDIN = "EXPUNGE_EXIT_WITH_STDIN"
"""Set by ``expunge run`` for its children: they stop when it is gone, however it went."""

_STOP_LIMIT = 14.5
"""Seconds that a worker takes to stop at most (15 are promised); requests in flight have ten of them to end."""
_SAME_STOP = 0.3
"""Seconds within which a second signal is the first one's echo: ``timeout`` signals both a process and its group."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Flag:
    """Once set, set in every process that was forked since it was made.

    Without a lock, other than ``multiprocessing.Event``: a process killed while it asks would keep the lock for ever,
    and a second signal would wait for the first one's handler, which it interrupts.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


stopping = Flag()  # made before the fork: SIGTERM reaches only the parent


class Process:
    """The loop's thread and what lives in it."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._worker: Future[Worker] = Future()
        self._closing = asyncio.Event()
        self.stopping = False
        self._thread = threading.Thread(target=self._serve, name="expunge-loop", daemon=True)
        self._thread.start()

    def worker(self) -> Worker:
        """What was opened for this process; waits for it."""
        return self._worker.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it.

        An exception that is raised into this thread meanwhile (Celery's soft time limit) cancels the coroutine, and
        goes on only when that has ended. SIGTERM meanwhile (a whole process group is stopped, or Celery lost its
        connection and wants this process gone) lets the work end by itself, and then the process.
        """
        idle = signal.signal(signal.SIGTERM, self._stop_soon)  # at its start billiard would replace it
        try:
            return self._run(work)
        finally:
            signal.signal(signal.SIGTERM, idle)
            if self.stopping and not stopping.is_set():
                raise SystemExit

    def _stop_soon(self, *_: object) -> None:
        self.stopping = True

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
        trouble = Trouble("worker process")
        while not self._closing.is_set():
            try:
                async with open_worker(settings, lambda: self.stopping or stopping.is_set()) as worker:
                    trouble.over()
                    await self._reconcile_until_closed(worker)
            except RedisError as error:
                trouble.met(error)
                await asyncio.sleep(1)

    async def _reconcile_until_closed(self, worker: Worker) -> None:
        self._worker.set_result(worker)
        store, name = worker.store, f"{socket.gethostname()}:{os.getpid()}"
        async with beside(
            store.feeder.reconcile_forever(name),
            store.gatherer.close_forever(),
            worker.celery_events.take_forever(),
            worker.teller.tell_forever(),
        ):
            await self._closing.wait()
        await worker.teller.leave()


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


@worker_process_shutdown.connect
def _close(**_: object) -> None:
    if _process is not None:
        _process.close()


stopped_by: str | None = None
"""Of the parent: the signal that asked it to stop."""


@worker_shutting_down.connect
def _stop(sig: str, **_: object) -> None:
    """The first signal, in the parent: requests in flight end. A second one ends everything at once, like a kill."""
    global stopped_by  # noqa: PLW0603 - one for the process, as Celery's signals are
    stopped_by = sig
    stopping.set()
    asked_at = time.monotonic()

    def end(number: int, _frame: object) -> None:
        if time.monotonic() - asked_at >= _SAME_STOP:
            _kill(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, end)  # Celery ignores a second SIGTERM
    limit = threading.Timer(_STOP_LIMIT, _kill, [1])  # Celery waits for a frozen broker without end
    limit.daemon = True
    limit.start()


def _kill(code: int) -> None:
    """End this worker and its pool processes at once; that costs no more than a crash."""
    for child in active_children():
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    os._exit(code)


@worker_init.connect
def _watch_parent(**_: object) -> None:
    if os.environ.get(EXIT_WITH_STDIN):
        threading.Thread(target=_stop_at_end_of_stdin, name="expunge-parent", daemon=True).start()


def _stop_at_end_of_stdin() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock would be held in every forked child, which closes it
        pass
    if not stopping.is_set():  # else it would count as a second signal
        os.kill(os.getpid(), signal.SIGTERM)
