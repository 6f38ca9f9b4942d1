"""What an operator asks of holds: place and release them, and find the records that were held back (SPEC 6)."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from worker.domain.batches import Batch, Target
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.pipeline.shard_run import NOTICED
from worker.store.batches import Batches
from worker.store.holds import Holds, Overlaps


class HeldBack(NamedTuple):
    """A record of an ended batch that was skipped since its customer was on hold."""

    batch_id: str
    row: int
    customer_id: str


async def place(
    holds: Holds, customer_ids: Sequence[str], term: Term, *, replace: bool, actor: str | None = None
) -> int | Overlaps:
    """Put customers on hold, all or none; when it returns, no DELETE of theirs starts beyond those in flight.

    Returns how many holds are new or changed, or what stands in the way.
    """
    placed = await holds.add(customer_ids, term, replace=replace, actor=actor)
    if isinstance(placed, int):
        await asyncio.sleep(NOTICED)
    return placed


async def held_back(batches: Batches, target: Target, customer_ids: Collection[str]) -> list[HeldBack]:
    """The records of these customers that ended batches held back, those of the newest batch first."""
    wanted, found = frozenset(customer_ids), []
    for batch in await batches.recent(None):
        if _may_hold(batch, target):
            async for page in batches.pages(batch):
                found += [
                    HeldBack(batch.id, line.row, line.customer_id)
                    for line in page
                    if line.result and line.result.reason is Reason.ON_HOLD and line.customer_id in wanted
                ]
    return found


def _may_hold(batch: Batch, target: Target) -> bool:
    same = batch.description.target.owner == target.owner
    return same and batch.ended_at is not None and bool(batch.tally.reasons.get(Reason.ON_HOLD))
