"""The one limit for all (SPEC 4, promise 6): several instances on connections of their own, as several processes are.

What is looked at is the log of grants: the moments at which somebody was told to send.
"""

import asyncio
import random
import socket
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.domain.batches import Lane
from worker.domain.rates import Rate
from worker.pacing.pace import AHEAD, DEFAULT_PAUSE, LATE, Flow, Grant, Limiter, NotNow, Pacer, Permit, Signs
from worker.store.connection import open_redis

KEY = "expunge:pace:s"
TOLERANCE = 1.05
SLOTS = 10_000


def always(_: float) -> bool:
    return True


def never(_: float) -> bool:
    return False


def clock() -> float:
    return asyncio.get_running_loop().time()


class Fleet:
    """Pacers of several processes, each with senders that want to send all the time."""

    def __init__(self, pacers: Sequence[Pacer]) -> None:
        self.pacers = pacers
        self.grants: list[list[float]] = [[] for _ in pacers]
        self._senders: list[asyncio.Task[None]] = []

    @property
    def log(self) -> list[float]:
        """When somebody was told to send, in order."""
        return sorted(at for own in self.grants for at in own)

    async def send(self, seconds: float, senders: int = 8) -> None:
        """Let every pacer's senders send for a while, and wait for it."""
        self.start(senders)
        await asyncio.sleep(seconds)
        await self.stop()

    def start(self, senders: int = 8) -> None:
        """Let the senders begin."""
        for pacer, own in zip(self.pacers, self.grants, strict=True):
            self._senders += [asyncio.create_task(self._keep_sending(pacer, own)) for _ in range(senders)]

    async def stop(self) -> None:
        """End the senders."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        self._senders = []

    async def _keep_sending(self, pacer: Pacer, own: list[float]) -> None:
        while isinstance(await pacer.permit(Flow(), always), Permit):
            own.append(clock())


Assemble = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Assemble]:
    """Make a fleet that shares a limit."""
    async with AsyncExitStack() as stack:

        async def assemble(rate: str, size: int = 4, scope: str = "s") -> Fleet:
            pacers = []
            for _ in range(size):
                redis = await stack.enter_async_context(open_redis(redis_url))
                pacer = Pacer(Limiter(redis, scope, Rate.parse(rate)), SLOTS)
                stack.push_async_callback(pacer.close)
                pacers.append(pacer)
            made = Fleet(pacers)
            stack.push_async_callback(made.stop)
            return made

        yield assemble


@asynccontextmanager
async def unreachable() -> AsyncIterator[Redis]:
    """A client whose server is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take the port
        async with open_redis(f"redis://127.0.0.1:{taken.getsockname()[1]}/0") as redis:
            yield redis


def fullest(times: Sequence[float], seconds: float) -> int:
    """The most that any window of that length holds."""
    ordered = sorted(times)
    return max((bisect_left(ordered, at + seconds) - number for number, at in enumerate(ordered)), default=0)


async def reserved(limiters: Sequence[Limiter], seconds: float, wanted: int) -> list[float]:
    """Reserve as greedily as possible for a while; the moments at which the permits allow to send."""
    times: list[float] = []
    until = clock() + seconds

    async def take_all(limiter: Limiter) -> None:
        while clock() < until:
            asked_at = clock()
            grant = await limiter.reserve(wanted)
            times.extend(asked_at + grant.wait + number * grant.interval for number in range(grant.permits))
            if not grant.permits:
                await asyncio.sleep(min(grant.wait, AHEAD))

    await asyncio.gather(*map(take_all, limiters))
    return sorted(times)


# The rate


async def test_all_instances_together_stay_below_the_rate_and_use_it(fleet: Assemble) -> None:
    ours = await fleet("200/s")
    await ours.send(2.0)
    assert fullest(ours.log, 1.0) <= 200 * TOLERANCE
    assert len(ours.log) >= 0.9 * 200 * 2.0
    assert min(map(len, ours.grants)) > 0


async def test_a_slow_rate_is_kept_too(fleet: Assemble) -> None:
    ours = await fleet("10/s", size=2)
    await ours.send(1.5)
    assert fullest(ours.log, 1.0) <= 10
    assert len(ours.log) >= 0.9 * 10 * 1.5


