"""Takes in a file as a batch: the whole of it is stored before any of it counts, and before anything is sent."""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from worker.domain import references
from worker.domain.batch_ids import make_batch_id
from worker.domain.batches import Description, Lane
from worker.domain.errors import Guard, InputError, RefusedError
from worker.domain.outcomes import Reason
from worker.domain.records import Result
from worker.domain.rules import Rules
from worker.intake.csv_file import CsvFile, Inspection, Row
from worker.store.batches import Batches
from worker.store.holds import Holds
from worker.store.loading import Accepted

_SHARED_BY = 8  # shards that a small batch has at least, so that as many processes give it their share
_SMALLEST = 10  # records of a shard; what a shard costs by itself is little beside them


def describe(
    inspection: Inspection,
    rules: Rules,
    *,
    reference: str | None = None,
    lane: Lane = Lane.BULK,
    due: float | None = None,
    keep: Sequence[str] = (),
) -> Description:
    """What a batch made of this file says of itself; ``keep`` names the columns to store besides the IDs.

    Raises ``InputError`` if the file has no such column, and ``UsageError`` for a reference that nobody may give.
    """
    return Description(
        target=rules.target,
        source=inspection.source,
        sha256=inspection.sha256,
        rows=inspection.rows,
        shard_size=shard_size_for(inspection.rows, rules.shard_size),
        id_column=inspection.id_column,
        columns=inspection.columns,
        kept=_kept(inspection, keep),
        reference=references.checked(reference),
        lane=lane,
        brakes=rules.brakes,
        due=due,
        needs_approval=rules.approval.asks(inspection.rows, rules.target.environment),
    )


def _kept(inspection: Inspection, names: Sequence[str]) -> tuple[str, ...]:
    """The columns as the file has them, white space around their names included."""
    own = {column.strip(): column for column in inspection.columns if column != inspection.id_column}
    for name in names:
        if name.strip() not in own and name.strip() != inspection.id_column.strip():
            raise InputError(inspection.source, f"has no column '{name}' to keep", columns=inspection.columns)
    return tuple(own[name.strip()] for name in names if name.strip() in own)


def shard_size_for(rows: int, most: int) -> int:
    """How many records a shard of a batch holds: a small batch is shared by several processes as well."""
    return min(most, max(_SMALLEST, -(-rows // _SHARED_BY)))


async def accept(
    batches: Batches, holds: Holds, file: CsvFile, description: Description, *, again: bool = False
) -> Accepted:
    """Store the file as a batch, or tell which batch it is already (SPEC 5: submitting is idempotent).

    Customers on hold are skipped from the start. ``again`` takes a file that was taken before.

    Raises ``RefusedError`` when the reference names a batch of other content, ``InputError`` when the file changed
    since it was inspected; in either case nothing of it was stored.
    """
    known = await batches.known(description)
    if known is None or (known.known_by == "file" and again):
        known = await _store(batches, holds, file, description, again=again)
    if known.known_by == "reference":
        await _refuse_other_content(batches, known.batch_id, description)
    return known


async def _store(batches: Batches, holds: Holds, file: CsvFile, description: Description, *, again: bool) -> Accepted:
    batch_id = make_batch_id(time.time(), secrets.randbits(32))
    loading = batches.load(batch_id)
    try:
        any_held = await holds.any()  # one that is placed from here on is found before sending
        for shard, (rows, kept) in enumerate(_in_shards(file, description)):
            held = await _held(holds, rows) if any_held else {}
            await loading.add_shard(shard, [row.customer_id for row in rows], _known(rows) | held, kept=kept)
    except BaseException:
        await loading.discard()
        raise
    return await loading.commit(description, again=again)


async def _refuse_other_content(batches: Batches, batch_id: str, description: Description) -> None:
    existing = await batches.get(batch_id)
    if existing is None or existing.description.sha256 != description.sha256:
        raise RefusedError(
            f"the reference '{description.reference}' names batch {batch_id}, which was made of another file; "
            "use another reference",
            Guard.REFERENCE,
            batch_id,
        )


def _known(rows: Iterable[Row]) -> dict[int, Result]:
    """Outcomes that are known before anything is sent, by offset."""
    return {
        offset: Result(row.reason, first_row=row.first_row) for offset, row in enumerate(rows) if row.reason is not None
    }


async def _held(holds: Holds, rows: Sequence[Row]) -> dict[int, Result]:
    """Those on hold, by offset."""
    valid = [offset for offset, row in enumerate(rows) if row.reason is None]
    found = await holds.lookup([rows[offset].customer_id for offset in valid])
    return {valid[position]: Result(Reason.ON_HOLD, note=ground) for position, ground in found.grounds.items()}


def _in_shards(file: CsvFile, description: Description) -> Iterator[tuple[list[Row], list[list[str]]]]:
    """The rows and, where columns are to be kept besides the IDs, their cells; both are read to their ends."""
    rows, size = file.rows(), description.shard_size
    if not description.kept:
        while shard := list(islice(rows, size)):
            yield shard, []
        return
    kept = [at for at, name in enumerate(file.columns) if name in description.kept]
    both = zip(rows, file.cells(), strict=True)
    while some := list(islice(both, size)):
        yield [row for row, _ in some], [[cells[at] for at in kept] for _, cells in some]
