"""What the store knows of a file before it is submitted (SPEC 6): who would not be sent, which batches came before."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from worker.domain.batches import Batch, Target
from worker.domain.outcomes import Reason
from worker.domain.plans import plan_id
from worker.domain.rates import Rate
from worker.intake.csv_file import CsvFile, Inspection
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
    return Known(on_hold, deleted, *await _earlier(batches, target))


async def _earlier(batches: Batches, target: Target, before: Batch | None = None) -> tuple[int, int]:
    """How many batches there are to compare with, before one if asked, and the rows of the largest."""
    recent = [batch for batch in await batches.recent(_LOOKED_AT) if batch.description.target.owner == target.owner]
    sizes = [batch.description.rows for batch in recent if before is None or batch.created_at < before.created_at]
    return len(sizes[:_COMPARED]), max(sizes[:_COMPARED], default=0)


async def look_into(file: CsvFile, batches: Batches, holds: Holds, ledger: Ledger, target: Target, now: float) -> Known:
    """Ask for all customers of a file that would be sent."""
    ids = (row.customer_id for row in file.rows() if row.reason is None)
    return await look_up(batches, holds, ledger, ids, target, now)


def plan_json(inspection: Inspection, target: Target, rate: Rate, known: Known | None) -> dict[str, Any]:
    """What a submission would do, as JSON values (docs/json.md)."""
    to_send = inspection.valid - (known.on_hold + known.deleted_earlier if known else 0)
    return {
        "plan": plan_id(inspection.sha256, target, inspection.id_column),
        "source": inspection.source,
        "sha256": inspection.sha256,
        "environment": target.environment.value,
        "merchant": target.merchant,
        "id_column": inspection.id_column,
        "rows": inspection.rows,
        "valid": inspection.valid,
        "invalid": inspection.invalid,
        "duplicates": inspection.duplicates,
        "on_hold": known.on_hold if known else None,
        "deleted_earlier": known.deleted_earlier if known else None,
        "to_send": to_send,
        "rate": str(rate),
        "seconds": round(to_send / rate.sustained, 1),
        "earlier": {"batches": known.batches, "largest": known.largest} if known else None,
        "invalid_lines": [{"line": line, "problem": problem} for line, problem in inspection.invalid_samples],
    }


async def batch_plan_json(batches: Batches, batch: Batch, rate: Rate) -> dict[str, Any]:
    """The same of a batch that was submitted, as far as it is known: what of it is still to be sent, and by whom not.

    Which lines were invalid is in its report alone.
    """
    description, reasons = batch.description, batch.tally.reasons
    invalid, duplicates = reasons.get(Reason.INVALID_ID, 0), reasons.get(Reason.DUPLICATE, 0)
    inspection = Inspection(
        source=description.source,
        sha256=description.sha256,
        rows=description.rows,
        valid=description.rows - invalid - duplicates,
        invalid=invalid,
        invalid_samples=(),
        duplicates=duplicates,
        columns=description.columns,
        id_column=description.id_column,
        delimiter=",",
        bad_rows=0,
    )
    held, gone = reasons.get(Reason.ON_HOLD, 0), reasons.get(Reason.DELETED_EARLIER, 0)
    known = Known(held, gone, *await _earlier(batches, description.target, batch))
    pending = batch.tally.pending
    planned = plan_json(inspection, description.target, rate, known)
    return planned | {"to_send": pending, "seconds": round(pending / rate.sustained, 1)}


def compared(known: Known) -> str:
    """How the file compares with the batches before it."""
    if not known.batches:
        return "the first batch of this merchant and environment"
    if known.batches == 1:
        return f"the batch before had {known.largest:,} rows"
    return f"the largest of the last {known.batches} batches had {known.largest:,} rows"
