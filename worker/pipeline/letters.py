"""Looks after events that could not be taken (SPEC 8): takes them in once more, as after a pattern was mended."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.domain.events import BadEventError, Event
from worker.intake.stream_entry import EntryReader, restored
from worker.pipeline.gather import Gatherer
from worker.pipeline.listen import WAY
from worker.store.dead_letters import DeadLetter, DeadLetters

Letters = Sequence[tuple[str, DeadLetter]]


@dataclass(frozen=True, slots=True)
class TakenAgain:
    """What became of letters."""

    taken: int
    left: Sequence[tuple[str, str]]
    """ID and reason of those that cannot be taken still."""


async def take_again(letters: DeadLetters, gatherer: Gatherer, reader: EntryReader, some: Letters) -> TakenAgain:
    """Take letters in as the events that they are; those that were taken are letters no more. May be repeated."""
    taken, refused = await gatherer.take_each(some, lambda each: _event(reader, each[1]))
    left = {letter_id: reason for (letter_id, _), reason in refused}
    await letters.taken([letter_id for letter_id, _ in some if letter_id not in left])
    return TakenAgain(len(taken), list(left.items()))


def _event(reader: EntryReader, letter: DeadLetter) -> Event:
    if letter.way != WAY:
        raise BadEventError(f"it came by {letter.way}; only events of a stream can be taken in again here")
    if not letter.content:
        raise BadEventError("its content was not kept; ask whoever sent it to send it again")
    stream, _, entry_id = letter.place.rpartition(" ")
    return reader.read(stream, entry_id, restored(letter.content))