async def test_permits_are_evenly_spread_within_the_second(fleet: Assemble) -> None:
    """Sent as soon as they are reserved, 34 would fall into one tenth of a second; a busy machine delays a few."""
    ours = await fleet("200/s", size=1)
    await ours.send(1.0, senders=64)
    assert fullest(ours.log, 0.1) <= 26, "20 are due"


async def test_a_single_sender_gets_the_whole_rate(fleet: Assemble) -> None:
    """One request after the other: nothing is lost to permits that nobody waits for."""
    ours = await fleet("100/s", size=1)
    await ours.send(1.0, senders=1)
    assert fullest(ours.log, 1.0) <= 100 * TOLERANCE
    assert len(ours.log) >= 90


async def test_what_is_reserved_never_exceeds_the_rate_however_greedily_it_is_asked_for(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_redis(redis_url)) for _ in range(4)]
        limiters = [Limiter(redis, "s", Rate.parse("500/s")) for redis in clients]
        times = await reserved(limiters, 1.5, wanted=1000)
    assert fullest(times, 1.0) <= 500
    assert len(times) >= 0.95 * 500 * 1.5


async def test_two_windows_hold_at_once(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_redis(redis_url)) for _ in range(3)]
        limiters = [Limiter(redis, "s", Rate.parse("150/m,100/s")) for redis in clients]
        times = await reserved(limiters, 3.0, wanted=64)
        grant = await limiters[0].reserve(1)
    assert len(times) == 150
    assert fullest(times, 1.0) <= 100
    assert grant.permits == 0
    assert 50 <= grant.wait <= 62  # until the minute's first permits are a minute old


async def test_two_windows_hold_for_senders_too(fleet: Assemble) -> None:
    ours = await fleet("100/s,150/m")
    await ours.send(2.5)
    assert 140 <= len(ours.log) <= 150
    assert fullest(ours.log, 1.0) <= 100 * TOLERANCE


async def test_what_is_reserved_lies_a_short_time_ahead(redis: Redis) -> None:
    """What was reserved before a pause leaks through it."""
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    granted, began = 0, clock()
    while (grant := await limiter.reserve(1000)).permits:
        granted += grant.permits
        assert grant.wait + (grant.permits - 1) * grant.interval <= AHEAD
    assert 0.9 * AHEAD * 100 <= granted <= (AHEAD + clock() - began) * 100 + 1
    assert 0 < grant.wait <= 2 / 100


async def test_there_is_no_burst_after_idling(redis: Redis) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    await limiter.reserve(1)
    await asyncio.sleep(0.5)
    grant = await limiter.reserve(1000)
    assert grant.permits <= AHEAD * 100
    assert grant.interval >= 1 / 100


async def test_another_scope_has_a_limit_of_its_own(fleet: Assemble) -> None:
    ours, theirs = await fleet("50/s", size=1), await fleet("50/s", size=1, scope="other")
    await asyncio.gather(ours.send(1.0), theirs.send(1.0))
    assert min(len(ours.log), len(theirs.log)) >= 45


async def test_the_limit_outlives_a_script_flush(redis: Redis, fleet: Assemble) -> None:
    ours = await fleet("100/s", size=2)
    ours.start()
    for _ in range(5):
        await asyncio.sleep(0.1)
        await redis.script_flush()
    await ours.pacers[0].throttle(0.0)
    await ours.stop()
    assert 40 <= len(ours.log) <= 60


async def test_the_limits_key_expires_when_nobody_sends(redis: Redis) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s,150/m,1000/h"))
    await limiter.reserve(1)
    assert 3600 < await redis.ttl(KEY) <= 6 * 3600
    await limiter.throttle(5.0)
    assert 3600 < await redis.ttl(KEY) <= 6 * 3600


# The pause


async def test_a_429_pauses_every_instance_and_there_is_no_burst_on_resuming(fleet: Assemble) -> None:
    ours = await fleet("200/s", size=3)
    ours.start()
    await asyncio.sleep(0.5)
    paused_at = clock()
    await ours.pacers[0].throttle(0.8)
    told_at = clock()
    await asyncio.sleep(1.8)
    await ours.stop()

    own_after = [at for at in ours.grants[0] if at > told_at]
    assert min(own_after) >= paused_at + 0.8 - 0.01
    leaked = [at for at in ours.log if told_at < at < paused_at + 0.8 - 0.01]
    assert len(leaked) <= AHEAD * 200
    assert all(at <= told_at + AHEAD + LATE + 0.01 for at in leaked)
    resumed = [at for at in ours.log if at >= paused_at + 0.8 - 0.01]
    assert len(resumed) >= 0.8 * 100 * 1.0
    assert fullest(resumed, 1.0) <= 100 * TOLERANCE + 2  # it recovers by 1/60 of the rate each second
    assert fullest(resumed, 0.1) <= 0.6 * AHEAD * 100, "10 are due; a busy machine delays some"


