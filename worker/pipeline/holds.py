"""What an operator asks of holds: place and release them, and find the records that were held back (SPEC 6)."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from worker.domain.batches import Batch, Target
from worker.domain.errors import Guard, RefusedError, UsageError
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.pipeline.shard_run import NOTICED
from worker.reports.columns import rfc3339
from worker.store.batches import Batches
from worker.store.holds import Holds, Overlaps

MOST: Final = 100_000
"""Customers in one atomic step, during which Redis does nothing else."""
_NAMED = 5  # of what is wrong, on one line


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


def overlapping(found: Overlaps, places: Sequence[str]) -> RefusedError:
    """The refusal of a hold where others stand; ``places`` say where the user finds each customer."""
    terms = [f"{places[at]} is on hold {standing(term)} already" for at, term in found.first.items()]
    return RefusedError(
        f"nothing was held: {some(terms, found.many)}; add --replace if the new hold shall stand", Guard.HOLD
    )


async def refuse_those_not_held(holds: Holds, customer_ids: Sequence[str], places: Sequence[str]) -> None:
    """Raise ``UsageError`` if any is not on hold."""
    known = (await holds.lookup(customer_ids)).grounds
    _refuse_unknown([at for at in range(len(customer_ids)) if at not in known], places)


async def release(holds: Holds, customer_ids: Sequence[str], places: Sequence[str], actor: str | None) -> None:
    """End the holds of all of them; raises ``UsageError``, and ends none, if any is not on hold."""
    _refuse_unknown(await holds.remove(customer_ids, actor), places)


def _refuse_unknown(positions: Sequence[int], places: Sequence[str]) -> None:
    if positions:
        named = some([places[at] for at in positions], len(positions))
        raise UsageError(f"not on hold: {named}; nobody was released")


def standing(term: Term) -> str:
    """How long a hold stands, and why."""
    return f"{until(term)} ({term.ground})"


def until(term: Term) -> str:
    """How long a hold stands."""
    return f"until {rfc3339(term.until)}" if term.until else "until removed"


def some(parts: Sequence[str], count: int) -> str:
    """The first few, and how many of all ``count`` are left out."""
    left = count - _NAMED
    return ", ".join(parts[:_NAMED]) + (f" and {left:,} more" if left > 0 else "")
