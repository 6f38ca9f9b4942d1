"""What is compared: each case deletes its records at a fresh stub, which tells when each came."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

from celery import Celery
from redis import Redis

from bench.client import CONCURRENCY
from bench.customers import ids, write_csv
from bench.processes import ROOT, MeasureError, Upstream, bench_venv, expunge, module, started, stub
from worker.embedded import embedded_server

RATE = "100000/s"
"""Far above what any case reaches: the limiter is asked, but never makes anybody wait."""
_START = 60.0  # seconds for processes to start and to stop


class Kind(Enum):
    """Who deletes."""

    PIPELINE = "expunge run"
    CELERY = "a Celery task a customer"
    JOBS = "a job a customer"
    CEILING = "bare asyncio loop"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table; ``how`` is Celery's pool, or the library of the jobs."""

    kind: Kind
    name: str
    latency: float
    records: int
    processes: int = 1
    how: str = ""

    def measure(self) -> list[float]:
        """When each DELETE came, in seconds; raises ``MeasureError`` if any was lost or repeated."""
        with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, stub(self.latency, Path(name)) as upstream:
            self._run(upstream, Path(name))
            arrivals = upstream.arrivals()
        too_many = len(arrivals) > self.records and self.kind is not Kind.JOBS  # saq may sweep a job that it just took
        if len(arrivals) < self.records or too_many:
            raise MeasureError(f"{self.name}: {len(arrivals)} requests for {self.records} records")
        return arrivals

    @property
    def time_limit(self) -> float:
        """Seconds; no case is as slow as ten records a second."""
        return _START + self.records / 10

    def _run(self, upstream: Upstream, folder: Path) -> None:
        match self.kind:
            case Kind.PIPELINE:
                _run_pipeline(self, upstream, folder)
            case Kind.CELERY:
                _run_celery(self, upstream, folder)
            case Kind.JOBS:
                _run_jobs(self, upstream, folder)
            case Kind.CEILING:
                _run_ceiling(self, upstream, folder)
            case _:
                assert_never(self.kind)


def pipeline(latency: float, records: int, processes: int) -> Case:
    """The product as its users start it."""
    return Case(Kind.PIPELINE, f"(a) `expunge run --workers {processes}`", latency, records, processes)


def _run_pipeline(case: Case, upstream: Upstream, folder: Path) -> None:
    """It exits 0 only if every record is deleted."""
    write_csv(folder / "customers.csv", case.records)
    command = expunge("run", "customers.csv", "--workers", str(case.processes), "--rate", RATE, "--merchant", "bench")
    home = folder / "home"
    with (
        embedded_server(home),  # `run` adopts it; so it is stopped even if `run` is killed
        started(command, folder, {"EXPUNGE_HOME": str(home), "EXPUNGE_UPSTREAM_URL": upstream.url}) as child,
    ):
        child.wait(case.time_limit)


def _run_celery(case: Case, upstream: Upstream, folder: Path) -> None:
    """All tasks are in the queue before a worker starts."""
    width = CONCURRENCY if case.how == "threads" else case.processes
    pool = ["-P", case.how, "-c", str(width)]
    command = [*module("celery"), "--quiet", "-A", "bench.celery_rival", "worker", "--loglevel", "WARNING", *pool]
    with _redis_of_rivals(folder) as redis_url:
        broker = "redis+socket://" + redis_url.removeprefix("unix://")
        with Celery("rival", broker=broker) as app, app.producer_or_acquire() as producer:
            for customer_id in ids(case.records):
                app.send_task("rival.delete_customer", args=[customer_id], ignore_result=True, producer=producer)
        env = {"RIVAL_BROKER": broker, "RIVAL_REDIS": redis_url, "RIVAL_UPSTREAM": upstream.url}
        with started(command, folder, env, cwd=ROOT) as worker:
            upstream.wait_for(case.records, case.time_limit, worker.check_alive)


def _run_jobs(case: Case, upstream: Upstream, folder: Path) -> None:
    """All jobs are in the queue before a worker starts."""
    with _redis_of_rivals(folder) as redis_url:
        env = {"RIVAL_REDIS": redis_url, "RIVAL_UPSTREAM": upstream.url}
        fill = [bench_venv("python"), "-m", "bench.job_rivals", case.how, str(case.records)]
        with started(fill, folder, env, cwd=ROOT) as child:
            child.wait(case.time_limit)
        with started([bench_venv(case.how), f"bench.job_rivals.{case.how}"], folder, env, cwd=ROOT) as worker:
            upstream.wait_for(case.records, case.time_limit, worker.check_alive)


@contextmanager
def _redis_of_rivals(folder: Path) -> Iterator[str]:
    with embedded_server(folder / "home") as redis_url:
        with Redis.from_url(redis_url) as redis:
            redis.config_set("appendfsync", "everysec")  # as they would have it; ours are with `always`
        yield redis_url


def _run_ceiling(case: Case, upstream: Upstream, folder: Path) -> None:
    with started(module("bench.ceiling", upstream.url, str(case.records)), folder, cwd=ROOT) as child:
        child.wait(case.time_limit)


@dataclass(frozen=True, slots=True)
class Size:
    """How many records each kind of case gets: enough for some seconds, since rivals are slow."""

    ours: int
    rivals: int
    prefork_waiting: int
    """For each process of a rival that has one request in flight at 50 ms: it does twenty a second."""


FULL = Size(20_000, 3_000, 200)
SMOKE = Size(500, 200, 50)


def cases(latency: float, size: Size) -> Iterable[Case]:
    """The lines of the table for one latency, in its order."""
    for processes in (1, 2):
        yield pipeline(latency, size.ours, processes)
    for processes in (1, 2):
        name = f"(b) a task a customer, Celery `-P prefork -c {processes}`"
        records = size.prefork_waiting * processes if latency else size.rivals
        yield Case(Kind.CELERY, name, latency, records, processes, "prefork")
    name = f"(b) a task a customer, Celery `-P threads -c {CONCURRENCY}`"
    yield Case(Kind.CELERY, name, latency, size.rivals, how="threads")
    for library in ("arq", "saq"):
        name = f"(b) a job a customer, {library}, {CONCURRENCY} at once"
        yield Case(Kind.JOBS, name, latency, size.rivals, how=library)
    yield Case(Kind.CEILING, "(c) bare asyncio loop", latency, size.ours)
