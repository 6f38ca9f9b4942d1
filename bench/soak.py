"""``python -m bench.soak --minutes 20``: does memory stay flat at full rate?

One worker with two processes against a stub that answers at once; batch after batch, and nothing is purged. Memory of
processes is the proportional set size, in which pages that they share count once. Redis grows by what it keeps of each
finished record, so there the bytes of a finished record must stay the same. Writes samples and a plot.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression, median

from redis import Redis

from bench import plots, promises
from bench.customers import write_csv
from bench.machine import facts, shared_memory
from bench.processes import Child, Upstream, expunge, say, started, stub
from bench.promises import Line, Part, at_most
from worker.embedded import embedded_server

SAMPLES = Path(__file__).with_name("soak.csv")
_PROCESSES = 2
_WARM = 2.0  # minutes, or a tenth of it all if that is less
_WINDOW = 20  # parts of the whole; the first and the last after the warm-up are compared
_FLAT = 1.05  # times the memory after the warm-up
_POINTS = 200  # of the plot
_START = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how large."""

    minutes: float
    batch: int
    """Records."""
    ahead: int
    """Records that are still to be done when the next batch is submitted, so that nobody ever idles."""
    period: float
    """Seconds between samples."""


FULL = Size(20, 200_000, 30_000, 2.0)
SMOKE = Size(0.1, 20_000, 2_000, 0.25)


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at one moment; memory in bytes."""

    minutes: float
    finished: int
    parent: int
    pool: int
    redis_used: int
    redis_resident: int


def measure(smoke: bool) -> Part:
    """The default length; tiny, it writes nothing that stays."""
    if not smoke:
        return _measure(FULL, SAMPLES, plots.PLOTS / "soak.svg")
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        return _measure(SMOKE, Path(name) / "soak.csv", Path(name) / "soak.svg")


def _measure(size: Size, table: Path, plot: Path) -> Part:
    first, *samples = _samples(size)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Sample))
        writer.writerows(map(astuple, [first, *samples]))
    _plot(first.redis_used, samples, plot)
    return Part(f"Soak of {size.minutes:g} minutes", *_judge(first.redis_used, samples, size.minutes))


def _samples(size: Size) -> Iterator[Sample]:
    """The first is of before there was anything to do; then the clock starts with the first DELETE."""
    with _running() as (folder, env, upstream, worker, redis):
        yield _sample(0.0, upstream, worker, redis)
        _submit(size.batch, folder, env)
        submitted = size.batch
        upstream.wait_for(1, _START, worker.check_alive)
        began = time.monotonic()
        while (minutes := (time.monotonic() - began) / 60) < size.minutes:
            worker.check_alive()
            sample = _sample(minutes, upstream, worker, redis)
            yield sample
            if submitted - sample.finished < size.ahead:
                say(f"{minutes:.1f} min: {sample.finished:,} records")
                _submit(size.batch, folder, env)
                submitted += size.batch
            time.sleep(size.period)


def _sample(minutes: float, upstream: Upstream, worker: Child, redis: Redis) -> Sample:
    finished = upstream.seen()
    parent, pool = shared_memory(worker.process.pid)
    memory: dict[str, int] = redis.info("memory")
    return Sample(minutes, finished, parent, pool, memory["used_memory"], memory["used_memory_rss"])


_Running = tuple[Path, dict[str, str], Upstream, Child, Redis]


@contextmanager
def _running() -> Iterator[_Running]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expunge-bench-")))
        upstream = stack.enter_context(stub(0.0, folder))
        redis_url = stack.enter_context(embedded_server(folder / "home"))
        env = {
            "EXPUNGE_REDIS_URL": redis_url,
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_RATE_LIMIT": "100000/s",
            "EXPUNGE_MERCHANT_ID": "bench",
        }
        worker = stack.enter_context(started(expunge("worker", "--processes", str(_PROCESSES)), folder, env))
        yield folder, env, upstream, worker, stack.enter_context(Redis.from_url(redis_url))


def _submit(records: int, folder: Path, env: dict[str, str]) -> None:
    write_csv(folder / "customers.csv", records)
    with started(expunge("submit", "customers.csv"), folder, env) as submit:
        submit.wait(_START)


def _judge(empty: int, samples: Sequence[Sample], minutes: float) -> tuple[list[Line], str]:
    """Compare the time right after the warm-up with the end; ``empty``: bytes that Redis took before."""
    warm = min(_WARM, minutes / 10)
    later = [sample for sample in samples if sample.minutes >= warm]
    window = max(1, len(later) // _WINDOW)
    lines = []
    details = [f"| what | at {warm:g} min | at {minutes:g} min | slope in an hour |", "|---|--:|--:|--:|"]
    for name, unit, values in (
        ("worker's parent", "MB", [sample.parent / 1e6 for sample in later]),
        (f"its {_PROCESSES} pool processes", "MB", [sample.pool / 1e6 for sample in later]),
        ("Redis, a finished record", "bytes", [_each(empty, sample) for sample in later]),
    ):
        before, after = median(values[:window]), median(values[-window:])
        slope = linear_regression([sample.minutes / 60 for sample in later], values).slope
        what = f"soak: memory, {name}, {minutes:g} min to {warm:g} min"
        lines.append(at_most(what, _FLAT, after / before, "{:.3f} times"))
        details.append(f"| {name} | {before:,.1f} {unit} | {after:,.1f} {unit} | {slope:+,.1f} {unit} |")
    finished, used = samples[-1].finished, samples[-1].redis_used / 1e6
    rate = (finished - later[0].finished) / (later[-1].minutes - later[0].minutes) / 60
    details += ["", f"{finished:,} records, {rate:,.0f}/s after the warm-up. Redis took {used:,.0f} MB at the end."]
    return lines, "\n".join(details)


def _each(empty: int, sample: Sample) -> float:
    """Bytes of Redis for each finished record; what still waits is in it, which weighs at the start only."""
    return (sample.redis_used - empty) / max(1, sample.finished)


def _plot(empty: int, samples: Sequence[Sample], plot: Path) -> None:
    shown = samples[:: max(1, len(samples) // _POINTS)]
    rates = [
        (after.finished - before.finished) / (after.minutes - before.minutes) / 60 for before, after in pairwise(shown)
    ]
    shown = shown[1:]
    panels = {
        "worker, MB": {
            "parent": [sample.parent / 1e6 for sample in shown],
            f"{_PROCESSES} pool processes": [sample.pool / 1e6 for sample in shown],
        },
        "Redis, MB": {
            "used": [sample.redis_used / 1e6 for sample in shown],
            "resident": [sample.redis_resident / 1e6 for sample in shown],
        },
        "Redis, bytes for each finished record": {"used": [_each(empty, sample) for sample in shown]},
        "records/s": {"finished": rates},
    }
    plots.lines([sample.minutes for sample in shown], panels, plot)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=FULL.minutes)
    size = Size(parser.parse_args().minutes, FULL.batch, FULL.ahead, FULL.period)
    machine = facts()
    print(promises.page([_measure(size, SAMPLES, plots.PLOTS / "soak.svg")], machine))


if __name__ == "__main__":
    main()
