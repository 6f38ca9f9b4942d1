"""Batches page by page, newest first, by what somebody looks for."""

from dataclasses import dataclass

from worker.domain.batches import Batch, BatchState, Lane, Target
from worker.store.batches import Batches, Place

_LOOKED_AT = 1_000  # batches for one page, of all merchants and environments
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which batches; ``None`` is any."""

    target: Target
    state: BatchState | None = None
    lane: Lane | None = None
    submitted_by: str | None = None
    reference: str | None = None

    def fits(self, batch: Batch) -> bool:
        """Whether it is one of them."""
        description = batch.description
        return (
            description.target == self.target
            and self.state in (None, batch.state)
            and self.lane in (None, description.lane)
            and self.submitted_by in (None, description.submitted_by)
            and self.reference in (None, description.reference)
        )


async def page(batches: Batches, wanted: Wanted, after: Place | None, limit: int) -> tuple[list[Batch], Place | None]:
    """At most ``limit`` batches, and the place to go on from, ``None`` at the end.

    A page may have fewer, even none, before the end: so many batches that do not fit were looked at.
    """
    if wanted.reference is not None:  # names one batch at most
        named = await batches.named(wanted.reference, wanted.target)
        return [named] if named is not None and wanted.fits(named) else [], None
    found: list[Batch] = []
    for _ in range(_LOOKED_AT // _AT_ONCE):
        some = await batches.older(after, _AT_ONCE)
        for place, batch in some:
            after = place
            if batch is not None and wanted.fits(batch):
                found.append(batch)
                if len(found) == limit:
                    return found, after
        if len(some) < _AT_ONCE:
            return found, None
    return found, after
