"""The ledger: what was deleted before, across batches, as keyed digests only (SPEC 1, 10).

Entries lie in 65,536 small hashes for each period of ``days``; a period's hashes expire ``days`` after its end, and
an entry older than ``days`` no longer counts, so that a lookup asks two periods
and nothing rests for more than twice as long.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.domain.batch_ids import unpack_batch_id
from worker.domain.customer_ids import Digester
from worker.store import keys
from worker.store.scripts import Script

_DAY = 86_400
_ENTRY = struct.Struct(">8sI")


@dataclass(frozen=True, slots=True)
class Deletion:
    """An earlier deletion of a customer."""

    batch_id: str
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Periods:
    """Spans of ``days`` whose entries lie together and expire together, ``days`` after their end; 0 days: none."""

    key: str
    """What the keys begin with."""
    days: int

    def prefix(self, now: float) -> str:
        """Of the keys of the period that ``now`` falls into."""
        return self._prefix(self._period(now))

    def prefixes(self, now: float) -> str:
        """Of all periods that may have an entry which counts, the newest first, joined by a space."""
        period = self._period(now)
        return f"{self._prefix(period)} {self._prefix(period - 1)}"

    def expires_at(self, now: float) -> int:
        """When what is written now expires, seconds since the epoch; 0 if nothing is to be remembered."""
        return (self._period(now) + 2) * self.days * _DAY if self.days else 0

    def _period(self, now: float) -> int:
        return int(now // (self.days * _DAY)) if self.days else 0

    def _prefix(self, period: int) -> str:
        return f"{self.key}{period}:"


class Ledger:
    """Looks up earlier deletions; they are written by ``record.lua``, in the same step as the outcome."""

    def __init__(self, redis: Redis, digester: Digester, days: int) -> None:
        self._lookup = Script(redis, "lookup")
        self._digester = digester
        self._days = days
        self.periods = Periods(keys.LEDGER, days)

    def digest(self, customer_id: str) -> bytes:
        """What stands for a customer: 12 bytes."""
        return self._digester.ledger(customer_id)

    async def lookup(self, customer_ids: Sequence[str], now: float) -> dict[int, Deletion]:
        """Earlier deletions by position in ``customer_ids``."""
        if not self._days or not customer_ids:
            return {}
        digests = b"".join(map(self.digest, customer_ids))
        flat = await self._lookup(keys=[], args=[self.periods.prefixes(now), digests])
        found = {}
        for position, value in zip(flat[::2], flat[1::2], strict=True):
            packed, at = _ENTRY.unpack(value)
            if at >= now - self._days * _DAY:
                found[position] = Deletion(unpack_batch_id(packed), float(at))
        return found
