"""The queue that producers of events send Celery messages to: looked at first, emptied after (docs/decisions/0013)."""

from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from worker.domain.batches import Target
from worker.store import keys
from worker.store.scripts import Script

LARGEST = 4 << 20
"""Bytes of a message that is read: twice what the largest event takes."""
_MOST = 500  # messages at once
_BYTES = 1 << 20  # after which no more is read at once
_TURN_MS = 400


class Queued(NamedTuple):
    """A message as it lies in the queue."""

    sha1: bytes
    """Hex; what it is taken off by."""
    content: bytes | None
    """``None`` if it has more than ``LARGEST`` bytes."""


class EventQueue:
    """The lists of one queue; any number of processes may read them side by side."""

    def __init__(self, broker: Redis, lists: Sequence[str], target: Target) -> None:
        self._broker = broker
        self._lists = list(lists)
        self._reader = keys.event_reader(target)
        self._peek = Script(broker, "peek")
        self._unqueue = Script(broker, "unqueue")

    async def take_turn(self) -> bool:
        """Whether this process is the one that reads now: two would do no harm, but the same work."""
        return bool(await self._broker.set(self._reader, b"", nx=True, px=_TURN_MS))

    async def keep_turn(self) -> None:
        """Go on reading."""
        await self._broker.set(self._reader, b"", px=_TURN_MS)

    async def oldest(self) -> list[Queued]:
        """Some that wait, which stay where they are."""
        flat = await self._peek(keys=self._lists, args=[_MOST, _BYTES, LARGEST])
        return [Queued(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]

    async def remove(self, messages: Sequence[Queued]) -> None:
        """Take these off the queue; what is gone already is no matter."""
        await self._unqueue(keys=self._lists, args=[_MOST, *(message.sha1 for message in messages)])
