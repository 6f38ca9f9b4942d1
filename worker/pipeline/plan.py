"""What the store knows of a file before it is submitted (SPEC 6): who would not be sent, which batches came before."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from worker.domain.batches import Batch, Target
from worker.store.batches import Batches
from worker.store.holds import Holds
from worker.store.ledger import Ledger

_AT_ONCE = 1_000  # customers in one call, so that Redis stays free for others
_COMPARED = 10
_LOOKED_AT = 100  # of all merchants and environments


class Known(NamedTuple):
    """Of the customers that a file names, and of the newest batches of the same merchant and environment."""

    on_hold: int
    deleted_earlier: int
    """Of those not on hold."""
    batches: int
    """How many there are to compare with, ten at most."""
    largest: int
    """Rows of the largest of these; 0 if there is none."""


async def look_up(
    batches: Batches, holds: Holds, ledger: Ledger, customer_ids: Iterable[str], target: Target, now: float
) -> Known:
    """Ask for all of them; memory does not grow with their number."""
    ids, on_hold, deleted = iter(customer_ids), 0, 0
    any_held = await holds.any()
    while some := list(islice(ids, _AT_ONCE)):
        held = (await holds.lookup(some)).grounds if any_held else {}
        free = [customer_id for at, customer_id in enumerate(some) if at not in held] if held else some
        on_hold += len(held)
        deleted += len(await ledger.lookup(free, now))
    sizes = [batch.description.rows for batch in await batches.recent(_LOOKED_AT) if _is_of(target, batch)][:_COMPARED]
    return Known(on_hold, deleted, len(sizes), max(sizes, default=0))


def _is_of(target: Target, batch: Batch) -> bool:
    return batch.description.target.owner == target.owner
