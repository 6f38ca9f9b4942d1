"""A worker's turn: claims a shard, and while it has time left the next one of its batch (docs/architecture.md)."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from worker.domain.outcomes import Reason
from worker.domain.records import Result
from worker.pipeline.cancel import settle_cancelled
from worker.pipeline.shard_run import POISON, Ending, ShardRun, Tools
from worker.store.scripts import NotReplicatedError
from worker.store.shards import Claim, NotClaimed, Standing

BUDGET = 20.0
"""Seconds for one message; what is not done by then is handed back."""
_WORTH_A_CLAIM = 5.0  # seconds that must be left to begin another shard

log = structlog.get_logger(__name__)


async def delete_shard(tools: Tools, batch_id: str, shard: int) -> Ending:
    """Claim the shard and send its pending records; then do the same with what is due next of the batch.

    The next shard begins when the last records of one are in flight, so that none of the process's time is lost
    between two; that goes on for ``BUDGET`` seconds, or until another batch waits. Returns ``GIVEN_BACK`` if any shard
    was, else how the first ended. Cancelling it stops all of it. Raises ``RedisError`` when the store cannot be asked.
    """
    until = asyncio.get_running_loop().time() + BUDGET
    slots = asyncio.Semaphore(tools.concurrency)
    claim = await _claim(tools, batch_id, shard)
    if isinstance(claim, NotClaimed):
        return Ending(claim.value)
    if claim.standing is Standing.CANCELLED:
        await settle_cancelled(tools.shards, claim)
        return Ending.FINISHED
    run: ShardRun | None = await _begin(tools, claim, slots, until)
    runs: list[asyncio.Task[Ending]] = []
    async with asyncio.TaskGroup() as group:
        while run is not None:
            runs.append(group.create_task(run.run()))
            await run.nearly_sent.wait()
            run = await _next(tools, batch_id, slots, until) if run.leaves_room(_WORTH_A_CLAIM) else None
    endings = [task.result() for task in runs]
    return Ending.GIVEN_BACK if Ending.GIVEN_BACK in endings else endings[0]


async def _claim(tools: Tools, batch_id: str, shard: int) -> Claim | NotClaimed:
    """Nothing is sent before the claim would survive a failover; slow replicas are waited for."""
    token = uuid4().hex
    while True:
        try:
            return await tools.shards.claim(batch_id, shard, token)
        except NotReplicatedError as error:
            log.warning("waiting for replicas", batch=batch_id, shard=shard, error=str(error))
            if tools.stopping():
                await tools.shards.give_up(batch_id, shard, token)
                raise


async def _next(tools: Tools, batch_id: str, slots: asyncio.Semaphore, until: float) -> ShardRun | None:
    with suppress(RedisError):  # the shard is due again later
        if (shard := await tools.shards.next_due(batch_id)) is None:
            return None
        claim = await _claim(tools, batch_id, shard)
        if isinstance(claim, NotClaimed):
            return None
        if claim.standing.lets_send and claim.deaths < POISON:
            return await _begin(tools, claim, slots, until)
        await tools.shards.release(claim, {}, 0.0)  # it is for a turn of its own
    return None


async def _begin(tools: Tools, claim: Claim, slots: asyncio.Semaphore, until: float) -> ShardRun:
    """A run of a claimed shard that knows what the ledger knows: that needs no call (SPEC 3, ``deleted_earlier``)."""
    run = ShardRun(tools, claim, slots, until)
    offsets = run.pending()
    try:
        known = await tools.ledger.lookup([claim.ids[offset] for offset in offsets], time.time())
    except RedisError:
        with suppress(RedisError):
            await tools.shards.release(claim, {}, 0.0)
        raise
    for position, deletion in known.items():
        when = datetime.fromtimestamp(deletion.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        run.settle(offsets[position], Result(Reason.DELETED_EARLIER, note=f"batch {deletion.batch_id}, {when}"))
    return run
