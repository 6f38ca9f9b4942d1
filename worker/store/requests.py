"""What became of requests that carry a key of their caller's, so that the same one twice is done once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import orjson
from redis.asyncio import Redis

from worker.store import keys

IN_WORK = 900
"""Seconds that a request may be in work; one whose process died can be sent again after it."""
KEPT = 86_400
"""Seconds that an answer is kept."""


class NotBegun(Enum):
    """Why a request is not to be carried out."""

    IN_WORK = auto()
    ANOTHER = auto()
    """The key was used for a request of other content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    location: str
    """Of what was made; empty if nothing was."""
    body: dict[str, Any]
    batches: Sequence[str] = ()
    """The IDs of those that it tells of; it is not kept longer than they are."""


class Requests:
    """Keeps keys and answers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, owner: str, key: str, content: str) -> Answer | NotBegun | None:
        """``None``: carry it out, then ``keep`` or ``drop``. ``content`` stands for all that the request says."""
        name = _key(owner, key)
        if await self._redis.set(name, orjson.dumps({"content": content}), nx=True, ex=IN_WORK):
            return None
        raw: bytes | None = await self._redis.get(name)  # type: ignore[assignment]
        if raw is None:  # it expired in between
            return NotBegun.IN_WORK
        known = orjson.loads(raw)
        if known["content"] != content:
            return NotBegun.ANOTHER
        return Answer(**known["answer"]) if "answer" in known else NotBegun.IN_WORK

    async def keep(self, owner: str, key: str, content: str, answer: Answer) -> None:
        """From now on the same request gets the same answer."""
        name = _key(owner, key)
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(name, orjson.dumps({"content": content, "answer": answer}), ex=KEPT)
        for batch_id in answer.batches:
            pipe.sadd(keys.of_batch(batch_id, "requests"), name)
            pipe.expire(keys.of_batch(batch_id, "requests"), KEPT)
        await pipe.execute()

    async def drop(self, owner: str, key: str) -> None:
        """Nothing was done, so the key is free again."""
        await self._redis.delete(_key(owner, key))


def _key(owner: str, key: str) -> str:
    return keys.REQUEST + hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()
