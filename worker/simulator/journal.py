"""The request log: one entry for each DELETE, in the order of arrival, and what it adds up to."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson


class Entry(NamedTuple):
    """A DELETE as the simulator saw it, written down the moment it arrived."""

    t: float
    """Seconds since the epoch."""
    id: str
    """The customer ID; for a path that names no customer, the whole path as sent, which begins with ``/``."""
    attempt: int
    """Which request for that ID this was, from 1."""
    executed: bool
    """Whether this request deleted the customer."""
    status: int | None
    """The status answered; None if there was to be no answer. A client that hung up may not have read it."""
    fault: str | None
    """The fault that the scenario injected; ``rate_limit`` for a 429 by the scenario's own limit."""
    idempotency_key: str | None
    merchant: str | None
    type: str | None


class Journal:
    """Keeps every entry in memory, and in a file of JSON lines if given one, which is appended to while open."""

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[Entry] = []
        self.executed = 0
        self.peak_per_second = 0
        self._by_status: Counter[int | None] = Counter()
        self._last_second: deque[float] = deque()
        self._path = path
        self._file: BinaryIO | None = None
        self._written = 0

    def open(self) -> None:
        """Open the file, if there is to be one; raises OSError."""
        if self._path is not None:
            self._file = self._path.open("ab")

    def record(self, entry: Entry, now: float) -> None:
        """Add an entry that arrived at ``now`` on a monotonic clock."""
        self.entries.append(entry)
        self.executed += entry.executed
        self._by_status[entry.status] += 1
        recent = self._last_second
        recent.append(now)
        while recent[0] <= now - 1.0:
            recent.popleft()
        self.peak_per_second = max(self.peak_per_second, len(recent))

    def flush(self) -> None:
        """Write to the file what it does not have yet."""
        if self._file is None:
            return
        start, self._written = self._written, len(self.entries)
        self._file.writelines(as_json_lines(self.entries[start : self._written]))
        self._file.flush()

    def close(self) -> None:
        """Write the rest and close the file."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def stats(self, in_flight: int) -> dict[str, object]:
        """Return the counts that ``GET /_simulator/stats`` shows; ``no_reply`` counts faults that answer nothing."""
        return {
            "requests": len(self.entries),
            "executed": self.executed,
            "by_status": {"no_reply" if status is None else str(status): n for status, n in self._by_status.items()},
            "in_flight": in_flight,
            "peak_per_second": self.peak_per_second,
        }


def as_json_lines(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield each entry as a line of JSON."""
    for entry in entries:
        yield orjson.dumps(entry._asdict(), option=orjson.OPT_APPEND_NEWLINE)
