"""``python -m tests.acceptance.faulty PROCESSES``: a worker that dies where it is told, and writes down what it does.

It wraps ``tasks`` from outside, and only tests start it, so production code contains no fault points. Environment
variables say what it does:

``TEST_FOLDER``  where it writes ``events`` (JSON lines) and ``died``, which also makes that it dies once only
``TEST_FAULT``  ``POINT:ARGUMENT``, see ``die``; without it, nothing dies
``TEST_FAULT_KILLS``  ``child`` (the pool process) or ``worker`` (Celery's parent as well)
``TEST_LEASE``, ``TEST_ROUND``  seconds of a lease and between two rounds of the reconciler, so that recovery is quick
``TEST_EVERYBODY_RECONCILES``  a round does not need its turn
``TEST_SOFT_LIMIT``  seconds after which Celery ends a task
``TEST_CLOCK_OFFSET``  seconds by which this worker's clock is wrong
"""

import asyncio
import json
import multiprocessing.synchronize
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.signals import task_postrun

import tasks.delete_shard
import tasks.process  # noqa: F401 - so that everything that is patched below is imported
from tasks.__main__ import main
from tasks.app import app
from worker.pipeline.reconcile import Feeder
from worker.store import keys
from worker.store.shards import Claim, Presence, Shards
from worker.upstream.client import Client

_true_time = time.time
_main = os.getpid()
_folder = Path(os.environ["TEST_FOLDER"])
_dying: set[asyncio.Future[None]] = set()  # kept, or it might be collected
_events = os.open(_folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event: str, **more: object) -> None:
    """Write an event down, with the time by a clock that is right; it outlives a kill."""
    line = json.dumps({"event": event, "t": _true_time(), "pid": os.getpid(), "worker": os.getppid(), **more})
    os.write(_events, line.encode() + b"\n")


def _armed(point: str, argument: object) -> bool:
    return os.environ.get("TEST_FAULT") == f"{point}:{argument}" and not (_folder / "died").exists()


def die(point: str, argument: object) -> None:
    """End this process by ``kill -9`` if this is the chosen point, and its parent before it if that is wanted."""
    if not _armed(point, argument):
        return
    (_folder / "died").touch(exist_ok=False)
    note("died", point=point)
    if os.environ.get("TEST_FAULT_KILLS") == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: type, name: str, around: Callable[[Any], Any]) -> None:
    setattr(owner, name, around(getattr(owner, name)))


async def _die_when_it_arrived(customer_id: str) -> None:
    while not (_folder / "arrived").exists():  # noqa: ASYNC110 - the test says so, which reads the upstream's log
        await asyncio.sleep(0.005)
    die("after_sending", customer_id)


def _delete(original: Any) -> Any:
    """``before_sending``, ``after_sending`` and ``after_reply``; their argument is a customer ID."""

    async def delete(self: Client, customer_id: str, *others: Any) -> Any:
        die("before_sending", customer_id)
        note("sending", id=customer_id)
        if _armed("after_sending", customer_id):
            _dying.add(asyncio.ensure_future(_die_when_it_arrived(customer_id)))
        reply = await original(self, customer_id, *others)
        die("after_reply", customer_id)
        return reply

    return delete


def _claim(original: Any) -> Any:
    async def claim(self: Shards, batch_id: str, shard: int, *others: Any) -> Any:
        claimed = await original(self, batch_id, shard, *others)
        if isinstance(claimed, Claim):
            note("claimed", shard=shard)
        return claimed

    return claim


def _record(original: Any) -> Any:
    """``before_recording:last`` and ``after_recording:last``, where the batch's last outcome is written.

    One at a time: of two shards that write at once, neither would know that it is the last.
    """
    alone = asyncio.Lock()

    async def record(self: Shards, claim: Claim, written: Any, *others: Any) -> Any:
        async with alone:
            pending = await self._redis.hget(keys.of_batch(claim.batch_id, "tally"), "pending")
            is_last = bool(written) and int(pending or 0) == len(written)
            if is_last:
                die("before_recording", "last")
            recorded = await original(self, claim, written, *others)
            if is_last:
                die("after_recording", "last")
            return recorded

    return record


def _feed(original: Any) -> Any:
    async def feed(self: Feeder, batch_id: str, *others: Any) -> Any:
        sent = await original(self, batch_id, *others)
        if sent:
            note("fed", count=sent)
        return sent

    return feed


def _always(_original: Any) -> Any:
    async def take_turn(*_: Any) -> bool:
        return True

    return take_turn


def _enter(original: Any) -> Any:
    """``holding:lock``: in a pool process, with a lock that others share."""

    def enter(self: Any) -> Any:
        entered = original(self)
        if os.getpid() != _main:
            die("holding", "lock")
        return entered

    return enter


@task_postrun.connect
def _ended(args: Any = (), **_: object) -> None:
    """``before_ack:SHARD``: the task has returned, and its message is not acknowledged yet."""
    note("task_ended", shard=args[1])
    die("before_ack", args[1])


def _set_everywhere(name: str, value: float) -> None:
    """Give a constant of the product another value, in every module that imported it."""
    modules = [module for at, module in sys.modules.items() if at.startswith("worker.") and hasattr(module, name)]
    assert modules, f"nothing of the product has a {name}"
    for module in modules:
        setattr(module, name, value)


def _shift_clock(offset: float) -> None:
    """Also where ``time.time`` was imported by name, as kombu's Redis transport does."""

    def wrong() -> float:
        return _true_time() + offset

    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is _true_time and module.__name__ != __name__:
                setattr(module, name, wrong)


_wrap(Client, "delete", _delete)
_wrap(Shards, "claim", _claim)
_wrap(Shards, "record", _record)
_wrap(Feeder, "feed", _feed)
_wrap(multiprocessing.synchronize.SemLock, "__enter__", _enter)
if lease := os.environ.get("TEST_LEASE"):
    _set_everywhere("LEASE", float(lease))
    _set_everywhere("MESSAGE_LIFE", float(lease))
if seconds := os.environ.get("TEST_ROUND"):
    _set_everywhere("EVERY", float(seconds))
if os.environ.get("TEST_EVERYBODY_RECONCILES"):
    _wrap(Presence, "take_turn", _always)
if limit := os.environ.get("TEST_SOFT_LIMIT"):
    app.conf.task_soft_time_limit = int(limit)
if offset := os.environ.get("TEST_CLOCK_OFFSET"):
    _shift_clock(float(offset))

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
