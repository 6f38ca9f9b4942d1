"""Takes in what Celery producers ask for (SPEC 8): a message leaves its queue when what it says is persisted.

Celery's own way of consuming would lose the message of a worker that dies between taking it and noting that it did
(docs/decisions/0013). Here it is looked at, kept, and only then removed; read twice, it counts once.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from kombu.utils import json

from worker.domain.events import BadEventError, Event
from worker.intake.celery_message import CeleryReader, shown_id
from worker.pipeline.duties import Trouble
from worker.pipeline.gather import Gatherer
from worker.store.dead_letters import DeadLetter, DeadLetters
from worker.store.event_queue import LARGEST, EventQueue, Queued

EVERY: Final = 0.5
"""Seconds between two looks at an empty queue."""
_PATIENCE: Final = 5.0  # seconds after a round that failed

log = structlog.get_logger(__name__)


class CeleryEvents:
    """Reads the queue of events of one merchant and environment."""

    def __init__(
        self, queue: EventQueue, name: str, reader: CeleryReader, gatherer: Gatherer, dead_letters: DeadLetters
    ) -> None:
        """``name`` is the queue's."""
        self._queue = queue
        self._name = name
        self._reader = reader
        self._gatherer = gatherer
        self._dead_letters = dead_letters

    async def take_forever(self) -> None:
        """Run in every worker process; one of them reads at a time."""
        asking, taking = Trouble("reader of Celery producers' events"), Trouble("taking of Celery producers' events")
        while True:
            pause = _PATIENCE
            with asking:
                mine = await self._queue.take_turn()
                asking.over()
                pause = await self._round(taking) if mine else EVERY
            await asyncio.sleep(pause)

    async def _round(self, taking: Trouble) -> float:
        with taking:  # an ACL without the queue's keys is met here, by whoever has the turn
            await self.take_waiting()
            taking.over()
            return EVERY
        return _PATIENCE

    async def take_waiting(self) -> None:
        """Take all that wait, until none does. After a ``RedisError``, what was not taken waits still."""
        while messages := await self._queue.oldest():
            await self._take(messages)
            await self._queue.remove(messages)
            await self._queue.keep_turn()

    async def take_call(self, task_id: str | None, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Take a call of the task that came to a worker through Celery itself."""
        _, refused = await self._gatherer.take_each([task_id], lambda _: self._reader.call(task_id, args, kwargs))
        for _, reason in refused:
            content = json.dumps({"id": task_id, "args": args, "kwargs": kwargs}).encode()
            await self._bury([DeadLetter("celery", f"task {shown_id(task_id) or '?'}", reason, content)])

    async def _take(self, messages: Sequence[Queued]) -> None:
        now = datetime.now(UTC)
        _, refused = await self._gatherer.take_each(messages, lambda message: self._read(message, now))
        await self._bury([self._letter(message, reason) for message, reason in refused])

    def _letter(self, message: Queued, reason: str) -> DeadLetter:
        task_id = self._reader.task_of(message.content or b"")
        named = f"task {task_id}" if task_id else f"sha1 {message.sha1.decode()}"
        return DeadLetter("celery", f"{self._name} {named}", reason, message.content or b"")

    def _read(self, message: Queued, now: datetime) -> Event:
        if message.content is None:
            raise BadEventError(f"it is larger than {LARGEST >> 20} MiB")
        return self._reader.message(message.content, now)

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        await self._dead_letters.add(letters)
        for letter in letters:  # its ID is the sender's to choose, and may say anything
            log.warning("event refused", way=letter.way, reason=letter.reason)
