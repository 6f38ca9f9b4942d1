"""Batches that are followed: each is looked at once a second, however many follow it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import orjson
from fastapi.sse import format_sse_event
from redis.exceptions import RedisError

from worker.domain.batches import Batch
from worker.reports.as_json import status_json
from worker.settings import Settings
from worker.store.shards import Presence
from worker.wiring import Store

EVERY = 1.0
"""Seconds between two looks at a batch."""
LONGEST = 600.0
"""Seconds until a stream ends and its reader must ask anew, and show again who it is."""
_QUIET = 15.0  # seconds after which an empty line shows that the stream lives
_ALIVE = b": \n\n"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a batch stood, ready to be sent."""

    id: str
    """The same whenever it stands so."""
    event: bytes
    ended: bool


async def snapshot(store: Store, settings: Settings, batch: Batch) -> Snapshot:
    """How a batch stands now; raises ``RedisError``."""
    workers = await Presence(store.redis, batch.description.target).count()
    data = orjson.dumps(status_json(batch, workers, settings.rate_limit.sustained, time.time()))
    name = hashlib.sha256(data).hexdigest()[:16]
    event = format_sse_event(data_str=data.decode(), event="batch", id=name)
    return Snapshot(name, event, batch.ended_at is not None)


class _Watch:
    """One batch, and who follows it."""

    def __init__(self, first: Snapshot) -> None:
        self.latest = first
        self.changed = asyncio.Event()
        self.gone = False
        self.followers = 0
        self.task: asyncio.Task[None] | None = None

    def show(self, now: Snapshot) -> None:
        if now.id != self.latest.id:
            self.latest = now
            self._wake()

    def end(self) -> None:
        """There is no such batch any more."""
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """Looks at the batches that somebody follows, and tells them; use it in a ``with`` statement."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._watches: dict[str, _Watch] = {}
        self._tasks = set[asyncio.Task[None]]()  # those of forgotten watches, too, until they have ended
        self._closing = asyncio.Event()

    @property
    def followers(self) -> int:
        """How many streams are open."""
        return sum(watch.followers for watch in self._watches.values())

    async def follow(self, batch: Batch, seen: str | None) -> AsyncIterator[bytes]:
        """Events until the batch ends, for ten minutes at most; ``seen`` is the ID of the last one received."""
        first = await snapshot(self._store, self._settings, batch)
        watch = self._watches.setdefault(batch.id, _Watch(first))
        if watch.task is None:
            watch.task = asyncio.create_task(self._look(batch.id, watch))
            self._tasks.add(watch.task)
            watch.task.add_done_callback(self._tasks.discard)
        watch.followers += 1
        try:
            async for event in self._events(watch, seen):
                yield event
        finally:
            watch.followers -= 1
            if not watch.followers:
                self._forget(batch.id, watch)

    async def _events(self, watch: _Watch, seen: str | None) -> AsyncIterator[bytes]:
        until = time.monotonic() + LONGEST
        yield _ALIVE
        while not self._closing.is_set() and time.monotonic() < until:
            changed, now = watch.changed, watch.latest
            if now.id != seen:
                seen = now.id
                yield now.event
            if now.ended or watch.gone:
                return
            try:
                async with asyncio.timeout(_QUIET):
                    await changed.wait()
            except TimeoutError:
                yield _ALIVE

    async def _look(self, batch_id: str, watch: _Watch) -> None:
        while not watch.latest.ended:
            await asyncio.sleep(EVERY)
            try:
                batch = await self._store.batches.get(batch_id)
                if batch is None:  # it was purged, or expired
                    watch.end()
                    return
                watch.show(await snapshot(self._store, self._settings, batch))
            except RedisError:
                continue  # they see it as it stood until Redis is back

    def _forget(self, batch_id: str, watch: _Watch) -> None:
        if self._watches.get(batch_id) is watch:
            del self._watches[batch_id]
        if watch.task is not None:
            watch.task.cancel()

    def close(self) -> None:
        """End all streams: their readers ask again."""
        self._closing.set()
        for watch in self._watches.values():
            watch.changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for watch in self._watches.values():
            if watch.task is not None:
                watch.task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
