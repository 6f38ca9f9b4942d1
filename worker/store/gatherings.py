"""Events in Redis on their way into a batch: each is kept once, in the gathering that is open for its lane (SPEC 8)."""

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple, cast

import orjson
from redis.asyncio import Redis

from worker.domain.batch_ids import made_at, make_batch_id, pack_batch_id, unpack_batch_id
from worker.domain.batches import Lane, Target
from worker.domain.customer_ids import Digester
from worker.store import keys
from worker.store.ledger import Periods
from worker.store.scripts import Script

CLAIMED = 60.0
"""Seconds that whoever makes a batch of a gathering has for it; after that another one may."""
_LINES = 100  # calls of `add` in one answer
_REUSED = 2  # of gather.lua


class Asked(NamedTuple):
    """An event as it is kept."""

    source: str
    id: str
    customer_ids: Sequence[str]
    due: float | None
    """Seconds since the epoch."""
    lines: str
    """Its records, as they stand in the batch's input."""


class Taken(NamedTuple):
    """What became of an event."""

    gathering_id: str
    """The one that took it, now or the first time."""
    known: bool
    """Whether it was taken before."""


class Gathering(NamedTuple):
    """Events that are to become a batch; no more join them."""

    id: str
    lane: Lane
    records: int
    due: float | None
    """When the first of them is to be done, seconds since the epoch."""


class Gatherings:
    """The gatherings of one target.

    One is open for each lane; it becomes a batch when it has ``size`` records, or after ``age`` seconds. An event is
    remembered for ``days`` at least. With ``replicas``, it is taken only when that many replicas have acknowledged it.
    """

    def __init__(
        self, redis: Redis, target: Target, digester: Digester, size: int, age: float, days: int, replicas: int = 0
    ) -> None:
        self._redis = redis
        self._digester = digester
        self._gatherings = keys.gatherings(target)
        self._open = keys.open_gathering(target)
        self._seen = Periods(keys.SEEN, days)
        self._age = age
        self.size = size
        """Records that one gathering holds at most, and so one event."""
        self._gather = Script(redis, "gather", replicas)
        self._claim = Script(redis, "claim_gathering")

    async def add(self, events: Sequence[Asked], lane: Lane) -> list[Taken | None]:
        """Keep events of one lane, which together have no more than ``size`` records; each counts once, if repeated.

        When this returns, they are persisted; it may be asked again after any error. ``None`` is for an event that is
        not kept, since one of its source and ID was taken before for other customers.
        """
        now = time.time()
        fresh = make_batch_id(now, secrets.randbits(32))
        args: list[str | bytes | int | float] = [fresh.encode() + pack_batch_id(fresh), lane.value, self.size]
        args += [int(self._age * 1000), keys.GATHERING, self._seen.prefixes(now), self._seen.expires_at(now)]
        args.append(b"".join([self._digester.event(event.source, event.id) for event in events]))
        args.append(b"".join([self._digester.customers(event.customer_ids) for event in events]))
        _, _, customers, dues, lines = zip(*events, strict=True)
        args.append(orjson.dumps([[*map(len, customers)], [due or "" for due in dues], lines]))
        flat = await self._gather(keys=[self._open + lane.value, self._gatherings], args=args)
        ids = {packed: unpack_batch_id(packed) for packed in set(flat[::2])}
        return [
            Taken(ids[packed], known == 1) if known < _REUSED else None
            for packed, known in zip(flat[::2], flat[1::2], strict=True)
        ]

    async def claim(self) -> Gathering | None:
        """One that is due, if there is any; nobody else gets it within ``CLAIMED`` seconds."""
        found = await self._claim(keys=[self._gatherings], args=[keys.GATHERING, self._open, int(CLAIMED * 1000)])
        if found is None:
            return None
        raw_id, lane, records, due = found
        return Gathering(raw_id.decode(), Lane(lane.decode()), records, float(due) if due else None)

    async def overdue(self) -> float:
        """For how many seconds the oldest one should have been a batch; 0 if none should."""
        waiting = cast("list[bytes]", await self._redis.zrange(self._gatherings, 0, -1))
        oldest = min((made_at(raw_id.decode()) for raw_id in waiting), default=time.time())
        return max(0.0, time.time() - oldest - self._age)

    async def lines(self, gathering: Gathering) -> AsyncIterator[Iterable[bytes]]:
        """Its records in the order in which they came, many at a time."""
        name = self._lines(gathering.id)
        first = 0
        while found := await self._redis.lrange(name, first, first + _LINES - 1):
            yield cast("list[bytes]", found)
            first += len(found)

    async def remove(self, gathering: Gathering) -> None:
        """Forget its records: they are a batch now."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zrem(self._gatherings, gathering.id)
        pipe.unlink(keys.GATHERING + gathering.id, self._lines(gathering.id))
        await pipe.execute()

    @staticmethod
    def _lines(gathering_id: str) -> str:
        return f"{keys.GATHERING}{gathering_id}:lines"
