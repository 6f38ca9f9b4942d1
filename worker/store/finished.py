"""When records ended, read from some of them: a rate over time costs the same whatever the size of its batch."""

from collections.abc import Collection
from typing import NamedTuple

from redis.asyncio import Redis

from worker.domain.batches import Batch
from worker.domain.outcomes import Reason
from worker.store import keys
from worker.store.packing import unpack_end

_SHARDS = 200
_RECORDS = 2_000


class Ends(NamedTuple):
    """When records ended, in whole seconds since the epoch."""

    times: list[int]
    every: bool
    """Whether these are all, and not a sample spread evenly over the rows."""


class Finished:
    """Reads when records of a batch ended."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def ends(self, batch: Batch, reasons: Collection[Reason]) -> Ends:
        """Of the records that ended with one of the reasons; at most some thousands."""
        size, count = batch.description.shard_size, batch.description.shards
        shards = range(0, count, -(-count // _SHARDS))
        offsets = range(0, size, max(1, size * len(shards) // _RECORDS))
        fields = [str(offset) for offset in offsets]
        pipe = self._redis.pipeline(transaction=False)
        for shard in shards:
            pipe.hmget(keys.of_batch(batch.id, f"out:{shard}"), fields)
        found = [unpack_end(packed) for some in await pipe.execute() for packed in some if packed]
        every = len(shards) == count and len(offsets) == size
        return Ends([at for at, reason in found if reason in reasons], every)
