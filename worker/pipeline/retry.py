"""Sends again what of an ended batch may end otherwise: a new batch, linked to the old one (SPEC 7)."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from worker.domain.batch_ids import make_batch_id
from worker.domain.batches import Batch, Description
from worker.domain.brakes import Brakes
from worker.domain.errors import RefusedError
from worker.domain.outcomes import Reason
from worker.domain.records import Doubt, History
from worker.pipeline.accept import shard_size_for
from worker.store.batches import Accepted, Batches

_DOUBTS: Mapping[Reason, History] = {
    Reason.NO_ANSWER: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.UNREADABLE_REPLY: History(doubt=Doubt.UNANSWERED, unanswered=Reason.UNREADABLE_REPLY),
    Reason.ACCEPTED_NOT_CONFIRMED: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.STILL_ACTIVE: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.SERVER_ERROR: History(doubt=Doubt.SERVER_FAILED),
}
"""What the earlier batch leaves open: a customer whom it may have deleted must not read ``not_found`` now (SPEC 2)."""


def retryable(batch: Batch) -> int:
    """How many records a retry of the batch would send; raises ``RefusedError`` if it has not ended, or at none."""
    if batch.ended_at is None:
        raise RefusedError(f"batch {batch.id} is {batch.state.value}: it can be retried when it has ended")
    count = sum(count for reason, count in batch.tally.reasons.items() if reason.retryable)
    if not count:
        raise RefusedError(f"nothing of batch {batch.id} can be retried: no record of it would end otherwise")
    return count


async def retry(batches: Batches, batch: Batch, shard_size: int, brakes: Brakes) -> Accepted:
    """Make the batch; asked again, tell which it is. ``shard_size`` is the most of a shard. Raises as ``retryable``."""
    old, rows = batch.description, retryable(batch)
    description = replace(
        old,
        source=f"retry of {batch.id}",
        sha256=hashlib.sha256(f"retry of {batch.id}".encode()).hexdigest(),
        rows=rows,
        shard_size=shard_size_for(rows, shard_size),
        columns=(old.id_column,),
        reference=None,
        brakes=brakes,
        retry_of=batch.id,
    )
    return await batches.known(description) or await _store(batches, batch, description)


async def _store(batches: Batches, batch: Batch, description: Description) -> Accepted:
    loading, shard = batches.load(make_batch_id(time.time(), secrets.randbits(32))), 0
    try:
        async for records in _in_shards(batches, batch, description.shard_size):
            doubts = {at: _DOUBTS[reason] for at, (_, reason) in enumerate(records) if reason in _DOUBTS}
            await loading.add_shard(shard, [customer_id for customer_id, _ in records], {}, doubts)
            shard += 1
    except BaseException:
        await loading.discard()
        raise
    return await loading.commit(description, again=False)


async def _in_shards(batches: Batches, batch: Batch, size: int) -> AsyncIterator[list[tuple[str, Reason]]]:
    """What can be retried, in the order of the rows: ID cell and why it ended."""
    found: list[tuple[str, Reason]] = []
    async for page in batches.pages(batch):
        found += [
            (line.customer_id, line.result.reason) for line in page if line.result and line.result.reason.retryable
        ]
        while len(found) >= size:
            yield found[:size]
            del found[:size]
    if found:
        yield found
