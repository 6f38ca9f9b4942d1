"""A worker's turn: claims a shard, and while it has time left others, of the same batch and of those beside it.

docs/architecture.md, docs/decisions/0001 and 0011.
"""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from worker.domain.batches import Lane
from worker.domain.outcomes import Reason
from worker.domain.records import Result
from worker.pipeline.cancel import settle_cancelled
from worker.pipeline.shard_run import POISON, Ending, ShardRun, Tools
from worker.store.scripts import NotReplicatedError
from worker.store.shards import Claim, NotClaimed, Standing

BUDGET = 20.0
"""Seconds for one message; what is not done by then is handed back."""
BESIDE = 8
"""Batches that a process works on at once; urgent ones come on top."""
_WORTH_A_CLAIM = 1.0  # seconds that must be left to begin another shard; handing back what is left costs little
_TRIES = 5  # to claim a shard that no other process takes at the same moment
_LOOK_EVERY = 0.25  # seconds until a batch that was just submitted is begun beside the others

log = structlog.get_logger(__name__)


async def delete_shard(tools: Tools, batch_id: str, shard: int) -> Ending:
    """Claim the shard and send its pending records; then do the same with what else is due.

    A batch's next shard begins when the last records of one are in flight, so that none of the process's time is lost
    between two. Other batches are worked on beside it, so that none waits for another's end. That goes on for
    ``BUDGET`` seconds. Returns ``GIVEN_BACK`` if any shard was, else how the first ended. Cancelling it stops all of
    it. Raises ``RedisError`` when the store cannot be asked.
    """
    turn = _Turn(tools)
    work = asyncio.create_task(turn.take(batch_id, shard))
    try:
        await asyncio.wait([work])
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise
    return work.result()


class _Turn:
    """What a process does for one message."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._until = asyncio.get_running_loop().time() + BUDGET
        self._working: set[str] = set()
        self._passed_over: set[str] = set()
        self._crowded = False
        self._look = asyncio.Event()
        self._runs: list[asyncio.Task[Ending]] = []

    async def take(self, batch_id: str, shard: int) -> Ending:
        """Work on the message's shard first."""
        claim = await self._claim(batch_id, shard)
        if isinstance(claim, NotClaimed):
            return Ending(claim.value)
        if claim.standing is Standing.CANCELLED:
            await settle_cancelled(self._tools.shards, claim)
            return Ending.FINISHED
        first = await self._begin(claim)
        async with asyncio.TaskGroup() as group:
            self._work_in(group, first)
            if claim.deaths < POISON:  # else a record of another would be blamed for this worker's death
                await self._look_for_others(group)
        endings = [run.result() for run in self._runs]
        return Ending.GIVEN_BACK if Ending.GIVEN_BACK in endings else endings[0]

    def _work_in(self, group: asyncio.TaskGroup, run: ShardRun) -> None:
        self._working.add(run.batch_id)
        group.create_task(self._work_on_batch(run))

    async def _work_on_batch(self, first: ShardRun) -> None:
        """A batch's shards, one after the other."""
        run: ShardRun | None = first
        async with asyncio.TaskGroup() as group:
            while run is not None:
                work = group.create_task(run.run())
                self._runs.append(work)
                await run.nearly_sent.wait()
                if run.is_canary:
                    await asyncio.wait([work])
                goes_on = run.leaves_room(_WORTH_A_CLAIM) and not self._crowded  # else another batch has its turn
                run = await self._next(first.batch_id) if goes_on else None
        self._working.remove(first.batch_id)
        self._look.set()

    async def _look_for_others(self, group: asyncio.TaskGroup) -> None:
        """Begin batches beside those that are worked on, until nothing is left to do."""
        while self._has_time():
            self._look.clear()
            for batch_id in await self._others():
                if (run := await self._next(batch_id)) is not None:
                    self._work_in(group, run)
            if not self._working:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._look.wait()

    def _has_time(self) -> bool:
        left = self._until - asyncio.get_running_loop().time()
        return left > _WORTH_A_CLAIM and not self._tools.stopping()

    async def _others(self) -> list[str]:
        """Batches that run and that this process is not at: urgent ones first, then by chance, so that none starves."""
        active: dict[str, Lane] = {}
        with suppress(RedisError):
            active = await self._tools.batches.active(self._tools.target)
        others = [batch_id for batch_id in active if batch_id not in self._working | self._passed_over]
        urgent = [batch_id for batch_id in others if active[batch_id] is Lane.URGENT]
        bulk = [batch_id for batch_id in others if active[batch_id] is Lane.BULK]
        room = max(0, BESIDE - len(self._working))
        self._crowded = len(bulk) > room
        return urgent + random.sample(bulk, min(room, len(bulk)))

    async def _next(self, batch_id: str) -> ShardRun | None:
        with suppress(RedisError):  # the shard is due again later
            return await self._claim_next(batch_id)
        return None

    async def _claim_next(self, batch_id: str) -> ShardRun | None:
        claim: Claim | NotClaimed = NotClaimed.HELD
        for _ in range(_TRIES):
            if (shard := await self._tools.shards.next_due(batch_id)) is None:
                return None
            claim = await self._claim(batch_id, shard)
            if claim is not NotClaimed.HELD:
                break
        if isinstance(claim, NotClaimed):
            return None
        if claim.standing.lets_send and claim.deaths < POISON:
            return await self._begin(claim)
        self._passed_over.add(batch_id)  # it is for a turn of its own
        await self._tools.shards.release(claim, {}, 0.0)
        return None

    async def _claim(self, batch_id: str, shard: int) -> Claim | NotClaimed:
        """Nothing is sent before the claim would survive a failover; slow replicas are waited for."""
        token = uuid4().hex
        while True:
            try:
                return await self._tools.shards.claim(batch_id, shard, token)
            except NotReplicatedError as error:
                log.warning("waiting for replicas", batch=batch_id, shard=shard, error=str(error))
                if self._tools.stopping():
                    await self._tools.shards.give_up(batch_id, shard, token)
                    raise

    async def _begin(self, claim: Claim) -> ShardRun:
        """A run of a claimed shard, which knows who is on hold (SPEC 6).

        What the ledger knows needs no call (SPEC 3, ``deleted_earlier``).
        """
        run = ShardRun(self._tools, claim, self._until)
        try:
            await run.skip_held()
            offsets = run.pending()
            known = await self._tools.ledger.lookup([claim.ids[offset] for offset in offsets], time.time())
        except BaseException:
            with suppress(RedisError):
                await self._tools.shards.release(claim, {}, 0.0)
            raise
        for position, deletion in known.items():
            when = datetime.fromtimestamp(deletion.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            run.settle(offsets[position], Result(Reason.DELETED_EARLIER, note=f"batch {deletion.batch_id}, {when}"))
        return run
