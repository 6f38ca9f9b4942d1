"""The one limit for all workers, and the one circuit breaker: may I send now? (SPEC 4, promises 5 and 6)

A worker process asks Redis for many permits at a time; each is a moment to send at. With the same question it tells
what became of earlier ones, so that the circuit opens for everybody when the upstream is away. If Redis cannot be
asked, nothing is sent. docs/decisions/0004 and 0009 say why this is our own.
"""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.resources import files
from typing import NamedTuple, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.domain.batches import Lane
from worker.domain.rates import Rate

AHEAD = 0.25
"""Seconds of permits reserved at most: what may still be sent after a pause began elsewhere."""
LATE = 0.007
"""Seconds after which a permit that was not used is dropped, since others may be sending in its place."""
DEFAULT_PAUSE = 1.0
"""Seconds of pause after a 429 that does not say how long."""

_HEADROOM = 0.99  # of the limit; what arrives a little early or late must not overfill a window
_RECOVERY = 1 / 60  # of the full rate, each second after a pause: from half to whole in half a minute
_SMALLEST = 1 / 64
_OUTAGE_PAUSE = 0.5
_EARLY = 0.005  # seconds before a grant is used up; an answer takes up to half of that
_SIFT_EVERY = 0.1  # seconds after which those in the line are asked whether waiting is worth it
_LUA = files(__package__) / "lua"


class Sign(StrEnum):
    """What a request says of the upstream as a whole."""

    ANSWERED = "answered"
    """It is there, whatever it said of the record."""
    FAILED = "failed"
    """It failed; the record may be the cause, so each record should count once only."""
    ABSENT = "absent"
    """Nobody is there; no record can be the cause."""


@dataclass(slots=True)
class Signs:
    """How many requests that were granted in one epoch of the circuit gave each sign."""

    epoch: int = 0
    answered: int = 0
    failed: int = 0
    absent: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """An answer of the limiter, in seconds."""

    permits: int
    wait: float
    """Until the first permit; without permits: until asking again makes sense."""
    interval: float = 0.0
    circuit_open: bool = False
    probe: bool = False
    """The one permit shows whether the upstream is back."""
    epoch: int = 0


class Limiter:
    """Limiter and circuit in Redis; every worker of one upstream and merchant shares them by their keys.

    ``probe_life``: seconds after which a probe of which nothing was heard is taken for lost.
    """

    def __init__(self, redis: Redis, scope: str, rate: Rate, probe_life: float = 15.0) -> None:
        self._key, self._circuit = f"expunge:pace:{scope}", f"expunge:circuit:{scope}"
        self._probe_life = int(probe_life * 1e6)
        pace, *further = rate.windows
        self._windows = [pace.limit * _HEADROOM, pace.seconds]
        for window in further:
            self._windows += [window.limit, window.seconds]
        circuit = (_LUA / "circuit.lua").read_text()
        self._reserve, self._ask = (
            redis.register_script(circuit + (_LUA / f"{name}.lua").read_text()) for name in ("reserve", "ask")
        )
        self._throttle = redis.register_script((_LUA / "throttle.lua").read_text())

    async def reserve(self, wanted: int, signs: Signs | None = None) -> Grant:
        """Reserve up to ``wanted`` permits, and hand in signs; raises ``RedisError`` when it cannot be asked."""
        args = [wanted, int(AHEAD * 1e6), _RECOVERY, *_told(signs), self._probe_life, *self._windows]
        permits, wait, interval, circuit, epoch = await self._reserve(keys=[self._key, self._circuit], args=args)
        return Grant(permits, wait / 1e6, interval / 1e6, circuit == 1, circuit == 2 and permits > 0, epoch)

    async def outage(self, signs: Signs | None = None) -> float | None:
        """Hand in signs; seconds until the upstream is asked again, or ``None`` if the circuit is closed."""
        left = await self._ask(keys=[self._circuit], args=_told(signs))
        return None if left < 0 else float(left) / 1e6

    async def throttle(self, pause: float) -> float:
        """Pause everybody for at least ``pause`` seconds and lower the rate; returns how long the pause still lasts."""
        left = await self._throttle(keys=[self._key], args=[int(pause * 1e6), _RECOVERY, _SMALLEST])
        return float(left) / 1e6