async def test_many_429s_of_one_pause_halve_the_rate_once(redis: Redis) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    whole = (await limiter.reserve(1)).interval
    await asyncio.gather(*(limiter.throttle(0.05) for _ in range(20)))
    await asyncio.sleep(0.1)
    halved = (await limiter.reserve(1)).interval
    assert halved == pytest.approx(2 * whole, rel=0.02)


async def test_a_429_after_the_pause_halves_the_rate_again_down_to_a_smallest(redis: Redis) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    intervals = [(await limiter.reserve(1)).interval]
    for _ in range(10):
        await limiter.throttle(0.0)
        await redis.hset(KEY, mapping={"paused_until": 0, "cut_until": 0, "next": 0})
        intervals.append((await limiter.reserve(1)).interval)
    factors = [each / intervals[0] for each in intervals]
    assert factors == pytest.approx([1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64], rel=0.1)  # it recovers meanwhile


@pytest.mark.parametrize(("seconds_ago", "share"), [(0, 0.5), (6, 0.6), (15, 0.75), (30, 1.0), (3600, 1.0)])
async def test_the_rate_recovers_from_half_to_whole_in_half_a_minute(
    redis: Redis, seconds_ago: int, share: float
) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    whole = (await limiter.reserve(1)).interval
    await limiter.throttle(0.0)
    cut_at = int(await redis.hget(KEY, "factor_at") or 0)
    await redis.hset(KEY, mapping={"factor_at": cut_at - seconds_ago * 1_000_000, "next": 0, "paused_until": 0})
    assert whole / (await limiter.reserve(1)).interval == pytest.approx(share, rel=0.02)


async def test_a_shorter_pause_does_not_end_a_longer_one(redis: Redis) -> None:
    limiter = Limiter(redis, "s", Rate.parse("100/s"))
    assert await limiter.throttle(5.0) == pytest.approx(5.0, abs=0.1)
    assert await limiter.throttle(0.1) == pytest.approx(5.0, abs=0.5)
    grant = await limiter.reserve(10)
    assert grant.permits == 0
    assert grant.wait == pytest.approx(5.0, abs=0.5)


async def test_a_429_without_retry_after_pauses_for_a_default_time(redis: Redis, fleet: Assemble) -> None:
    ours = await fleet("100/s", size=1)
    await ours.pacers[0].throttle(None)
    grant = await Limiter(redis, "s", Rate.parse("100/s")).reserve(1)
    assert grant.permits == 0
    assert grant.wait == pytest.approx(DEFAULT_PAUSE, abs=0.2)


async def test_a_pause_is_kept_by_its_process_even_when_redis_is_away() -> None:
    async with unreachable() as redis:
        pacer = Pacer(Limiter(redis, "s", Rate.parse("100/s")), SLOTS)
        await pacer.throttle(0.5)
        await pacer.close()


# Redis is away: nothing is sent


async def test_without_redis_nothing_is_granted() -> None:
    async with unreachable() as redis:
        pacer = Pacer(Limiter(redis, "s", Rate.parse("1000/s")), SLOTS)
        waiting = {asyncio.create_task(pacer.permit(Flow(), always)) for _ in range(5)}
        done, pending = await asyncio.wait(waiting, timeout=1.5)
        assert done == set()
        await pacer.close()
        await asyncio.gather(*pending, return_exceptions=True)
        assert all(waiter.cancelled() for waiter in pending)


async def test_without_redis_a_caller_who_cannot_wait_is_told_when_to_ask_again() -> None:
    async with unreachable() as redis:
        pacer = Pacer(Limiter(redis, "s", Rate.parse("1000/s")), SLOTS)
        async with asyncio.timeout(5):
            answer = await pacer.permit(Flow(), lambda seconds: seconds < 0.01)
        assert isinstance(answer, NotNow)
        assert answer.seconds > 0
        await pacer.close()


