"""A Redis Stream that others write and a consumer group reads (SPEC 8): what is read is ours until it is done."""

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.domain.errors import UsageError
from worker.store.dead_letters import DeadLetter, DeadLetters
from worker.store.scripts import Script

FIRST: Final = "0-0"
"""Where a look for what others left begins, and what it has when it has seen all."""
_AT_ONCE = 500
_BLOCK = 1_000  # milliseconds; must be below the client's patience for an answer
_FORGET = 10  # times the time after which a consumer's entries are claimed
_OURS = "expunge:"
_GONE = ("NOGROUP", "no such key", "UNBLOCKED", "no longer exists")


class GroupGoneError(Exception):
    """The stream or its group is not there any more, as when somebody deleted it."""


class NoStreamError(UsageError):
    """The key holds something else than a stream."""


class StreamEntry(NamedTuple):
    """What somebody put into the stream."""

    id: str
    fields: Sequence[bytes] | None
    """Name, value, name, value, as they came; ``None`` if it was deleted from the stream meanwhile."""


class Claimed(NamedTuple):
    """What one look for entries that others left has found."""

    next: str
    """Where the next look begins; ``FIRST`` when there is no more."""
    entries: Sequence[StreamEntry]
    """At most one, ours now; and those that were deleted."""


class EventStream:
    """One stream as one consumer of one group sees it.

    All may raise ``RedisError``, ``GroupGoneError`` and ``NoStreamError``.
    """

    def __init__(
        self, redis: Redis, name: str, group: str, letters: DeadLetters, claim_after: float, *, delete: bool
    ) -> None:
        """``claim_after``: seconds without a word after which a consumer's entries are given to another one.

        ``delete``: what is done is taken out of the stream.
        """
        # redis-py makes a dict of an entry's fields, and so loses one that is given twice.
        for command in ("XREADGROUP", "XAUTOCLAIM"):
            redis.set_response_callback(command, _as_it_came)  # type: ignore[arg-type]
        self._redis = redis
        self.name = name
        self._group = group
        self._letters = letters
        self._claim_after = int(claim_after * 1000)
        self._delete = delete
        self.consumer = f"{_OURS}{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._drop = Script(redis, "drop_consumers")
        self._done = Script(redis, "done_entries")

    async def create(self) -> bool:
        """Make the group, and with it the stream; it begins with the stream's first entry. ``False``: it is there."""
        with self._readable():
            try:
                await self._redis.xgroup_create(self.name, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
                return False
        return True

    async def read(self) -> list[StreamEntry]:
        """The next entries, which nobody of the group has had; waits for a second if there are none."""
        with self._readable():
            answer = await self._ask(
                "XREADGROUP", "GROUP", self._group, self.consumer, "COUNT", _AT_ONCE, "BLOCK", _BLOCK,
                "STREAMS", self.name, ">",
            )  # fmt: skip
        if not answer:
            return []
        ((_, found),) = answer.items() if isinstance(answer, dict) else answer
        return [StreamEntry(raw.decode(), fields) for raw, fields in found]

    async def claim(self, start: str) -> Claimed:
        """One entry that a consumer has had for too long, whoever it was, ourselves included."""
        with self._readable():
            following, found, deleted = await self._ask(
                "XAUTOCLAIM", self.name, self._group, self.consumer, self._claim_after, start, "COUNT", 1
            )
        entries = [StreamEntry(each[0].decode(), each[1]) for each in found if each]
        return Claimed(following.decode(), entries + [StreamEntry(raw.decode(), None) for raw in deleted])

    async def deliveries(self, entry_id: str) -> int:
        """How often an entry was given to somebody who did not say that it is done."""
        with self._readable():
            found: list[dict[str, Any]] = await self._redis.xpending_range(
                self.name, self._group, entry_id, entry_id, 1
            )
        return int(found[0]["times_delivered"]) if found else 0

    async def done(self, entry_ids: Sequence[str], letters: Sequence[DeadLetter]) -> None:
        """Acknowledge entries, and keep in the same step what of them can never be taken."""
        if not entry_ids:
            return
        with self._readable():
            args: list[str | int | bytes | float] = [self._group, int(self._delete), " ".join(entry_ids)]
            if not letters:
                await self._done(keys=[self.name], args=args)
                return
            async with self._redis.pipeline(transaction=True) as pipe:
                await self._letters.add_to(pipe, letters)
                await self._done.add_to(pipe, keys=[self.name], args=args)
                await pipe.execute()

    async def waiting(self) -> int | None:
        """How many entries nobody of the group has had yet; ``None`` if Redis cannot tell."""
        with self._readable():
            groups: list[dict[str, Any]] = await self._redis.xinfo_groups(self.name)
        return next((cast("int | None", each["lag"]) for each in groups if each["name"] == self._group.encode()), None)

    async def forget_the_gone(self) -> int:
        """Take out consumers of ours that died with nothing in hand; returns how many."""
        with self._readable():
            return int(await self._drop(keys=[self.name], args=[self._group, _OURS, _FORGET * self._claim_after]))

    async def leave(self) -> None:
        """Take this consumer out; if it has something in hand it stays, and another one gets that."""
        with self._readable():
            await self._drop(keys=[self.name], args=[self._group, self.consumer, 0])

    async def _ask(self, *command: str | int) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            if any(words in str(error) for words in _GONE):
                raise GroupGoneError from None
            if "WRONGTYPE" in str(error):
                raise NoStreamError(f"--stream: the key '{self.name}' holds something else than a stream") from None
            raise


def _as_it_came(answer: Any, **_: Any) -> Any:
    return answer
