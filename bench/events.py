"""``python -m bench.events``: does one listener take 10,000 events a second, and does its memory stay flat?

Producer, server and listener share the machine. The listener also makes rolling batches of what it takes; nobody works
on them. CPU time and memory are those of the listener's process alone.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

from redis import Redis

from bench import promises
from bench.machine import cpu_time, resident_memory
from bench.processes import Child, MeasureError, expunge, say, started
from bench.promises import Line, Part, at_least, at_most
from worker.embedded import embedded_server

RATE = 10_000
"""Events a second that are put into the stream."""
SMOKE = 3.0
"""Seconds of a run in which no figure counts, and the machine may be busy."""
_SHARE = 0.98  # of them that must be taken within the same time
_SLOWEST = 1.05  # times the seconds that a producer may take at a busy machine
_FLAT = 1.05  # times the memory after the warm-up
_STREAM, _TYPE = "bench", "com.example.account.closed"
_TICKS = 50  # a second, at which events are put into the stream
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement."""

    offered: float
    """A second."""
    share: float
    """Of the events offered, taken when the last one was offered."""
    left: int
    """The others."""
    caught_up: float
    """Seconds until these were taken as well."""
    growth: float
    """Memory at the end to that after the warm-up."""
    slope: float
    """MB in a minute, after the warm-up."""
    memory: float
    """MB at the end."""
    listener: float
    """Share of a core."""
    server: float


def measure(smoke: bool) -> Part:
    """A minute of each kind of entry; tiny to show that it works."""
    seconds = SMOKE if smoke else 60.0
    found = {}
    for kind, write in (("flat", _flat), ("CloudEvents", _cloud_event)):
        found[kind] = _measure(seconds, write)
        say(f"{kind}: {found[kind]}")
    details = [
        "| entries | offered | left | until taken | listener: of a core | server: of a core | memory | slope |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines: list[Line] = []
    for kind, taken in found.items():
        lines.append(at_least(f"events: taken of {RATE:,}/s offered, {kind}", _SHARE, taken.share, "{:.3f}"))
        lines.append(at_most(f"events: memory of the listener, {kind}: end to begin", _FLAT, taken.growth, "{:.3f}"))
        details.append(
            f"| {kind} | {taken.offered:,.0f}/s | {taken.left:,} | {taken.caught_up:.2f} s "
            f"| {taken.listener:.0%} | {taken.server:.0%} | {taken.memory:.0f} MB | {taken.slope:+.2f} MB/min |"
        )
    return Part("Events of a Redis Stream", lines, "\n".join(details))


def _measure(seconds: float, write: Callable[[int], bytes]) -> Taken:
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        folder = Path(name)
        with (
            embedded_server(folder / "home") as url,
            _listener(url, folder) as child,
            Redis.from_url(url) as redis,
        ):
            return _taken(redis, child, seconds, write)


@contextmanager
def _listener(url: str, folder: Path) -> Iterator[Child]:
    env = {
        "EXPUNGE_REDIS_URL": url,
        "EXPUNGE_UPSTREAM_URL": "http://127.0.0.1:1",
        "EXPUNGE_MERCHANT_ID": "bench",
        "EXPUNGE_EVENT_TYPES": _TYPE,
    }
    command = expunge("events", "listen", "--stream", _STREAM, "--group", "bench", "--delete")
    with started(command, folder, env) as child:
        yield child


def _taken(redis: "Redis", child: Child, seconds: float, write: Callable[[int], bytes]) -> Taken:
    _until(child, lambda: bool(redis.exists(_STREAM)))
    server = int(redis.info("server")["process_id"])
    processes = (child.process.pid, server)
    memory: list[tuple[float, float]] = []
    before, began = [cpu_time(each) for each in processes], time.monotonic()
    for second in _offered(redis, seconds, write):
        child.check_alive()
        memory.append((second / 60, resident_memory(processes[0]) / 1e6))
    elapsed = time.monotonic() - began
    shares = [(cpu_time(each) - at) / elapsed for each, at in zip(processes, before, strict=True)]
    offered, left = int(seconds * RATE), int(redis.xlen(_STREAM))
    ended = time.monotonic()
    _until(child, lambda: redis.xlen(_STREAM) == 0)
    caught_up = time.monotonic() - ended
    if refused := redis.exists("expunge:dead-letters:sandbox:bench"):
        raise MeasureError(f"{refused} events were refused")
    later = memory[len(memory) // 3 :]
    few = max(1, len(later) // 8)
    first, last = median(mb for _, mb in later[:few]), median(mb for _, mb in later[-few:])
    slope = linear_regression([at for at, _ in later], [mb for _, mb in later]).slope if len(later) > 1 else 0.0
    return Taken(offered / elapsed, (offered - left) / offered, left, caught_up, last / first, slope, last, *shares)


def _offered(redis: "Redis", seconds: float, write: Callable[[int], bytes]) -> Iterator[int]:
    """Put events into the stream at the rate; yields after each second. Raises when it cannot keep the rate."""
    connection = redis.connection_pool.get_connection()
    each, number = RATE // _TICKS, 0
    began = time.monotonic()
    for tick in range(int(seconds * _TICKS)):
        packed = b"".join(map(write, range(number, number + each)))
        connection.send_packed_command([packed])  # type: ignore[no-untyped-call]
        for _ in range(each):
            connection.read_response()
        number += each
        ahead = began + (tick + 1) / _TICKS - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        if (tick + 1) % _TICKS == 0:
            yield (tick + 1) // _TICKS
    redis.connection_pool.release(connection)
    if (took := time.monotonic() - began) > _SLOWEST * seconds and seconds > SMOKE:
        raise MeasureError(f"the producer took {took:.1f} s for {seconds:.0f} s of events; is the machine busy?")


def _flat(number: int) -> bytes:
    return _command(b"customer_id", b"cus_%020d" % number, b"reference", b"ticket-%d" % number)


def _cloud_event(number: int) -> bytes:
    event = (
        b'{"specversion":"1.0","id":"%d","source":"/crm/accounts","type":"%b","time":"2026-11-28T01:02:03Z",'
        b'"datacontenttype":"application/json","reference":"ticket-%d","data":{"customer_id":"cus_%020d",'
        b'"closed_by":"the customer","reason":"moved away"}}'
    ) % (number, _TYPE.encode(), number, number)
    return _command(b"event", event)


def _command(*fields: bytes) -> bytes:
    """XADD as it goes over the wire: a client's own code would take most of a core."""
    parts = (b"XADD", _STREAM.encode(), b"*", *fields)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _until(child: Child, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _TIMEOUT
    while not condition():
        child.check_alive()
        if time.monotonic() > until:
            raise MeasureError("the listener does not get on")
        time.sleep(0.02)


if __name__ == "__main__":
    promises.alone("bench.events", __doc__, measure)
