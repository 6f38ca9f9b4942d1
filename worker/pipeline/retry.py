"""Sends again what of an ended batch may end otherwise: a new batch, linked to the old one (SPEC 7)."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from worker.domain.batch_ids import make_batch_id
from worker.domain.batches import Batch, Description
from worker.domain.brakes import Brakes
from worker.domain.errors import Guard, RefusedError
from worker.domain.outcomes import Reason
from worker.domain.people import ApprovalRule
from worker.domain.records import Doubt, History, Result
from worker.pipeline.accept import shard_size_for
from worker.pipeline.endings import held
from worker.store.batches import Batches
from worker.store.holds import Holds
from worker.store.loading import Accepted

_DOUBTS: Mapping[Reason, History] = {
    Reason.NO_ANSWER: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.UNREADABLE_REPLY: History(doubt=Doubt.UNANSWERED, unanswered=Reason.UNREADABLE_REPLY),
    Reason.ACCEPTED_NOT_CONFIRMED: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.STILL_ACTIVE: History(doubt=Doubt.UNANSWERED, unanswered=Reason.NO_ANSWER),
    Reason.SERVER_ERROR: History(doubt=Doubt.SERVER_FAILED),
}
"""What the earlier batch leaves open: a customer whom it may have deleted must not read ``not_found`` now (SPEC 2)."""


class _Record(NamedTuple):
    """What is sent again."""

    customer_id: str
    reason: Reason
    """Why it ended."""
    kept: list[str]


def describe(batch: Batch, shard_size: int, brakes: Brakes, approval: ApprovalRule) -> Description:
    """What a retry of the batch says of itself; ``shard_size`` is the most that a shard may hold.

    It is a submission of its own: who made the earlier one, and who approved it, is not taken over. Raises
    ``RefusedError`` if the batch has not ended, or if nothing of it would end otherwise.
    """
    rows = _retryable(batch)
    return replace(
        batch.description,
        source=f"retry of {batch.id}",
        sha256=hashlib.sha256(f"retry of {batch.id}".encode()).hexdigest(),
        rows=rows,
        shard_size=shard_size_for(rows, shard_size),
        columns=batch.description.stored_columns,
        reference=None,
        brakes=brakes,
        retry_of=batch.id,
        submitted_by=None,
        needs_approval=approval.asks(rows, batch.description.target.environment),
    )


def _retryable(batch: Batch) -> int:
    if batch.ended_at is None:
        raise RefusedError(f"batch {batch.id} is {batch.state.value}: it can be retried when it has ended", Guard.STATE)
    count = sum(count for reason, count in batch.tally.reasons.items() if reason.retryable)
    if not count:
        raise RefusedError(
            f"nothing of batch {batch.id} can be retried: no record of it would end otherwise", Guard.STATE
        )
    return count


async def retry(batches: Batches, holds: Holds, batch: Batch, description: Description) -> Accepted:
    """Make the batch that was described; asked again, tell which it is. Who is on hold is left out once more."""
    return await batches.known(description) or await _store(batches, holds, batch, description)


async def _store(batches: Batches, holds: Holds, batch: Batch, description: Description) -> Accepted:
    loading, shard = batches.load(make_batch_id(time.time(), secrets.randbits(32))), 0
    try:
        async for records in _in_shards(batches, batch, description.shard_size):
            known = await _held(holds, records)
            doubts = {
                at: _DOUBTS[record.reason]
                for at, record in enumerate(records)
                if record.reason in _DOUBTS and at not in known
            }
            kept = [record.kept for record in records] if description.kept else []
            await loading.add_shard(shard, [record.customer_id for record in records], known, doubts, kept)
            shard += 1
    except BaseException:
        await loading.discard()
        raise
    return await loading.commit(description, again=False)


async def _held(holds: Holds, records: Sequence[_Record]) -> dict[int, Result]:
    """Those on hold, by offset; whom the earlier batch may have deleted is not called skipped."""
    found = await holds.lookup([record.customer_id for record in records])
    return {at: held(ground, _DOUBTS.get(records[at].reason, History())) for at, ground in found.grounds.items()}


async def _in_shards(batches: Batches, batch: Batch, size: int) -> AsyncIterator[list[_Record]]:
    """What can be retried, in the order of the rows."""
    columns, id_column = batch.description.stored_columns, batch.description.id_column
    others = [at for at, name in enumerate(columns) if name != id_column]
    found: list[_Record] = []
    async for page in batches.pages(batch):
        found += [
            _Record(line.customer_id, line.result.reason, [line.cells[at] for at in others])
            for line in page
            if line.result and line.result.reason.retryable
        ]
        while len(found) >= size:
            yield found[:size]
            del found[:size]
    if found:
        yield found
