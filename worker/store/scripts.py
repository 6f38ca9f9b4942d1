"""The Lua scripts, one file an atomic act; each is registered once and loaded again by itself after SCRIPT FLUSH."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from worker.store import keys

WAIT = 2.0
"""Seconds that replicas have to acknowledge."""

_LUA = files(__package__) / "lua"
_PRELUDE = f"local AUDIT = '{keys.AUDIT}'\n" + (_LUA / "prelude.lua").read_text()


class NotReplicatedError(RedisError):
    """Written, but not acknowledged by as many replicas as are required: a failover now could lose it."""


class Script:
    """An atomic act in Redis; with ``replicas``, it is done only when that many have acknowledged what it wrote."""

    def __init__(self, redis: Redis, name: str, replicas: int = 0) -> None:
        self._redis = redis
        self._replicas = replicas
        self._script = redis.register_script(_PRELUDE + (_LUA / f"{name}.lua").read_text())

    async def add_to(self, pipe: Pipeline, keys: Sequence[str], args: Iterable[str | int | bytes | float]) -> None:
        """Run it as part of a transaction."""
        await self._script(keys=keys, args=args, client=pipe)

    async def __call__(self, keys: Sequence[str], args: Iterable[str | int | bytes | float]) -> Any:
        """Run it. Raises ``RedisError``: it may then have run, so each script can be asked again.

        Raises ``NotReplicatedError`` when replicas were too slow.
        """
        if not self._replicas:
            return await self._script(keys=keys, args=args)
        pipe = self._redis.pipeline(transaction=False)
        await self._script(keys=keys, args=args, client=pipe)
        pipe.execute_command("WAIT", self._replicas, int(WAIT * 1000))
        answer, acknowledged = await pipe.execute()
        if acknowledged < self._replicas:
            raise NotReplicatedError(f"{acknowledged} of {self._replicas} replicas acknowledged within {WAIT:g} s")
        return answer
