"""What an operator asks of holds: place and release them, and find the records that were held back (SPEC 6)."""

import asyncio
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple, cast

from worker.domain import references
from worker.domain.batches import Batch, Description, Target
from worker.domain.errors import Guard, RefusedError, StoreError, UsageError
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.rules import Rules
from worker.intake.csv_file import DEFAULT_COLUMN, MAX_UNPACKED, CsvFile
from worker.intake.source import Source
from worker.pipeline.accept import describe
from worker.pipeline.admission import signed
from worker.pipeline.naming import Customers, some
from worker.pipeline.notice import NOTICED
from worker.pipeline.reconcile import Feeder
from worker.pipeline.submission import Taken, take_in
from worker.reports.columns import rfc3339
from worker.store.batches import Batches
from worker.store.holds import Holds, Overlaps
from worker.store.ledger import Deletion, Ledger

_AT_ONCE = 1_000  # customers asked for in one step


class HeldBack(NamedTuple):
    """A record of an ended batch that was skipped since its customer was on hold."""

    batch_id: str
    row: int
    customer_id: str

    def as_json(self) -> dict[str, Any]:
        """As command line and HTTP API show it (docs/json.md)."""
        return {"batch": self.batch_id, "row": self.row, "customer_id": self.customer_id}


class Release(NamedTuple):
    """What a release is about."""

    ids: list[str]
    """Who is on hold, and is released."""
    places: list[str]
    """Where the user finds each of them."""
    held_back: list[HeldBack]
    """Of all who were named."""


class Gone(NamedTuple):
    """A customer whom a hold comes too late for: deleted by an earlier batch."""

    customer_id: str
    place: str
    """Where the user finds them."""
    deletion: Deletion

    def as_json(self) -> dict[str, Any]:
        """As command line and HTTP API show it (docs/json.md)."""
        return {"customer_id": self.customer_id, "batch": self.deletion.batch_id, "at": rfc3339(self.deletion.at)}


async def place(
    holds: Holds, customers: Customers, terms: Term | Sequence[Term], *, replace: bool, actor: str | None = None
) -> int:
    """Put customers on hold, all or none; when it returns, no DELETE of theirs starts beyond those in flight.

    Returns how many holds are new or changed. Raises ``RefusedError`` where others stand, unless to ``replace`` them.
    """
    placed = await holds.add(customers.ids, terms, replace=replace, actor=actor)
    if isinstance(placed, Overlaps):
        raise _overlapping(placed, customers.places)
    await asyncio.sleep(NOTICED)
    return placed


async def deleted_earlier(ledger: Ledger, customers: Customers, now: float) -> list[Gone]:
    """Those of them who are in the ledger; ``now`` in seconds since the epoch."""
    found = list[Gone]()
    for first in range(0, len(customers.ids), _AT_ONCE):
        deletions = await ledger.lookup(customers.ids[first : first + _AT_ONCE], now)
        found += [
            Gone(customers.ids[first + at], customers.places[first + at], deletion)
            for at, deletion in sorted(deletions.items())
        ]
    return found


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


def _overlapping(found: Overlaps, places: Sequence[str]) -> RefusedError:
    """The refusal of a hold where others stand; ``places`` say where the user finds each customer."""
    terms = [f"{places[at]} is on hold {standing(term)} already" for at, term in found.first.items()]
    return RefusedError(
        f"nothing was held: {some(terms, found.many)}; add --replace if the new hold shall stand", Guard.HOLD
    )


async def releasing(
    holds: Holds, batches: Batches, target: Target, customers: Customers, *, resubmit: bool = False
) -> Release:
    """What a release of these customers is about; raises ``UsageError`` if any is not on hold.

    To ``resubmit``, it is enough that records of theirs were held back: they may have been released before.
    """
    held = (await holds.lookup(customers.ids)).grounds
    found = await held_back(batches, target, customers.ids)
    known = {each.customer_id for each in found} if resubmit else set()
    unknown = [at for at, customer_id in enumerate(customers.ids) if at not in held and customer_id not in known]
    _refuse_unknown(unknown, customers.places)
    return Release([customers.ids[at] for at in held], [customers.places[at] for at in held], found)


async def release(holds: Holds, ending: Release, actor: str | None) -> None:
    """End the holds of all of them; raises ``UsageError``, and ends none, if any is not on hold any more."""
    if ending.ids:
        _refuse_unknown(await holds.remove(ending.ids, actor), ending.places)


async def release_and_resubmit(
    batches: Batches,
    holds: Holds,
    feeder: Feeder,
    ending: Release,
    rules: Rules,
    name: str | None,
    guard: Callable[[Description], None],
) -> Taken:
    """End the holds, and make a batch of the records that were held back; ``guard`` sees what it will be before.

    These are two steps. Whoever dies between them has released and made no batch; asked once more for the same
    customers, it goes on: the records are found as before, and name the batch, so that there is never a second one.
    """
    with await asyncio.to_thread(_file_of, ending.held_back, rules) as csv_file:
        reference = references.of_held_back((each.batch_id, each.row) for each in ending.held_back)
        described = replace(describe(csv_file.inspect(), rules), reference=reference)
        description = signed(described, name)
        guard(description)
        await release(holds, ending, name)
        return await take_in(batches, holds, feeder, csv_file, description, again=True)


def _file_of(records: Sequence[HeldBack], rules: Rules) -> CsvFile:
    """The customers of these records as a file of their own, checked; raises ``StoreError`` when the disk is full."""
    known = list(dict.fromkeys(each.batch_id for each in records))
    name = f"held back in {known[0] if len(known) == 1 else f'{len(known):,} batches'}"
    lines = "\n".join([DEFAULT_COLUMN, *dict.fromkeys(each.customer_id for each in records), ""])
    try:
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the CsvFile closes it
        file.write(lines.encode())
        file.flush()
    except OSError as error:
        raise StoreError(f"no file of these records can be made here ({error.strerror}); nobody was released") from None
    csv_file = CsvFile.open(Source.of(file, name, MAX_UNPACKED), rule=rules.ids, max_rows=rules.max_rows)
    try:
        csv_file.inspect()
    except BaseException:
        csv_file.close()
        raise
    return csv_file


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


def too_late(gone: Sequence[Gone]) -> str:
    """A hint: the hold stands, but of these customers it keeps nothing."""
    named = [f"{each.place} (batch {each.deletion.batch_id}, {rfc3339(each.deletion.at)})" for each in gone]
    return f"{len(gone):,} of them were deleted before, which no hold undoes: {some(named, len(named))}"
