"""Feeds the queue, and feeds again what nobody holds (docs/architecture.md, decisions 3 and 5).

Messages get lost; the batch in Redis is the record. One rule covers a shard that was never sent, was given back, whose
message was lost or whose holder died: it is due, so a message is sent.
"""

import asyncio

from worker.domain.batches import Target
from worker.pipeline.duties import Trouble
from worker.queue import Publisher
from worker.store.batches import Batches
from worker.store.shards import Presence, Shards

EVERY = 5.0
"""Seconds between two rounds."""
_LEAST_WINDOW = 4


class Feeder:
    """Keeps a few shards of every batch in the queue: short enough to be fair, long enough to keep workers busy."""

    def __init__(
        self, batches: Batches, shards: Shards, presence: Presence, publisher: Publisher, target: Target
    ) -> None:
        self._target = target
        self._batches = batches
        self._shards = shards
        self._presence = presence
        self._publisher = publisher

    async def feed(self, batch_id: str, processes: int | None = None) -> int:
        """Send what is due of one batch; returns how many messages. Raises ``RedisError`` or ``OperationalError``.

        What could not be sent is due again after a while.
        """
        if processes is None:
            processes = await self._presence.count()
        due = await self._shards.feed(batch_id, max(_LEAST_WINDOW, 2 * processes))
        if due is None:
            return 0
        await asyncio.to_thread(self._publisher.send, *due)
        return len(due.shards)

    async def feed_all(self, processes: int | None = None) -> None:
        """Send what is due of every batch of the target; raises as ``feed``."""
        for batch_id in await self._batches.active(self._target):
            await self.feed(batch_id, processes)

    async def reconcile_forever(self, name: str) -> None:
        """Run in every worker process under its name; each round is made by one of them."""
        reconciling, feeding = Trouble("reconciler"), Trouble("feeding of the queue")
        while True:
            with reconciling:
                processes = await self._presence.beat(name)
                mine = await self._presence.take_turn(name, EVERY * 0.8)
                reconciling.over()
                if mine:
                    with feeding:
                        await self.feed_all(processes)
                        feeding.over()
            await asyncio.sleep(EVERY)
