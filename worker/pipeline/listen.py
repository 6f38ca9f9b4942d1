"""Takes the entries of a Redis Stream (SPEC 8): first persisted, then acknowledged; what cannot be taken is kept apart.

Any number of processes may do so side by side. What one of them leaves when it dies is taken by another, entry by
entry, so that one which is itself the cause takes no other with it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from worker.domain.events import Event
from worker.intake.stream_entry import EntryReader, kept
from worker.logs import where
from worker.pipeline.gather import Gatherer
from worker.store.dead_letters import DeadLetter
from worker.store.streams import FIRST, EventStream, GroupGoneError, NoStreamError, StreamEntry

MOST_DELIVERIES = 5
"""Of one entry; if it is still not taken then, it is a dead letter."""
WAY = "stream"
"""What dead letters of streams have as their way."""
_PAUSE = 1.0  # seconds between two attempts while Redis is away

Problem: TypeAlias = RedisError | NoStreamError
"""What a listener waits for the end of."""

log = structlog.get_logger(__name__)


def kind_of(problem: Problem | None) -> type[Problem] | None:
    """Problems of one kind are told once."""
    if problem is None:
        return None
    return NoStreamError if isinstance(problem, NoStreamError) else RedisError


@dataclass
class Counts:
    """What became of entries since the listener began."""

    taken: int = 0
    repeated: int = 0
    """Taken before, on whichever way."""
    refused: int = 0
    """Now dead letters."""


class Listener:
    """Takes the entries of one stream."""

    def __init__(
        self,
        stream: EventStream,
        reader: EntryReader,
        gatherer: Gatherer,
        recover_every: float,
        tell: Callable[[Problem | None], None],
        counts: Counts | None = None,
    ) -> None:
        """``recover_every``: seconds between two looks for what others left.

        ``tell`` is called when Redis begins to fail, or the key to be no stream, and with ``None`` when all is well
        again. ``counts`` may be shared.
        """
        self._stream = stream
        self._reader = reader
        self._gatherer = gatherer
        self._recover_every = recover_every
        self._tell = tell
        self._in_hand: Sequence[StreamEntry] = []
        self._recover_at = 0.0
        self._failing: type[Problem] | None = None
        self._group_gone = False
        self.counts = counts or Counts()

    async def listen(self, stopping: asyncio.Event) -> None:
        """Take entries until it is asked to stop; what is in hand then is done first.

        Waits for Redis while that is away, and for the stream while its key holds something else. Raises ``RedisError``
        only if it refuses this user.
        """
        while not stopping.is_set():
            try:
                await self._step(stopping)
            except (NoPermissionError, AuthenticationError):
                raise
            except GroupGoneError:
                self._group_gone = True
            except (RedisError, NoStreamError) as error:
                self._note(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE):
                        await stopping.wait()
            else:
                self._note(None)
        with suppress(RedisError, GroupGoneError, NoStreamError):
            await self._stream.leave()

    def _note(self, error: Problem | None) -> None:
        if kind_of(error) is not self._failing:
            self._failing = kind_of(error)
            self._tell(error)

    async def _step(self, stopping: asyncio.Event) -> None:
        if self._group_gone:
            if await self._stream.create():
                log.warning("the stream's group was gone: it was made again, from the stream's first entry on")
            self._group_gone = False
        await self._take_in_hand()  # what an error of Redis left
        if time.monotonic() >= self._recover_at:
            await self._recover(stopping)
            self._recover_at = time.monotonic() + self._recover_every
        self._in_hand = await self._stream.read()
        await self._take_in_hand()

    async def _recover(self, stopping: asyncio.Event) -> None:
        """Take what consumers left that are dead, or have failed."""
        start = FIRST
        while not stopping.is_set():
            start, entries = await self._stream.claim(start)
            for entry in entries:
                await self._take_again(entry)
            if start == FIRST:
                break
        await self._stream.forget_the_gone()

    async def _take_again(self, entry: StreamEntry) -> None:
        if entry.fields is None:
            await self._refuse(entry, "it was deleted from the stream, and may not have been taken before")
        elif await self._stream.deliveries(entry.id) > MOST_DELIVERIES:
            await self._refuse(entry, f"it was delivered {MOST_DELIVERIES} times, and each time it was not taken")
        else:
            self._in_hand = [entry]
            await self._take_in_hand()

    async def _refuse(self, entry: StreamEntry, reason: str) -> None:
        await self._stream.done([entry.id], [self._letter(entry, reason)])
        self.counts.refused += 1

    async def _take_in_hand(self) -> None:
        if not self._in_hand:
            return
        try:
            await self._take(self._in_hand)
        except (RedisError, GroupGoneError, NoStreamError):
            raise
        except Exception as error:  # noqa: BLE001 - one entry must not end the listener, for it would come again
            log.error("entries were not taken; each comes again alone", entries=len(self._in_hand), error=where(error))
        self._in_hand = []

    async def _take(self, entries: Sequence[StreamEntry]) -> None:
        taken, refused = await self._gatherer.take_each(entries, self._read)
        letters = [self._letter(entry, reason) for entry, reason in refused]
        await self._stream.done([entry.id for entry in entries], letters)
        repeated = sum(each.known for each in taken)
        self.counts.taken += len(taken) - repeated
        self.counts.repeated += repeated
        self.counts.refused += len(letters)

    def _read(self, entry: StreamEntry) -> Event:
        return self._reader.read(self._stream.name, entry.id, entry.fields or [])

    def _letter(self, entry: StreamEntry, reason: str) -> DeadLetter:
        content = kept(entry.fields) if entry.fields else b""
        return DeadLetter(WAY, f"{self._stream.name} {entry.id}", reason, content)
