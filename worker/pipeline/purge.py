"""Removes an ended batch at once, instead of when its retention is over (SPEC 10)."""

from typing import NamedTuple

from worker.domain.batch_ids import is_batch_id
from worker.domain.batches import Batch, BatchState
from worker.domain.errors import Guard, RefusedError
from worker.pipeline.gather import gathering_of
from worker.store.batches import Batches
from worker.store.purging import Begun, Purging


class Removable(NamedTuple):
    """What is to be removed."""

    batch_id: str
    records: int
    batch: Batch | None
    """``None`` if it was taken away before, by somebody who died before all of it was removed."""


async def find(batches: Batches, purging: Purging, batch_id: str) -> Removable | None:
    """What there is of a batch; ``None`` if nothing is. Raises ``RefusedError`` if it has not ended."""
    if not is_batch_id(batch_id):
        return None
    batch = await batches.get(batch_id)
    if batch is not None:
        _refuse_unless_ended(batch)
        return Removable(batch_id, batch.description.rows, batch)
    records = await purging.left(batch_id)
    return Removable(batch_id, records, None) if records is not None else None


async def purge(purging: Purging, removable: Removable, actor: str | None) -> int:
    """Remove all of it; returns how many keys. It cannot be undone. After any error, ask again: it goes on."""
    begun, removed = Begun.GONE, 0
    if (batch := removable.batch) is not None:
        begun, removed = await purging.begin(batch, gathering_of(batch), actor)
        if begun is Begun.NOT_ENDED:
            _refuse_unless_ended(batch)
    return removed + await purging.finish(removable.batch_id)


def _refuse_unless_ended(batch: Batch) -> None:
    if batch.ended_at is not None:
        return
    if batch.state is BatchState.CANCELLED:
        stands = "cancelled, and what it had in flight is still ending: wait for it with"
    else:
        stands = f"{batch.state.value}, and only an ended batch can be purged: cancel it first with"
    raise RefusedError(f"batch {batch.id} is {stands} `expunge cancel {batch.id}`", Guard.STATE)
