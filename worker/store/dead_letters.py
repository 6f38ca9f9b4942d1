"""Events that can never be taken, and nobody was there to be told: kept with the reason (SPEC 8)."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from worker.domain.batches import Target
from worker.store import keys
from worker.store.scripts import Script

LARGEST = 256 << 10
"""Bytes of an event that are kept; of a larger one nothing is."""
_MOST = 100_000  # letters; what is beyond pushes out the oldest
_DAY_MS = 86_400_000


class DeadLetter(NamedTuple):
    """An event as it came, and why it was not taken."""

    way: str
    """``stream`` or ``celery``."""
    place: str
    """The stream or queue that it came from, and what names it there."""
    reason: str
    """One line; shows no customer."""
    content: bytes
    """May hold personal data."""


Listed: TypeAlias = list[tuple[str, DeadLetter]]
"""Letters, each with its ID."""


class DeadLetters:
    """Those of one merchant and environment; each is kept for ``days`` at most."""

    def __init__(self, redis: Redis, target: Target, days: int) -> None:
        self._redis = redis
        self._target = target
        self._drop = Script(redis, "drop_letters")
        self._key = keys.dead_letters(target)
        self._days = days

    async def add_to(self, pipe: Pipeline, letters: Sequence[DeadLetter]) -> None:
        """Put letters into a transaction, which also takes the events from where they came."""
        if not letters:
            return
        now = int((await self._redis.time())[0]) * 1000
        for letter in letters:
            content = letter.content if len(letter.content) <= LARGEST else b""
            fields = {"way": letter.way, "place": letter.place, "reason": letter.reason, "content": content}
            pipe.xadd(self._key, fields, maxlen=_MOST, approximate=True)  # type: ignore[arg-type]
        pipe.xtrim(self._key, minid=now - self._days * _DAY_MS)
        pipe.expire(self._key, self._days * 86_400)

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters; after an error some may be kept, and it may be asked again."""
        pipe = self._redis.pipeline(transaction=True)
        await self.add_to(pipe, letters)
        await pipe.execute()

    async def list(self, count: int, after: str = "") -> Listed:
        """The oldest, or the oldest behind one, each with its ID, which begins with its time in milliseconds."""
        return await self._range(f"({after}" if after else "-", "+", count)

    async def find(self, letter_id: str) -> DeadLetter | None:
        """One letter, if it is there."""
        found = await self._range(letter_id, letter_id, 1)
        return found[0][1] if found else None

    async def _range(self, first: str, last: str, count: int) -> Listed:
        found: list[tuple[bytes, dict[bytes, bytes]]] = await self._redis.xrange(  # type: ignore[assignment]
            self._key, first, last, count=count
        )
        return [(raw_id.decode(), _to_letter(fields)) for raw_id, fields in found]

    async def taken(self, letter_ids: Sequence[str]) -> None:
        """Forget letters whose events were taken after all."""
        if letter_ids:
            await self._redis.xdel(self._key, *letter_ids)

    async def drop(self, letter_ids: Sequence[str], actor: str | None) -> int:
        """Forget letters, the oldest first, whose events will not be taken: somebody decided so, which is noted.

        Returns how many there were.
        """
        if not letter_ids:
            return 0
        of = [self._target.environment.value, self._target.merchant]
        return int(await self._drop(keys=[self._key], args=[actor or "", *of, *letter_ids]))


def _to_letter(fields: dict[bytes, bytes]) -> DeadLetter:
    way, place, reason = (fields[name].decode() for name in (b"way", b"place", b"reason"))
    return DeadLetter(way, place, reason, fields[b"content"])
