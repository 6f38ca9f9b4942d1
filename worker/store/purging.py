"""Removes all that there is of an ended batch: first, in one step, the batch; then, in pieces, what its shards left.

Whoever dies in between leaves no batch behind, only outcomes that nobody finds: they expire, and who asks again goes
on.
"""

from enum import StrEnum
from functools import partial

from redis.asyncio import Redis

from worker.domain.batches import Batch
from worker.store import keys
from worker.store.scripts import Script

_AT_ONCE = 500  # shards; about a millisecond of Redis' time
_PARTS = ("ids", "kept", "shards", "holders", "tally", "parked")


class Begun(StrEnum):
    """What became of the first step."""

    OK = "ok"
    GONE = "gone"
    NOT_ENDED = "not_ended"


class Purging:
    """Removes batches; with ``replicas``, one is gone only when that many have acknowledged it."""

    def __init__(self, redis: Redis, replicas: int = 0) -> None:
        self._redis = redis
        self._purge, self._purged = (Script(redis, name, replicas) for name in ("purge", "purged"))

    async def begin(self, batch: Batch, gathering: str | None, actor: str | None) -> tuple[Begun, int]:
        """Take the batch away, if it has ended; returns also how many keys were removed.

        The audit trail has in the same step who did it. ``gathering`` is the one of events that it was made of, whose
        records may still be there if whoever made it a batch has died.
        """
        of = partial(keys.of_batch, batch.id)
        names = [of("meta"), of("purging"), keys.BATCHES, of("requests"), keys.gatherings(batch.description.target)]
        names += map(of, _PARTS)
        if gathering is not None:
            names += [f"{keys.GATHERING}{gathering}", f"{keys.GATHERING}{gathering}:lines"]
        answer, removed = await self._purge(keys=names, args=[batch.id, actor or "", gathering or ""])
        return Begun(answer.decode()), removed

    async def left(self, batch_id: str) -> int | None:
        """How many records a batch had that was taken away, and whose shards are still to be removed; else ``None``."""
        rows = await self._redis.hget(keys.of_batch(batch_id, "purging"), "rows")
        return int(rows) if rows else None

    async def finish(self, batch_id: str) -> int:
        """Remove what the shards of a batch left that was taken away; returns how many keys. Safe to repeat."""
        purging = keys.of_batch(batch_id, "purging")
        shards, removed = int(await self._redis.hget(purging, "shards") or 0), 0
        for first in range(0, shards, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, shards))
            names = [keys.of_batch(batch_id, f"{part}:{shard}") for shard in some for part in ("out", "tries")]
            removed += await self._redis.unlink(*names)
        await self._purged(keys=[purging], args=[])  # whoever is told that it was too few replicas can ask again
        await self._redis.unlink(purging)
        return removed
