"""How far each callback address has been told of a target's batches, and whose turn it is to tell it."""

from collections.abc import Mapping
from typing import NamedTuple

from redis.asyncio import Redis

from worker.domain.batches import Target
from worker.domain.callbacks import Callback, Standing
from worker.store import keys
from worker.store.scripts import Script

TURN = 20.0
"""Seconds that it stays a process's turn, once it said so; twice as long as one try takes."""


class Turn(NamedTuple):
    """It is ours to tell an address."""

    now: float
    """Seconds since the epoch, by the store's clock."""
    standing: Standing


class Callbacks:
    """Keeps what survives processes of the callbacks of one target."""

    def __init__(self, redis: Redis, target: Target) -> None:
        self._redis = redis
        self._target = target
        self._turn = Script(redis, "callback_turn")
        self._told = Script(redis, "callback_told")

    async def begin(self, callback: Callback) -> None:
        """From now on what is done is told to it; one that has begun before goes on where it stands."""
        await self._turn(keys=[self._key(callback)], args=["", 0, ""])

    async def turn(self, callback: Callback, holder: str, *, again: bool = False) -> Turn | None:
        """Take the turn, or keep it, for ``TURN`` seconds; ``None`` if it is another's.

        ``again`` lets one be told again that wanted no more, whosever turn it is.
        """
        now, *flat = await self._turn(keys=[self._key(callback)], args=[holder, int(TURN * 1000), "1" if again else ""])
        return Turn(now / 1000, _to_standing(dict(zip(flat[::2], flat[1::2], strict=True)))) if flat else None

    async def leave(self, callback: Callback, holder: str) -> None:
        """Let another have the turn at once, if it is ours."""
        await self._turn(keys=[self._key(callback)], args=[holder, 0, ""])

    async def keep(
        self,
        callback: Callback,
        holder: str,
        standing: Standing,
        untold: tuple[str, Mapping[str, str]] | None = None,
    ) -> bool:
        """Write how it stands, unless another has the turn now; returns whether it was written.

        ``untold`` is what the audit trail notes in the same step of what is not told: the batch, and details.
        """
        fields = _to_fields(standing)
        args: list[str | int] = [holder, len(fields)]
        for name, value in fields.items():
            args += [name, value]
        if untold is not None:
            batch_id, detail = untold
            args.append(batch_id)
            for name, value in detail.items():
                args += [name, value]
        return bool(await self._told(keys=[self._key(callback)], args=args))

    async def standing(self, callback: Callback) -> Standing | None:
        """How it stands; ``None`` if it was never told anything and no worker has begun."""
        raw: dict[bytes, bytes] = await self._redis.hgetall(self._key(callback))  # type: ignore[assignment]
        return _to_standing(raw) if raw else None

    async def is_behind(self, callback: Callback) -> bool:
        """Whether the audit trail has entries with which it is not done yet."""
        standing = await self.standing(callback)
        last: list[tuple[bytes, object]] = await self._redis.xrevrange(keys.AUDIT, count=1)  # type: ignore[assignment]
        return bool(last) and (standing is None or standing.position != last[0][0].decode())

    def _key(self, callback: Callback) -> str:
        return keys.callback(self._target, callback.name)


def _to_fields(standing: Standing) -> dict[str, str | int]:
    return {
        "position": standing.position,
        "part": standing.part,
        "failures": standing.failures,
        "since": int((standing.since or 0) * 1000),
        "next_at": int(standing.next_at * 1000),
        "stopped": int(standing.stopped),
        "problem": standing.problem,
    }


def _to_standing(raw: Mapping[bytes, bytes]) -> Standing:
    def number(name: bytes) -> int:
        return int(raw.get(name) or 0)

    return Standing(
        position=raw[b"position"].decode(),
        part=number(b"part"),
        failures=number(b"failures"),
        since=number(b"since") / 1000 or None,
        next_at=number(b"next_at") / 1000,
        stopped=raw.get(b"stopped") == b"1",
        problem=raw.get(b"problem", b"").decode(),
    )
