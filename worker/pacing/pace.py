"""The one limit for all workers: may I send now? (SPEC 4, promise 6)

A worker process asks Redis for many permits at a time; each is a moment to send at. If Redis cannot be asked, nothing
is sent. docs/decisions/0004 says why this is our own.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.domain.rates import Rate

AHEAD = 0.25
"""Seconds of permits reserved at most: what may still be sent after a pause began elsewhere."""
LATE = 0.03
"""Seconds after which a permit that was not used is dropped, since others may be sending in its place."""
DEFAULT_PAUSE = 1.0
"""Seconds of pause after a 429 that does not say how long."""

_HEADROOM = 0.99  # of the limit; what arrives a little early or late must not overfill a window
_RECOVERY = 1 / 60  # of the full rate, each second after a pause: from half to whole in half a minute
_SMALLEST = 1 / 64
_OUTAGE_PAUSE = 0.5
_LUA = files(__package__) / "lua"


@dataclass(frozen=True, slots=True)
class Grant:
    """An answer of the limiter, in seconds."""

    permits: int
    wait: float
    """Until the first permit; without permits: until asking again makes sense."""
    interval: float = 0.0


class Limiter:
    """The limiter in Redis; every worker of one upstream and merchant shares it by its key."""

    def __init__(self, redis: Redis, scope: str, rate: Rate) -> None:
        self._key = f"expunge:pace:{scope}"
        pace, *further = rate.windows
        self._windows = [pace.limit * _HEADROOM, pace.seconds]
        for window in further:
            self._windows += [window.limit, window.seconds]
        self._reserve = redis.register_script((_LUA / "reserve.lua").read_text())
        self._throttle = redis.register_script((_LUA / "throttle.lua").read_text())

    async def reserve(self, wanted: int) -> Grant:
        """Reserve up to ``wanted`` permits; raises ``RedisError`` when it cannot be asked."""
        permits, wait, interval = await self._reserve(
            keys=[self._key], args=[wanted, int(AHEAD * 1e6), _RECOVERY, *self._windows]
        )
        return Grant(permits, wait / 1e6, interval / 1e6)

    async def throttle(self, pause: float) -> float:
        """Pause everybody for at least ``pause`` seconds and lower the rate; returns how long the pause still lasts."""
        left = await self._throttle(keys=[self._key], args=[int(pause * 1e6), _RECOVERY, _SMALLEST])
        return float(left) / 1e6


Worth: TypeAlias = Callable[[float], bool]
"""Whether it still makes sense to wait that many seconds more."""


@dataclass(eq=False, slots=True)
class _Waiter:
    worth: Worth
    answer: "asyncio.Future[float | None]"


class Pacer:
    """Hands out the limiter's permits to the coroutines of one process."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._waiters: deque[_Waiter] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def permit(self, worth: Worth) -> float | None:
        """Wait until one request may be sent, and return ``None``.

        ``worth`` is asked now and then; once waiting is not worth it, return after how many seconds to ask again.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(worth, loop.create_future())
        self._waiters.append(waiter)
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._grant_all())
        return await waiter.answer

    async def throttle(self, retry_after: float | None) -> None:
        """Tell everybody of a 429. When Redis is away, at least this process pauses."""
        pause = DEFAULT_PAUSE if retry_after is None else retry_after
        self._pause(pause)
        try:
            self._pause(await self._limiter.throttle(pause))
        except RedisError:
            return

    async def close(self) -> None:
        """End the pump; whoever still waits is cancelled."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        while self._waiters:
            self._waiters.popleft().answer.cancel()

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)

    async def _grant_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._still_waiting(0.0):
            try:
                grant = await self._limiter.reserve(len(self._waiters))
            except RedisError:
                grant = Grant(0, _OUTAGE_PAUSE)
            if grant.permits:
                await self._hand_out(grant, loop.time())
            elif self._still_waiting(grant.wait):
                await asyncio.sleep(min(grant.wait, AHEAD))

    async def _hand_out(self, grant: Grant, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        for number in range(grant.permits):
            at = asked_at + grant.wait + number * grant.interval
            if (early := at - loop.time()) > 0.0005:
                await asyncio.sleep(early)
            now = loop.time()
            if now < self._paused_until or not self._drop_answered():
                return
            if now - at <= LATE:
                self._waiters.popleft().answer.set_result(None)

    def _still_waiting(self, wait: float) -> bool:
        """Answer those for whom ``wait`` seconds more are not worth it; returns whether anybody is left."""
        left: deque[_Waiter] = deque()
        for waiter in self._waiters:
            if waiter.answer.done():
                continue
            if waiter.worth(wait):
                left.append(waiter)
            else:
                waiter.answer.set_result(wait)
        self._waiters = left
        return bool(left)

    def _drop_answered(self) -> bool:
        """Forget those who were cancelled, up to the first who was not; returns whether there is one."""
        while self._waiters and self._waiters[0].answer.done():
            self._waiters.popleft()
        return bool(self._waiters)
