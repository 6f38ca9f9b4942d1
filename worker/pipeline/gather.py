"""Takes in what other systems ask for, and makes batches of it (SPEC 8).

Events gather in Redis, each once; a gathering that is full, or old enough, becomes a batch like any other. Whoever
makes it may die at any time: the gathering is kept until the batch counts, and its reference names one batch for ever.
"""

import asyncio
import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import BinaryIO, Final, Generic, NamedTuple, TypeVar, cast

import structlog

from worker.domain import references
from worker.domain.batches import Batch, Lane
from worker.domain.errors import ExpungeError
from worker.domain.events import REUSED, BadEventError, Event
from worker.domain.people import EVENTS
from worker.domain.rules import Rules
from worker.intake.csv_file import CsvFile
from worker.intake.source import Source
from worker.pipeline.accept import describe
from worker.pipeline.admission import signed
from worker.pipeline.duties import Trouble
from worker.pipeline.reconcile import Feeder
from worker.pipeline.submission import take_in
from worker.store.batches import Batches
from worker.store.gatherings import Asked, Gathering, Gatherings, Taken
from worker.store.holds import Holds

COLUMNS: Final = ("customer_id", "reference", "due", "event_source", "event_id")
"""Of a rolling batch's input, and so of its report."""
EVERY: Final = 1.0
"""Seconds between two looks for what is due."""
_LARGEST: Final = 1 << 30  # bytes of a gathering; settings bound its records

log = structlog.get_logger(__name__)


Item = TypeVar("Item")


class Answers(NamedTuple, Generic[Item]):
    """What became of events that came where nobody waits for an answer."""

    taken: list[Taken]
    refused: list[tuple[Item, str]]
    """With the reason; they can never be taken."""


class Gatherer:
    """Takes events, and makes batches of them; any number of processes may do so side by side."""

    def __init__(self, gatherings: Gatherings, batches: Batches, holds: Holds, feeder: Feeder, rules: Rules) -> None:
        self.gatherings = gatherings
        self._batches = batches
        self._holds = holds
        self._feeder = feeder
        self._rules = rules

    async def take(self, events: Sequence[Event]) -> list[Taken | None]:
        """Keep events, each once; returns in their order what became of each, ``None`` where it is ``REUSED``.

        When this returns, all others are persisted. After a ``RedisError`` some may be; it is safe to ask again.
        """
        taken: dict[int, Taken | None] = {}
        for lane, positions in _by_lane(events).items():
            for some in self._in_calls(events, positions):
                answers = await self.gatherings.add([_asked(events[at]) for at in some], lane)
                taken.update(zip(some, answers, strict=True))
        return [taken[at] for at in range(len(events))]

    async def take_each(self, items: Sequence[Item], read: Callable[[Item], Event]) -> Answers[Item]:
        """Keep the events that ``read`` finds in items; what it raises ``BadEventError`` for, or is reused, is refused.

        It is as with ``take`` otherwise.
        """
        events: list[Event] = []
        readable: list[Item] = []
        refused: list[tuple[Item, str]] = []
        for item in items:
            try:
                events.append(read(item))
                readable.append(item)
            except BadEventError as error:
                refused.append((item, str(error)))
        answers = await self.take(events)
        refused += [(item, REUSED) for item, answer in zip(readable, answers, strict=True) if answer is None]
        return Answers([answer for answer in answers if answer], refused)

    def _in_calls(self, events: Sequence[Event], positions: Iterable[int]) -> Iterator[list[int]]:
        """As many events at once as one gathering has a place for."""
        some: list[int] = []
        records = 0
        for at in positions:
            count = len(events[at].customer_ids)
            if some and records + count > self.gatherings.size:
                yield some
                some, records = [], 0
            some.append(at)
            records += count
        if some:
            yield some

    async def close_forever(self) -> None:
        """Make batches of what is due, again and again; what fails stays as it is, and its turn comes again."""
        trouble = Trouble("gathering of events")
        while True:
            with trouble:
                await self.close_due()
                trouble.over()
            await asyncio.sleep(EVERY)

    async def close_due(self) -> None:
        """Make batches of what is due now."""
        while gathering := await self.gatherings.claim():
            await self._make_batch(gathering)

    async def _make_batch(self, gathering: Gathering) -> None:
        try:
            batch = await self._submitted(gathering)
        except ExpungeError as error:
            log.error("events were not made a batch", gathering=gathering.id, error=str(error))
            return
        if batch is None:
            log.warning("events left: somebody else has just made a batch of them", gathering=gathering.id)
            return
        await self.gatherings.remove(gathering)
        log.info("events became a batch", batch=batch, gathering=gathering.id, records=gathering.records)

    async def _submitted(self, gathering: Gathering) -> str | None:
        """The batch that it is now; ``None`` if its records are not all there any more."""
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(_lines([COLUMNS]).encode())
            async for lines in self.gatherings.lines(gathering):
                file.write(b"".join(lines))
            source = Source.of(cast("BinaryIO", file), f"events {gathering.id}", _LARGEST)
            with CsvFile.open(source, rule=self._rules.ids, max_rows=gathering.records) as csv_file:
                inspection = await asyncio.to_thread(csv_file.inspect)
                if inspection.rows != gathering.records:
                    return None
                return await self._submit(csv_file, gathering)

    async def _submit(self, csv_file: CsvFile, gathering: Gathering) -> str:
        description = describe(
            csv_file.inspect(),
            self._rules,
            lane=gathering.lane,
            due=gathering.due,
            keep=COLUMNS,
        )
        mine = signed(replace(description, reference=references.of_events(gathering.id)), EVENTS)
        taken = await take_in(self._batches, self._holds, self._feeder, csv_file, mine, again=True)
        return taken.batch.id


def gathering_of(batch: Batch) -> str | None:
    """The gathering that became this batch, if one did."""
    if batch.description.submitted_by != EVENTS or batch.description.reference is None:
        return None
    return batch.description.reference.removeprefix(references.of_events(""))


def _by_lane(events: Sequence[Event]) -> Mapping[Lane, list[int]]:
    """Positions by lane, the urgent ones first."""
    lanes: dict[Lane, list[int]] = {lane: [] for lane in Lane}
    for at, event in enumerate(events):
        lanes[event.lane].append(at)
    return lanes


def _asked(event: Event) -> Asked:
    due = f"{event.due.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if event.due else ""
    also = (event.reference or "", due, event.source, event.id)
    lines = _lines((customer_id, *also) for customer_id in event.customer_ids)
    moment = event.due.timestamp() if event.due else None
    return Asked(event.source, event.id, event.customer_ids, moment, lines)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
