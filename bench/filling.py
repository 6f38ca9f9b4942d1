"""Fills a store with finished records through the product's own code, as fast as it goes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import uuid4

from bench.processes import MeasureError
from worker.domain.batches import Environment, Target
from worker.domain.customer_ids import IdRule
from worker.domain.outcomes import Reason
from worker.domain.people import NO_APPROVAL
from worker.domain.records import Result
from worker.domain.rules import Rules
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept, describe
from worker.pipeline.shard_run import FLUSH_SIZE
from worker.store.shards import NotClaimed, Written
from worker.wiring import Store

TARGET = Target(Environment.SANDBOX, "bench")
SHARD_SIZE = 250
_AT_ONCE = 8  # shards


async def take_in(store: Store, path: Path) -> str:
    """Accept a file as a batch; returns its ID. Nothing is sent."""
    with CsvFile.open(path, rule=IdRule.of(), max_rows=1 << 30) as file:
        description = describe(file.inspect(), Rules(TARGET, SHARD_SIZE, NO_APPROVAL))
        return (await accept(store.batches, store.holds, file, description)).batch_id


async def finish(store: Store, batch_id: str) -> None:
    """Give every record the outcome that most have: confirmed by a 200 with a request ID of 32 hex digits."""
    batch = await store.batches.get(batch_id)
    if batch is None:
        raise MeasureError("the batch is gone")
    shards = iter(range(batch.description.shards))

    async def work() -> None:
        for shard in shards:
            await _finish_shard(store, batch_id, shard)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    batch = await store.batches.get(batch_id)
    if batch is None or not batch.state.ended or batch.tally.pending:
        raise MeasureError("the batch did not end")


async def _finish_shard(store: Store, batch_id: str, shard: int) -> None:
    claim = await store.shards.claim(batch_id, shard, uuid4().hex)
    if isinstance(claim, NotClaimed):
        raise MeasureError(f"shard {shard} was not given: {claim}")
    for first in range(0, len(claim.ids), FLUSH_SIZE):
        written = [_deleted(at, claim.ids) for at in range(first, min(first + FLUSH_SIZE, len(claim.ids)))]
        await store.shards.record(claim, written, time.time())


def _deleted(offset: int, customer_ids: Sequence[str]) -> Written:
    result = Result(Reason.CONFIRMED, http_status=200, attempts=1, request_id=uuid4().hex, is_wallet_ready=False)
    return Written(offset, customer_ids[offset], result)


async def timed(what: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    await what()
    return time.perf_counter() - began
