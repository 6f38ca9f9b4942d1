"""Tells callback addresses what becomes of batches: in order for each, at least once, over hours if need be.

The audit trail is the list of what is to be told: it is written in the same step as the deed, so nothing is lost if a
process dies between the deed and the telling. How far an address has been told is kept in the store, and written after
it took an event: a process that dies in between leaves it to another to tell the same event, by the same ID, again.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import structlog

from worker.callbacks.client import Answer, Poster
from worker.callbacks.message import Message, Signer, envelope
from worker.domain.audit import Deed, Entry
from worker.domain.batches import Batch, BatchState, Target
from worker.domain.callbacks import Callback, Schedule, Standing
from worker.domain.retry_after import retry_after_seconds
from worker.pipeline.duties import Trouble
from worker.reports.columns import rfc3339
from worker.store.audit import Audit
from worker.store.batches import Batches
from worker.store.callbacks import Callbacks, Turn

EVERY = 1.0
"""Seconds between two looks at the audit trail by who tells an address."""
_OTHERS = 5.0  # seconds between two looks whether that one is gone
_AT_ONCE = 100  # entries
_LOOK = 0.1

log = structlog.get_logger(__name__)


class News(StrEnum):
    """What is told; the types of the events."""

    PLANNED = "batch.planned"
    AWAITING_APPROVAL = "batch.awaiting_approval"
    PAUSED = "batch.paused"
    RESUMED = "batch.resumed"
    COMPLETED = "batch.completed"
    CANCELLED = "batch.cancelled"


_OF_DEED: Mapping[Deed, tuple[News, BatchState]] = {
    Deed.APPROVED: (News.RESUMED, BatchState.RUNNING),
    Deed.PAUSED: (News.PAUSED, BatchState.PAUSED),
    Deed.RESUMED: (News.RESUMED, BatchState.RUNNING),
    Deed.COMPLETED: (News.COMPLETED, BatchState.COMPLETED),
    Deed.CANCELLED: (News.CANCELLED, BatchState.CANCELLED),
}


def news_of(entry: Entry) -> Sequence[tuple[News, BatchState]]:
    """What an entry of the audit trail is told as, in this order, and how the batch stood after the deed."""
    if entry.deed is Deed.SUBMITTED:
        state = BatchState(entry.detail["state"])
        planned = [(News.PLANNED, state)]
        return [*planned, (News.AWAITING_APPROVAL, state)] if state is BatchState.AWAITING_APPROVAL else planned
    return [_OF_DEED[entry.deed]] if entry.deed in _OF_DEED else []


def told_of(entry: Entry, state: BatchState, batch: Batch) -> dict[str, Any]:
    """The data of an event: no customer, file, reference or name of a person is in it."""
    return {
        "batch": batch.id,
        "deed": entry.deed.value,
        "at": rfc3339(entry.at),
        "state": state.value,
        "state_reason": entry.detail.get("reason") if state is BatchState.PAUSED else None,
        "environment": batch.description.target.environment.value,
        "merchant": batch.description.target.merchant,
        "rows": batch.description.rows,
        "tally": batch.tally.by_outcome(),
    }


@dataclass(frozen=True, slots=True)
class _Next:
    """The event that an address is to be told next."""

    position: str
    entry: Entry
    news: News
    message: Message
    last: bool
    """Whether it is the last one of its entry."""


class Teller:
    """Tells the addresses of one target. Every worker process has one, and one of them has the turn for an address."""

    def __init__(
        self,
        store: Callbacks,
        audit: Audit,
        batches: Batches,
        target: Target,
        poster: Poster,
        signer: Signer,
        callbacks: Collection[Callback],
        schedule: Schedule = Schedule(),  # noqa: B008 - a frozen value
    ) -> None:
        self._store, self._audit, self._batches = store, audit, batches
        self._target, self._callbacks, self._schedule = target, callbacks, schedule
        self._poster, self._signer = poster, signer
        self._name = secrets.token_hex(8)

    async def tell_forever(self) -> None:
        """Run in every worker process, apart from all that deletes."""
        await asyncio.gather(*map(self._tell_one_forever, self._callbacks))

    async def _tell_one_forever(self, callback: Callback) -> None:
        """Each address on its own, so that none waits for another."""
        trouble = Trouble("callback", host=callback.host)
        again = True
        while True:
            pause = _OTHERS
            with trouble:
                pause = await self.look(callback, again=again)
                again = False
                trouble.over()
            await asyncio.sleep(pause)

    async def leave(self) -> None:
        """After ``tell_forever`` was cancelled: let other processes go on at once; raises ``RedisError``."""
        for callback in self._callbacks:
            await self._store.leave(callback, self._name)

    async def look(self, callback: Callback, *, again: bool = False) -> float:
        """Tell the next event if there is one and it is ours to tell; returns the seconds until the next look.

        ``again``: also if the address wanted no more. Raises ``RedisError``.
        """
        turn = await self._store.turn(callback, self._name, again=again)
        if turn is None or turn.standing.stopped:
            return _OTHERS
        if turn.standing.next_at > turn.now:
            return min(turn.standing.next_at - turn.now, _OTHERS)
        standing, found = await self._find(turn.standing)
        if found is None:
            if standing == turn.standing:
                return EVERY
            await self._store.keep(callback, self._name, standing)
            return 0.0  # there may be more
        await self._tell(callback, Turn(turn.now, standing), found)
        return 0.0

    async def _find(self, standing: Standing) -> tuple[Standing, _Next | None]:
        """The next event; entries that are not told are passed over."""
        for position, entry in await self._audit.since(standing.position, _AT_ONCE):
            news = news_of(entry)[standing.part :]
            batch = await self._ours(entry) if news else None
            if batch is not None:
                return standing, self._next(position, entry, batch, standing.part)
            standing = standing.beyond(position)
        return standing, None

    async def _ours(self, entry: Entry) -> Batch | None:
        """The entry's batch, if it is of our target and has not expired."""
        batch = await self._batches.get(entry.batch_id) if entry.batch_id else None
        return batch if batch is not None and batch.description.target == self._target else None

    def _next(self, position: str, entry: Entry, batch: Batch, part: int) -> _Next:
        every = news_of(entry)
        news, state = every[part]
        name = f"{batch.id}-{position}" + (f"-{part}" if part else "")
        message = envelope(name, news.value, self._target, entry.at, told_of(entry, state, batch), batch.id)
        return _Next(position, entry, news, message, last=part == len(every) - 1)

    async def _tell(self, callback: Callback, turn: Turn, event: _Next) -> None:
        began = time.monotonic()
        answer = await self._poster.post(callback, self._signer.sign(event.message, time.time()))
        now = turn.now + time.monotonic() - began
        if answer.taken:
            await self._store.keep(callback, self._name, turn.standing.taken(event.position, last=event.last))
            return
        standing, why = self._after(turn.standing, event, answer, now)
        untold = None
        if why:
            detail = {"event": event.news.value, "host": callback.host, "why": why}
            untold = (event.entry.batch_id or "", detail)
        tell = log.error if why else log.warning
        tell("callback not taken", host=callback.host, id=event.message.id, problem=answer.problem, then=why or "again")
        await self._store.keep(callback, self._name, standing, untold)

    def _after(self, standing: Standing, event: _Next, answer: Answer, now: float) -> tuple[Standing, str]:
        """How it stands after an event was not taken, and why that one is not tried again, if it is not."""
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries
        wait = retry_after_seconds(answer.retry_after, now)
        later = standing.not_taken(self._schedule, now, wait, jitter, answer.problem)
        if answer.gone:
            return replace(later, stopped=True), "gone"
        if standing.is_hopeless(self._schedule, event.entry.at, now):
            soon = now + self._schedule.delay(1, None, jitter)
            return later.given_up(event.position, soon, last=event.last), "given_up"
        return later, ""