@pytest.mark.parametrize("broken", ["full", "wrong type"])
async def test_a_redis_that_refuses_grants_nothing_until_it_is_mended(
    redis: Redis, fleet: Assemble, broken: str
) -> None:
    if broken == "full":
        await redis.config_set("maxmemory", "1")
    else:
        await redis.set(KEY, "no hash")
    ours = await fleet("1000/s", size=2)
    ours.start()
    try:
        with pytest.raises(RedisError):
            await Limiter(redis, "s", Rate.parse("1000/s")).reserve(1)
        await asyncio.sleep(0.4)
        assert ours.log == []
    finally:
        await redis.config_set("maxmemory", "0")
        await redis.delete(KEY)
    await asyncio.sleep(0.8)
    assert len(ours.log) > 0


# Waiters


async def test_a_caller_for_whom_waiting_is_not_worth_it_gets_an_answer_and_no_permit(
    redis: Redis, fleet: Assemble
) -> None:
    ours = await fleet("100/s", size=1)
    assert await ours.pacers[0].permit(Flow(), never) == NotNow(0.0)
    assert await redis.exists(KEY) == 0


async def test_a_caller_who_cannot_wait_for_a_pauses_end_is_told_how_long_it_lasts(fleet: Assemble) -> None:
    ours = await fleet("100/s", size=2)
    await ours.pacers[0].throttle(30.0)
    for pacer in ours.pacers:
        async with asyncio.timeout(2):
            answer = await pacer.permit(Flow(), lambda seconds: seconds < 20)
        assert isinstance(answer, NotNow)
        assert answer.seconds == pytest.approx(30.0, abs=1.0)


async def test_a_caller_whose_reason_to_wait_ends_meanwhile_is_answered_soon(fleet: Assemble) -> None:
    """As a stop does: nobody waits for the end of a long pause."""
    ours, going_on = await fleet("100/s", size=1), True
    await ours.pacers[0].throttle(30.0)
    waiter = asyncio.create_task(ours.pacers[0].permit(Flow(), lambda _: going_on))
    await asyncio.sleep(0.1)
    assert not waiter.done()
    going_on = False
    async with asyncio.timeout(2 * AHEAD + 0.2):
        assert isinstance(await waiter, NotNow)


