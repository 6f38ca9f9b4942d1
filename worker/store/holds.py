"""Holds in Redis, by the customer IDs themselves (docs/decisions/0012).

One hash a merchant and environment, from ID to term; a sorted set of those that end by themselves, so that each script
lets go of what has ended; and a version, which changes whenever a customer may have come on hold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import orjson
from redis.asyncio import Redis

from worker.domain.batches import Target
from worker.domain.holds import Hold, Term
from worker.store import keys
from worker.store.scripts import Script


class Held(NamedTuple):
    """Which of the customers asked for are on hold."""

    version: str
    """Of all holds of the target, at that moment."""
    grounds: dict[int, str]
    """By position among those asked for."""


class Overlaps(NamedTuple):
    """Other holds on customers who were to be held."""

    many: int
    first: dict[int, Term]
    """A few of them, by position."""


class Holds:
    """The holds of one target's merchant and environment, whichever upstream it has.

    With ``replicas``, a change is done only when that many replicas have acknowledged it.
    """

    def __init__(self, redis: Redis, target: Target, replicas: int = 0) -> None:
        self._redis = redis
        self._keys = [keys.holds(target), keys.hold_ends(target), keys.holds_version(target)]
        self._of = [target.environment.value, target.merchant]
        self._hold, self._unhold = (Script(redis, name, replicas) for name in ("hold", "unhold"))
        self._held = Script(redis, "held")

    @property
    def version_key(self) -> str:
        """Of the version that ``lookup`` tells."""
        return self._keys[2]

    async def add(
        self, customer_ids: Sequence[str], term: Term | Sequence[Term], *, replace: bool, actor: str | None = None
    ) -> int | Overlaps:
        """Hold all of them by one term or each by its own, or, if any is on hold by another, none unless ``replace``.

        Returns how many holds are new or changed, or what stands in the way. Safe to repeat. The audit trail has who
        did it, the ``actor``, and how many; ``None`` is somebody without a name.
        """
        terms = [term] * len(customer_ids) if isinstance(term, Term) else term
        number = {each: at for at, each in enumerate(dict.fromkeys(terms), 1)}
        said = [(str(int((each.until or 0) * 1000)), each.ground) for each in number]
        which = [number[each] for each in terms]
        answer, *rest = await self._hold(
            keys=self._keys,
            args=[int(replace), *map(orjson.dumps, (customer_ids, said, which)), actor or "", *self._of],
        )
        if answer == b"ok":
            return int(rest[0])
        count, *flat = rest
        return Overlaps(count, {at: _unpack(value)[0] for at, value in zip(flat[::2], flat[1::2], strict=True)})

    async def remove(self, customer_ids: Sequence[str], actor: str | None = None) -> list[int]:
        """Release all of them, or none if any is not on hold; returns the positions of those."""
        unknown: list[int] = await self._unhold(
            keys=self._keys[:2], args=[orjson.dumps(customer_ids), actor or "", *self._of]
        )
        return unknown

    async def lookup(self, customer_ids: Sequence[str]) -> Held:
        """Who of them is on hold, and the version of which that is true."""
        version, *flat = await self._held(keys=self._keys, args=[orjson.dumps(customer_ids)])
        return Held(
            version.decode(),
            {position: ground.decode() for position, ground in zip(flat[::2], flat[1::2], strict=True)},
        )

    async def all(self) -> list[Hold]:
        """Every hold, those first that stand longest."""
        await self.lookup([])  # lets go of what has ended
        found: list[Hold] = []
        async for customer_id, value in self._redis.hscan_iter(self._keys[0], count=1000):
            term, since = _unpack(value)
            found.append(Hold(customer_id.decode(), term, since))
        return sorted(set(found), key=lambda hold: (hold.since, hold.customer_id))

    async def any(self) -> bool:
        """Whether there may be holds."""
        return bool(await self._redis.exists(self._keys[0]))


def _unpack(value: bytes) -> tuple[Term, float]:
    """What ``hold.lua`` wrote: its end or 0 and its beginning, in milliseconds, and the ground."""
    until, since, ground = value.decode().split(" ", 2)
    return Term(ground, int(until) / 1000 or None), int(since) / 1000