async def begin(store: Callbacks, callbacks: Collection[Callback]) -> None:
    """Before anything is done that new addresses shall be told too."""
    for callback in callbacks:
        await store.begin(callback)


async def untold(store: Callbacks, audit: Audit, callbacks: Collection[Callback], batch_id: str) -> Sequence[str]:
    """The hosts of those that are still to be told of a batch. Once it is gone, they are not: it is passed over."""
    hosts = []
    for callback in callbacks:
        standing = await store.standing(callback)
        position = standing.position if standing is not None and not standing.stopped else None
        if position is not None and await _has_news(audit, position, batch_id):
            hosts.append(callback.host)
    return hosts


async def _has_news(audit: Audit, position: str, batch_id: str) -> bool:
    while some := await audit.since(position):
        if any(entry.batch_id == batch_id and news_of(entry) for _, entry in some):
            return True
        position = some[-1][0]
    return False


async def caught_up(
    store: Callbacks, callbacks: Collection[Callback], patience: float, going_on: Callable[[], bool]
) -> Sequence[Callback]:
    """Wait until all are told, for ``patience`` seconds at most; returns those that are not.

    Those that are tried again later are not waited for.
    """
    until = time.monotonic() + patience
    while True:
        behind = [callback for callback in callbacks if await store.is_behind(callback)]
        standings = [await store.standing(callback) for callback in behind]
        hopeful = any(standing is None or not standing.failures for standing in standings)
        if not behind or not hopeful or not going_on() or time.monotonic() >= until:
            return behind
        await asyncio.sleep(_LOOK)