def _told(signs: Signs | None) -> list[int | float]:
    told = signs or Signs()
    return [told.epoch, told.answered, told.failed, told.absent, random.random()]  # noqa: S311 - jitter


Worth: TypeAlias = Callable[[float], bool]
"""Whether it still makes sense to wait that many seconds more."""


@dataclass(frozen=True, slots=True)
class Permit:
    """One request may be sent, now."""

    epoch: int = 0
    probe: bool = False


@dataclass(frozen=True, slots=True)
class NotNow:
    """Waiting is not worth it."""

    seconds: float
    """After which it makes sense to ask again."""
    circuit_open: bool = False


class Flow(NamedTuple):
    """Requests that share what there is equally with other flows of their lane."""

    lane: Lane = Lane.BULK
    name: str = ""


@dataclass(eq=False, slots=True)
class _Waiter:
    worth: Worth
    answer: "asyncio.Future[Permit | NotNow]"


class _Line:
    """Who waits: urgent flows before bulk ones, those of a lane in turn, and each flow in its order."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[Flow, deque[_Waiter]]] = {lane: OrderedDict() for lane in Lane}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, flow: Flow, waiter: _Waiter) -> None:
        self._lanes[flow.lane].setdefault(flow, deque()).append(waiter)
        self._length += 1

    def pop(self) -> _Waiter | None:
        """The next one who was not cancelled."""
        for lane in self._lanes.values():
            while lane:
                flow, waiters = lane.popitem(last=False)
                waiter = waiters.popleft()
                self._length -= 1
                if waiters:
                    lane[flow] = waiters  # behind the others
                if not waiter.answer.done():
                    return waiter
        return None

    def sift(self, stays: Callable[[_Waiter], bool]) -> None:
        """Remove whoever was cancelled or does not stay."""
        for lane in self._lanes.values():
            for flow, waiters in list(lane.items()):
                lane[flow] = deque(waiter for waiter in waiters if not waiter.answer.done() and stays(waiter))
                if not lane[flow]:
                    del lane[flow]
        self._length = sum(len(waiters) for lane in self._lanes.values() for waiters in lane.values())


class Pacer:
    """The gate of one process: how many requests are in flight, whose turn it is, and when the limiter lets one go.

    Also gathers the signs of the requests.
    """

    def __init__(self, limiter: Limiter, slots: int) -> None:
        self._limiter = limiter
        self._signs = Signs()
        self._line = _Line()
        self._free = slots
        self._freed = asyncio.Event()
        self._sifted_at = 0.0
        self._pump: asyncio.Task[None] | None = None
        self._upcoming: asyncio.Task[tuple[Grant, float]] | None = None
        self._paused_until = 0.0

    async def permit(self, flow: Flow, worth: Worth) -> Permit | NotNow:
        """Wait until one request may be sent; ``tell`` then what it said of the upstream, and ``release`` its slot.

        ``worth`` is asked now and then; once waiting is not worth it, or the circuit is open, return ``NotNow``, which
        has no slot.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(worth, loop.create_future())
        self._line.add(flow, waiter)
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._grant_all())
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            if waiter.answer.done() and not waiter.answer.cancelled() and isinstance(waiter.answer.result(), Permit):
                self.release()
            raise

    def release(self) -> None:
        """The request of a permit has ended, or was not sent."""
        self._free += 1
        self._freed.set()

    def tell(self, permit: Permit, sign: Sign) -> None:
        """Note what the request of a permit said of the upstream; handed in with the next question."""
        if permit.epoch == self._signs.epoch:
            setattr(self._signs, sign, getattr(self._signs, sign) + 1)

    async def outage(self) -> float | None:
        """Seconds until the upstream is asked again if the circuit is open, or cannot be asked; else ``None``."""
        signs = self._take_signs()
        try:
            return await self._limiter.outage(signs)
        except RedisError:
            self._give_back(signs)
            return _OUTAGE_PAUSE

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
        running = [task for task in (self._pump, self._upcoming) if task is not None]
        for task in running:
            task.cancel()
        self._line.sift(lambda waiter: not waiter.answer.cancel())
        if running:
            await asyncio.wait(running)

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)

    def _take_signs(self) -> Signs:
        signs, self._signs = self._signs, Signs(self._signs.epoch)
        return signs

    def _give_back(self, signs: Signs) -> None:
        """What could not be handed in is handed in later, unless it is no longer news by then."""
        if signs.epoch == self._signs.epoch:
            self._signs.answered += signs.answered
            self._signs.failed += signs.failed
            self._signs.absent += signs.absent

    async def _grant_all(self) -> None:
        while True:
            await asyncio.sleep(0)  # whoever else comes in this turn of the loop is asked for in the same question
            if not self._still_waiting(0.0):
                if self._upcoming is None:
                    return
                await self._upcoming  # not kept: whoever comes later would take an old answer for news
                self._upcoming = None
                continue
            if not self._free:
                await self._slot_or_a_while()
                continue
            upcoming, self._upcoming = self._upcoming, None
            grant, asked_at = await (upcoming or self._ask(0))
            if grant.permits:
                await self._hand_out(grant, asked_at)
            elif grant.circuit_open:
                self._send_away(NotNow(grant.wait, circuit_open=True))
            elif self._still_waiting(grant.wait):
                await asyncio.sleep(min(grant.wait, AHEAD))

    async def _ask(self, spoken_for: int) -> tuple[Grant, float]:
        """The limiter's answer, and when it came: permits for those who could use them beside ``spoken_for`` others."""
        signs = self._take_signs()
        try:
            grant = await self._limiter.reserve(self._usable() - spoken_for, signs)
        except RedisError:
            self._give_back(signs)
            grant = Grant(0, _OUTAGE_PAUSE, epoch=self._signs.epoch)
        if grant.epoch != self._signs.epoch:
            self._signs = Signs(grant.epoch)
        return grant, asyncio.get_running_loop().time()

    def _usable(self) -> int:
        return min(len(self._line), self._free)

    def _ask_early(self, grant: Grant, left: int) -> None:
        """Ask again before a paced grant is used up: what is free while an answer is on its way is lost for good."""
        is_paced = grant.permits * grant.interval > 2 * _EARLY
        if self._upcoming is None and is_paced and left * grant.interval <= _EARLY and self._usable() > left:
            self._upcoming = asyncio.create_task(self._ask(left))

    async def _slot_or_a_while(self) -> None:
        self._freed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(AHEAD):
                await self._freed.wait()

    async def _hand_out(self, grant: Grant, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        permit = Permit(grant.epoch, grant.probe)
        for number in range(grant.permits):
            self._ask_early(grant, grant.permits - number)
            at = asked_at + grant.wait + number * grant.interval
            if (early := at - loop.time()) > 0.0005:
                await asyncio.sleep(early)
            now = loop.time()
            if now < self._paused_until:
                return
            if now - at > LATE and not grant.probe:  # nobody sends in a probe's place
                continue
            if (waiter := self._next()) is None:
                return
            self._free -= 1
            waiter.answer.set_result(permit)

    def _next(self) -> _Waiter | None:
        """The next one for whom it is worth it; the others are told."""
        while (waiter := self._line.pop()) is not None:
            if waiter.worth(0.0):
                return waiter
            waiter.answer.set_result(NotNow(0.0))
        return None

    def _send_away(self, answer: NotNow) -> None:
        while (waiter := self._line.pop()) is not None:
            waiter.answer.set_result(answer)

    def _still_waiting(self, wait: float) -> bool:
        """Answer those for whom ``wait`` seconds more are not worth it; returns whether anybody is left."""
        now = asyncio.get_running_loop().time()
        if wait or now - self._sifted_at > _SIFT_EVERY:
            self._sifted_at = now
            self._line.sift(partial(self._waits, wait))
        return len(self._line) > 0

    def _waits(self, wait: float, waiter: _Waiter) -> bool:
        if not waiter.worth(wait):
            waiter.answer.set_result(NotNow(wait))
        return not waiter.answer.done()
