"""What is compared: each case deletes its records at a fresh stub and tells the rate that the stub saw."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

from celery import Celery
from redis import Redis

from bench.customers import ids, write_csv
from bench.processes import ROOT, MeasureError, Upstream, expunge, module, started, stub
from worker.embedded import embedded_server

RATE = "100000/s"
"""Far above what any case reaches: the limiter is asked, but never makes anybody wait."""
THREADS = 64
_START = 60.0  # seconds for processes to start and to stop


class Kind(Enum):
    """Who deletes."""

    PIPELINE = "expunge run"
    RIVAL = "a task a customer"
    CEILING = "bare asyncio loop"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    kind: Kind
    name: str
    latency: float
    records: int
    processes: int = 1
    threads: bool = False

    def measure(self) -> float:
        """Records per second, from the first to the last DELETE; raises ``MeasureError`` if any was lost."""
        with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, stub(self.latency, Path(name)) as upstream:
            self._run(upstream, Path(name))
            seen = upstream.seen()
        if seen.requests != self.records:
            raise MeasureError(f"{self.name}: {seen.requests} requests for {self.records} records")
        return seen.rate

    @property
    def time_limit(self) -> float:
        """Seconds; no case is as slow as ten records a second."""
        return _START + self.records / 10

    def _run(self, upstream: Upstream, folder: Path) -> None:
        match self.kind:
            case Kind.PIPELINE:
                _run_pipeline(self, upstream, folder)
            case Kind.RIVAL:
                _run_rival(self, upstream, folder)
            case Kind.CEILING:
                _run_ceiling(self, upstream, folder)
            case _:
                assert_never(self.kind)


def _run_pipeline(case: Case, upstream: Upstream, folder: Path) -> None:
    """The product as its users start it; it exits 0 only if every record is deleted."""
    write_csv(folder / "customers.csv", case.records)
    command = expunge("run", "customers.csv", "--workers", str(case.processes), "--rate", RATE, "--merchant", "bench")
    home = folder / "home"
    with (
        embedded_server(home),  # `run` adopts it; so it is stopped even if `run` is killed
        started(command, folder, {"EXPUNGE_HOME": str(home), "EXPUNGE_UPSTREAM_URL": upstream.url}) as child,
    ):
        child.wait(case.time_limit)


def _run_rival(case: Case, upstream: Upstream, folder: Path) -> None:
    """All tasks are in the queue before a worker starts."""
    pool = ["-P", "threads", "-c", str(THREADS)] if case.threads else ["-P", "prefork", "-c", str(case.processes)]
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "bench.rival", "worker", "--loglevel", "WARNING", *pool]
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server(folder / "home"))
        with Redis.from_url(redis_url) as redis:
            redis.config_set("appendfsync", "everysec")  # as they would have it; ours are with `always`
        broker = "redis+socket://" + redis_url.removeprefix("unix://")
        _enqueue(broker, case.records)
        env = {"RIVAL_BROKER": broker, "RIVAL_REDIS": redis_url, "RIVAL_UPSTREAM": upstream.url}
        worker = stack.enter_context(started(command, folder, env, cwd=ROOT))
        upstream.wait_for(case.records, case.time_limit, worker.check_alive)


def _enqueue(broker: str, count: int) -> None:
    with Celery("rival", broker=broker) as app, app.producer_or_acquire() as producer:
        for customer_id in ids(count):
            app.send_task("rival.delete_customer", args=[customer_id], ignore_result=True, producer=producer)


def _run_ceiling(case: Case, upstream: Upstream, folder: Path) -> None:
    with started(module("bench.ceiling", upstream.url, str(case.records)), folder, cwd=ROOT) as child:
        child.wait(case.time_limit)


@dataclass(frozen=True, slots=True)
class Size:
    """How many records each kind of case gets: enough for some seconds, since the rival is slow."""

    pipeline: int
    ceiling: int
    rival: Callable[[float, int, bool], int]
    """By latency, processes, and whether it has threads."""


def _rival_full(latency: float, processes: int, threads: bool) -> int:
    return 3_000 if threads or not latency else 200 * processes


FULL = Size(20_000, 20_000, _rival_full)
SMOKE = Size(500, 500, lambda *_: 200)


def cases(latency: float, process_counts: Sequence[int], size: Size) -> Iterable[Case]:
    """The lines of the table for one latency, in its order."""
    for processes in process_counts:
        name = f"(a) `expunge run --workers {processes}`"
        yield Case(Kind.PIPELINE, name, latency, size.pipeline, processes)
    for processes in process_counts:
        name = f"(b) a task a customer, `-P prefork -c {processes}`"
        yield Case(Kind.RIVAL, name, latency, size.rival(latency, processes, False), processes)
    name = f"(b) a task a customer, `-P threads -c {THREADS}`"
    yield Case(Kind.RIVAL, name, latency, size.rival(latency, 1, True), threads=True)
    yield Case(Kind.CEILING, "(c) bare asyncio loop", latency, size.ceiling)