async def test_cancelled_waiters_do_not_consume_permits(redis: Redis, fleet: Assemble) -> None:
    ours = await fleet("40/s", size=1)
    pacer = ours.pacers[0]
    waiting = [asyncio.create_task(pacer.permit(Flow(), always)) for _ in range(200)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiting:
        waiter.cancel()
    async with asyncio.timeout(3 * AHEAD):  # not behind the 200
        assert isinstance(await pacer.permit(Flow(), always), Permit)
    await asyncio.sleep(AHEAD)
    before = await redis.hget(KEY, "next")
    await asyncio.sleep(2 * AHEAD)
    assert await redis.hget(KEY, "next") == before
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_whoever_waits_is_served_in_turn(fleet: Assemble) -> None:
    ours, served = await fleet("200/s", size=1), []

    async def wait(number: int) -> None:
        assert isinstance(await ours.pacers[0].permit(Flow(), always), Permit)
        served.append(number)

    await asyncio.gather(*map(wait, range(50)))
    assert served == list(range(50))


class Asked(Limiter):
    """Notes how many permits each question wants; while the first is answered one more caller comes, and then nine."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, "s", Rate.parse("1000/s"))
        self.pacer = Pacer(self, SLOTS)
        self.wanted: list[int] = []
        self.callers: list[asyncio.Task[Permit | NotNow]] = []

    def come(self, callers: int) -> None:
        """So many callers ask for a permit, in the loop's next turn."""
        self.callers += [asyncio.create_task(self.pacer.permit(Flow(), always)) for _ in range(callers)]

    async def reserve(self, wanted: int, signs: Signs | None = None) -> Grant:
        self.wanted.append(wanted)
        if len(self.wanted) > 1:
            return await super().reserve(wanted, signs)
        self.come(1)
        grant = await super().reserve(wanted, signs)
        self.come(9)
        return grant


async def test_whoever_comes_in_one_turn_of_the_loop_is_asked_for_in_one_question(redis: Redis) -> None:
    limiter = Asked(redis)
    limiter.come(1)
    async with asyncio.timeout(2):
        await limiter.callers[0]
        await asyncio.gather(*limiter.callers)
    assert limiter.wanted == [1, 10]


async def test_a_closed_pacer_leaves_nobody_waiting_and_reserves_nothing_more(redis: Redis, fleet: Assemble) -> None:
    ours = await fleet("10/s", size=1)
    waiting = [asyncio.create_task(ours.pacers[0].permit(Flow(), always)) for _ in range(20)]
    await asyncio.sleep(0.15)
    await ours.pacers[0].close()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert any(waiter.cancelled() for waiter in waiting)
    before = await redis.hget(KEY, "next")
    await asyncio.sleep(0.4)
    assert await redis.hget(KEY, "next") == before


# Whose turn it is


async def granted(pacer: Pacer, flow: Flow, into: list[Flow]) -> None:
    """Take one permit and keep its slot."""
    if isinstance(await pacer.permit(flow, always), Permit):
        into.append(flow)


async def queue_up(pacer: Pacer, many: dict[Flow, int], into: list[Flow]) -> set["asyncio.Task[None]"]:
    waiting = {asyncio.create_task(granted(pacer, flow, into)) for flow, count in many.items() for _ in range(count)}
    await asyncio.sleep(0)
    return waiting


async def test_no_more_permits_are_out_than_there_are_slots(redis: Redis) -> None:
    pacer, got = Pacer(Limiter(redis, "s", Rate.parse("10000/s")), 3), list[Flow]()
    waiting = await queue_up(pacer, {Flow(): 8}, got)
    for out in (3, 4, 5):
        await asyncio.sleep(0.05)
        assert len(got) == out
        pacer.release()
    await pacer.close()
    await asyncio.wait(waiting)


async def test_whoever_is_cancelled_with_a_permit_in_hand_gives_its_slot_back(redis: Redis) -> None:
    pacer, chance = Pacer(Limiter(redis, "s", Rate.parse("10000/s")), 1), random.Random(1)  # noqa: S311
    for _ in range(100):
        waiting = asyncio.create_task(pacer.permit(Flow(), always))
        await asyncio.sleep(chance.uniform(0.0, 0.002))
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            pacer.release()
    assert isinstance(await asyncio.wait_for(pacer.permit(Flow(), always), 1), Permit)
    await pacer.close()


async def test_flows_of_a_lane_share_equally_however_many_of_each_wait(redis: Redis) -> None:
    pacer, got = Pacer(Limiter(redis, "s", Rate.parse("400/s")), SLOTS), list[Flow]()
    large, small, single = (Flow(Lane.BULK, name) for name in ("large", "small", "single"))
    waiting = await queue_up(pacer, {large: 200, small: 20, single: 1}, got)
    await asyncio.wait(waiting)
    assert single in got[:3]
    assert got[:40].count(small) in range(18, 21)
    assert len(got) == 221
    await pacer.close()


async def test_urgent_flows_go_ahead_of_bulk_ones_that_have_waited_longer(redis: Redis) -> None:
    pacer, got = Pacer(Limiter(redis, "s", Rate.parse("200/s")), SLOTS), list[Flow]()
    bulk, urgent = Flow(Lane.BULK, "b"), Flow(Lane.URGENT, "u")
    waiting = await queue_up(pacer, {bulk: 60}, got)
    await asyncio.sleep(0.05)
    before = len(got)
    waiting |= await queue_up(pacer, {urgent: 20}, got)
    await asyncio.wait(waiting)
    assert got[before : before + 22].count(urgent) == 20, "one or two bulk ones had their permit already"
    assert got.count(bulk) == 60
    await pacer.close()


async def test_waiting_behind_urgent_ones_ends_when_it_is_not_worth_it(redis: Redis) -> None:
    pacer, got, worth = Pacer(Limiter(redis, "s", Rate.parse("100/s")), SLOTS), list[Flow](), True
    waiting = await queue_up(pacer, {Flow(Lane.URGENT, "u"): 100}, got)
    behind = asyncio.create_task(pacer.permit(Flow(Lane.BULK, "b"), lambda _: worth))
    await asyncio.sleep(0.1)
    worth = False
    assert isinstance(await asyncio.wait_for(behind, 0.5), NotNow)
    assert len(got) < 100
    await pacer.close()
    await asyncio.wait(waiting)
