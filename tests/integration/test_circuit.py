"""The circuit breaker of all workers (SPEC 4, promise 5): an outage costs time, not records."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.conftest import all_keys, claimed, existing, outcomes, submit, until
from tests.integration.conftest import Open
from tests.integration.test_delete_shard import accepted, ids, resume, sent
from worker.domain.batches import Batch, BatchState, StateReason
from worker.domain.outcomes import Reason
from worker.domain.rates import Rate
from worker.domain.records import History
from worker.outfit import Worker
from worker.pacing import pace
from worker.pacing.pace import AHEAD, Flow, Grant, Limiter, NotNow, Pacer, Permit, Sign, Signs
from worker.pipeline import control
from worker.pipeline.attempts import RetryPolicy
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.shard_run import Ending
from worker.simulator import Rule, Scenario, SimulatorThread
from worker.store.connection import open_redis

CIRCUIT = "expunge:circuit:s"
FAST = Rate.parse("5000/s")
SLOTS = 10_000

Connect = Callable[..., Awaitable[Limiter]]


@pytest.fixture
async def connect(redis_url: str) -> AsyncIterator[Connect]:
    """A limiter on a connection of its own, as another process has."""
    async with AsyncExitStack() as stack:

        async def make(scope: str = "s", probe_life: float = 15.0) -> Limiter:
            return Limiter(await stack.enter_async_context(open_redis(redis_url)), scope, FAST, probe_life)

        yield make


@pytest.fixture
def jitter(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Fix what is random in a pause: 0 for the shortest, 1 for the longest."""

    def fix(value: float) -> None:
        monkeypatch.setattr(pace, "random", SimpleNamespace(random=lambda: value))

    return fix


async def let_probe_come(redis: Redis) -> None:
    """The pause until the next probe is over; or the life of one that is under way."""
    (circuit,) = await all_keys(redis, "expunge:circuit:*")
    await redis.hset(circuit, "probe_at", "0")


async def let_no_probe_come(redis: Redis) -> None:
    """The pause until the next probe lasts for as long as the test."""
    (circuit,) = await all_keys(redis, "expunge:circuit:*")
    await redis.hset(circuit, "probe_at", f"{(time.time() + 600) * 1e6:.0f}")


async def opened(limiter: Limiter) -> Grant:
    """Open the circuit."""
    epoch = (await limiter.reserve(1)).epoch
    grant = await limiter.reserve(1, Signs(epoch, failed=12))
    assert (grant.permits, grant.circuit_open) == (0, True)
    return grant


async def probe(redis: Redis, limiter: Limiter) -> Grant:
    """Open the circuit, and get the probe."""
    await opened(limiter)
    await let_probe_come(redis)
    grant = await limiter.reserve(64)
    assert (grant.permits, grant.probe, grant.circuit_open) == (1, True, False)
    return grant


# When it opens


@pytest.mark.parametrize(
    ("answered", "failed", "absent", "opens"),
    [
        (0, 11, 0, False),
        (0, 12, 0, True),
        (12, 12, 0, True),
        (13, 12, 0, False),
        (100, 99, 0, False),
        (100, 100, 0, True),
        (0, 0, 2, False),
        (0, 0, 3, True),
        (0, 4, 2, True),
        (0, 3, 2, False),
        (3, 0, 3, True),
        (4, 0, 3, False),
        (13, 0, 11, False),
        (1000, 0, 0, False),
    ],
)
async def test_it_opens_when_half_of_the_last_results_fail_and_enough_of_them_do(
    connect: Connect, answered: int, failed: int, absent: int, opens: bool
) -> None:
    limiter = await connect()
    grant = await limiter.reserve(1, Signs(0, answered, failed, absent))
    assert (grant.circuit_open, grant.permits) == (opens, 0 if opens else 1)
    assert (await limiter.outage() is not None) is opens


async def test_results_that_several_processes_tell_one_by_one_add_up(connect: Connect) -> None:
    limiters = [await connect() for _ in range(4)]
    for number in range(11):
        assert not (await limiters[number % 4].reserve(1, Signs(failed=1))).circuit_open
    assert await limiters[0].outage(Signs(failed=1)) is not None
    assert [(await limiter.reserve(1)).circuit_open for limiter in limiters] == [True] * 4


async def test_a_share_just_below_half_never_opens_it(connect: Connect) -> None:
    limiter, failed = await connect(), 0
    for number in range(1, 301):
        fails = failed < number * 11 / 24 - 0.5
        failed += fails
        assert not (await limiter.reserve(1, Signs(failed=1) if fails else Signs(answered=1))).circuit_open
    assert failed > 300 * 0.45


@pytest.mark.parametrize("sign", [Sign.FAILED, Sign.ABSENT])
async def test_old_successes_fade_so_that_a_sudden_outage_opens_it_within_some_20_failures(
    connect: Connect, sign: Sign
) -> None:
    limiter, failures = await connect(), 0
    await limiter.reserve(1, Signs(answered=100_000))
    grant = await limiter.reserve(1)
    while not grant.circuit_open:
        failures += 1
        assert failures <= 20
        grant = await limiter.reserve(1, Signs(**{sign.value: 1}))
    assert failures >= 12


async def test_old_failures_fade_too(connect: Connect) -> None:
    limiter = await connect()
    await limiter.reserve(1, Signs(failed=11))
    for _ in range(100):
        await limiter.reserve(1, Signs(answered=1))
    assert not (await limiter.reserve(1, Signs(failed=11))).circuit_open


async def test_another_upstream_has_a_circuit_of_its_own(connect: Connect) -> None:
    ours, theirs = await connect(), await connect("other")
    await opened(ours)
    grant = await theirs.reserve(10, Signs(failed=11))
    assert (grant.permits, grant.circuit_open, grant.epoch) == (10, False, 0)
    assert await theirs.outage() is None


# While it is open


async def test_while_it_is_open_nobody_is_granted_anything(redis: Redis, connect: Connect) -> None:
    limiters = [await connect() for _ in range(4)]
    await opened(limiters[0])
    await let_no_probe_come(redis)
    before = await redis.hgetall("expunge:pace:s")
    grants = await asyncio.gather(*(limiter.reserve(1000) for limiter in limiters for _ in range(10)))
    assert {(grant.permits, grant.circuit_open, grant.probe) for grant in grants} == {(0, True, False)}
    assert await redis.hgetall("expunge:pace:s") == before


@pytest.mark.parametrize(("value", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_the_pause_doubles_from_a_second_to_half_a_minute_and_half_of_it_is_random(
    redis: Redis, connect: Connect, jitter: Callable[[float], None], value: float, share: float
) -> None:
    jitter(value)
    limiter = await connect()
    pauses = [(await opened(limiter)).wait]
    for _ in range(7):
        await let_probe_come(redis)
        granted = await limiter.reserve(1)
        assert granted.probe
        again = await limiter.reserve(1, Signs(granted.epoch, failed=1))
        assert again.circuit_open
        pauses.append(again.wait)
    assert pauses == pytest.approx([share * whole for whole in (1, 2, 4, 8, 16, 30, 30, 30)], abs=0.001)


async def test_the_pause_is_random(redis: Redis, connect: Connect) -> None:
    waits = []
    for _ in range(20):
        await redis.delete(CIRCUIT)
        waits.append((await opened(await connect())).wait)
    assert all(0.5 <= wait <= 1.0 for wait in waits)
    assert max(waits) - min(waits) > 0.05


async def test_how_long_it_stays_open_is_told_to_who_only_asks(connect: Connect) -> None:
    limiter = await connect()
    assert await limiter.outage() is None
    wait = (await opened(limiter)).wait
    left = await limiter.outage()
    assert left is not None
    assert wait - 0.4 < left <= wait


# The probe


async def test_of_many_who_ask_at_once_one_gets_the_probe(redis: Redis, connect: Connect) -> None:
    limiters = [await connect() for _ in range(4)]
    await opened(limiters[0])
    await let_probe_come(redis)
    grants = await asyncio.gather(*(limiter.reserve(64) for limiter in limiters for _ in range(15)))
    assert sum(grant.permits for grant in grants) == sum(grant.probe for grant in grants) == 1
    assert {grant.circuit_open for grant in grants} == {False}, "the others wait for its answer"
    assert all(0 < grant.wait <= AHEAD for grant in grants if not grant.permits)


@pytest.mark.parametrize("answered_by", [0, 1])
async def test_the_probes_answer_closes_it_for_everybody(redis: Redis, connect: Connect, answered_by: int) -> None:
    limiters = [await connect(), await connect()]
    granted = await probe(redis, limiters[0])
    await limiters[answered_by].outage(Signs(granted.epoch, answered=1))
    for limiter in limiters:
        grant = await limiter.reserve(10)
        assert (grant.permits, grant.probe, grant.circuit_open) == (10, False, False)
        assert await limiter.outage() is None
    assert not (await limiters[0].reserve(1, Signs(grant.epoch, failed=11))).circuit_open, "it begins afresh"
    assert (await limiters[0].reserve(1, Signs(grant.epoch, failed=1))).wait <= 1.0, "and with a short pause"


@pytest.mark.parametrize("sign", [Sign.FAILED, Sign.ABSENT])
async def test_the_probes_failure_opens_it_again_for_longer(
    redis: Redis, connect: Connect, jitter: Callable[[float], None], sign: Sign
) -> None:
    jitter(0.0)
    ours, theirs = await connect(), await connect()
    granted = await probe(redis, ours)
    assert await ours.outage(Signs(granted.epoch, **{sign.value: 1})) == pytest.approx(1.0, abs=0.001)
    assert (await theirs.reserve(1)).circuit_open


async def test_a_lost_probe_is_replaced_and_its_late_answer_ignored(redis: Redis, connect: Connect) -> None:
    ours, theirs = await connect(probe_life=30.0), await connect(probe_life=30.0)
    asked_at = time.time()
    lost = await probe(redis, ours)
    assert (await theirs.reserve(1)).permits == 0
    assert int((await circuit_of(redis))["probe_at"]) > (asked_at + 30.0) * 1e6
    await let_probe_come(redis)
    second = await theirs.reserve(1)
    assert (second.permits, second.probe) == (1, True)
    await ours.outage(Signs(lost.epoch, answered=1))
    assert (await ours.reserve(1)).permits == 0
    await theirs.outage(Signs(second.epoch, answered=1))
    assert (await ours.reserve(1)).permits == 1


async def test_results_of_an_earlier_epoch_are_no_longer_news(redis: Redis, connect: Connect) -> None:
    limiter = await connect()
    await opened(limiter)
    assert (await limiter.reserve(1, Signs(0, answered=100))).circuit_open
    await let_probe_come(redis)
    granted = await limiter.reserve(1)
    for late in (Signs(0, answered=100), Signs(granted.epoch - 1, failed=100)):
        grant = await limiter.reserve(1, late)
        assert (grant.permits, grant.circuit_open) == (0, False), "the probe still is under way"
    closed = await limiter.reserve(1, Signs(granted.epoch, answered=1))
    for epoch in range(closed.epoch):
        assert not (await limiter.reserve(1, Signs(epoch, failed=100))).circuit_open


async def test_a_429s_pause_holds_for_a_probe_too(redis: Redis, connect: Connect) -> None:
    limiter = await connect()
    await opened(limiter)
    await limiter.throttle(5.0)
    await let_probe_come(redis)
    grant = await limiter.reserve(1)
    assert (grant.permits, grant.circuit_open) == (0, False)
    assert 5.0 - AHEAD < grant.wait <= 5.0
    await redis.hset("expunge:pace:s", mapping={"paused_until": 0, "next": 0})
    assert (await limiter.reserve(1)).probe


async def test_its_key_expires_however_it_stands(redis: Redis, connect: Connect) -> None:
    limiter = await connect()
    await limiter.reserve(1, Signs(failed=1))
    lives = [await redis.pttl(CIRCUIT)]
    granted = await probe(redis, limiter)
    lives.append(await redis.pttl(CIRCUIT))
    await limiter.outage(Signs(granted.epoch, failed=1))
    lives.append(await redis.pttl(CIRCUIT))
    await let_probe_come(redis)
    granted = await limiter.reserve(1)
    await limiter.outage(Signs(granted.epoch, answered=1))
    lives.append(await redis.pttl(CIRCUIT))
    assert all(590_000 < life <= 600_000 for life in lives)


async def test_it_outlives_a_script_flush(redis: Redis, connect: Connect) -> None:
    limiter = await connect()
    await redis.script_flush()
    assert await limiter.outage(Signs(failed=12)) is not None
    await redis.script_flush()
    await let_probe_come(redis)
    granted = await limiter.reserve(1)
    assert granted.probe
    await redis.script_flush()
    assert await limiter.outage(Signs(granted.epoch, answered=1)) is None


# In a process


def always(_: float) -> bool:
    return True


async def one_permit(pacer: Pacer) -> Permit:
    permit = await pacer.permit(Flow(), always)
    assert isinstance(permit, Permit)
    return permit


@pytest.fixture
async def pacers(connect: Connect) -> AsyncIterator[Sequence[Pacer]]:
    """Those of three processes."""
    made = [Pacer(await connect(), SLOTS) for _ in range(3)]
    yield made
    for pacer in made:
        await pacer.close()


async def test_a_circuit_that_opened_elsewhere_stops_a_process_that_never_failed(
    pacers: Sequence[Pacer], jitter: Callable[[float], None]
) -> None:
    jitter(1.0)
    failing, well, _ = pacers
    for _ in range(5):
        well.tell(await one_permit(well), Sign.ANSWERED)
    for _ in range(24):
        failing.tell(await one_permit(failing), Sign.FAILED)
        if await failing.outage() is not None:
            break
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(well.permit(Flow(), always) for _ in range(20)))
    assert all(isinstance(answer, NotNow) and answer.circuit_open and 0 < answer.seconds <= 1.0 for answer in answers)


async def test_a_sign_is_handed_in_with_the_next_question(pacers: Sequence[Pacer]) -> None:
    ours, other, _ = pacers
    permit = await one_permit(ours)
    for _ in range(12):
        ours.tell(permit, Sign.FAILED)
    assert await other.outage() is None
    async with asyncio.timeout(5):
        assert isinstance(await ours.permit(Flow(), always), NotNow)
    assert await other.outage() is not None


async def test_a_sign_is_handed_in_once(pacers: Sequence[Pacer]) -> None:
    ours = pacers[0]
    permit = await one_permit(ours)
    for _ in range(11):
        ours.tell(permit, Sign.FAILED)
    for _ in range(5):
        assert await ours.outage() is None
        await one_permit(ours)


async def test_those_who_wait_for_a_probe_go_on_when_it_is_answered(redis: Redis, pacers: Sequence[Pacer]) -> None:
    for permit in [await one_permit(pacers[0])]:
        for _ in range(12):
            pacers[0].tell(permit, Sign.FAILED)
    assert await pacers[0].outage() is not None
    await let_probe_come(redis)
    waiting = [asyncio.create_task(pacer.permit(Flow(), always)) for pacer in pacers for _ in range(5)]
    async with asyncio.timeout(10):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(2 * AHEAD)
    (first,) = (task for task in waiting if task.done())
    probing = first.result()
    assert isinstance(probing, Permit)
    assert probing.probe
    for pacer in pacers:
        pacer.tell(probing, Sign.ANSWERED)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*waiting)
    assert [isinstance(answer, Permit) and answer.probe for answer in answers].count(True) == 1
    assert all(isinstance(answer, Permit) for answer in answers)


@pytest.mark.parametrize("asks", ["outage", "permit"])
async def test_a_redis_that_fails_loses_no_signs(redis: Redis, pacers: Sequence[Pacer], asks: str) -> None:
    ours = pacers[0]
    permit = await one_permit(ours)
    await redis.config_set("maxmemory", "1")
    try:
        for _ in range(12):
            ours.tell(permit, Sign.FAILED)
        if asks == "outage":
            assert await ours.outage() is not None, "nothing is known to be well"
        else:
            with pytest.raises(RedisError):
                await Limiter(redis, "s", FAST).reserve(1, Signs(failed=1))
            answer = await ours.permit(Flow(), lambda wait: wait < 0.01)
            assert isinstance(answer, NotNow)
            assert not answer.circuit_open
    finally:
        await redis.config_set("maxmemory", "0")
    assert await pacers[1].outage() is None
    assert await ours.outage() is not None
    assert await pacers[1].outage() is not None


# Shards


PATIENT = RetryPolicy(max_attempts=30, first=0.001, longest=0.001)


def with_policy(worker: Worker, policy: RetryPolicy) -> Worker:
    return replace(worker, tools=replace(worker.tools, policy=policy))


async def circuit_of(redis: Redis) -> dict[str, str]:
    """What is kept of the one circuit there is; empty if nothing is."""
    names = await all_keys(redis, "expunge:circuit:*")
    kept: dict[bytes, bytes] = await redis.hgetall(names[0]) if names else {}  # type: ignore[assignment]
    return {name.decode(): value.decode() for name, value in kept.items()}


async def take_turns(worker: Worker, batch_id: str) -> None:
    """As a worker process does: takes what is due until the batch has ended."""
    while (await existing(worker.store.batches, batch_id)).ended_at is None:
        due = await worker.store.shards.feed(batch_id, 4)
        for shard in due.shards if due else []:
            await delete_shard(worker.tools, batch_id, shard)
        await asyncio.sleep(0.02)


async def until_paused(worker: Worker, batch_id: str, reason: StateReason) -> Batch:
    async with asyncio.timeout(10):
        while (batch := await existing(worker.store.batches, batch_id)).state_reason is not reason:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert batch.state is BatchState.PAUSED
    return batch


async def until_probes_failed(redis: Redis, count: int) -> None:
    async with asyncio.timeout(10):
        while int((await circuit_of(redis)).get("opened", 0)) <= count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def go_down(upstream: SimulatorThread, outage: str) -> None:
    if outage == "refused":
        upstream.stop()
    else:
        upstream.use(Scenario(rules=(Rule(fault=outage),)))


def come_back(upstream: SimulatorThread, outage: str, scenario: Scenario | None = None) -> None:
    upstream.use(scenario or Scenario())
    if outage == "refused":
        upstream.start()


async def paused_by_outage(worker: Worker, upstream: SimulatorThread, count: int = 40) -> str:
    """A batch that waits for the upstream, which is down."""
    upstream.stop()
    batch_id = await accepted(worker, ids(count))
    assert await delete_shard(worker.tools, batch_id, 0) is Ending.GIVEN_BACK
    await until_paused(worker, batch_id, StateReason.CIRCUIT_OPEN)
    return batch_id


@pytest.mark.parametrize("outage", ["refused", "server_error", "timeout_before", "reset_before"])
async def test_an_outage_in_the_middle_of_a_batch_costs_time_and_no_record(
    worker: Open, upstream: SimulatorThread, redis: Redis, jitter: Callable[[float], None], outage: str
) -> None:
    """Two workers: the batch says that it waits and until when, hardly anything is sent, and it goes on by itself."""
    jitter(0.0)
    upstream.use(Scenario(latency="10ms"))
    policy = RetryPolicy(max_attempts=5, first=0.2)
    settings = {
        "timeout": 1.0 if outage == "timeout_before" else 5.0,
        "rate_limit": Rate.parse("200/s"),
        "concurrency": 16,
    }
    both = [with_policy(await worker(**settings), policy) for _ in range(2)]
    batch_id = (await submit(both[0].store.batches, ids(160), 20)).batch_id
    turns = [asyncio.create_task(take_turns(each, batch_id)) for each in both]
    await until(lambda: len(upstream.log) >= 40)
    go_down(upstream, outage)
    down_at = time.time()
    batch = await until_paused(both[0], batch_id, StateReason.CIRCUIT_OPEN)
    assert batch.probe_at is not None
    assert down_at < batch.probe_at < time.time() + 1.5
    await until_probes_failed(redis, 1)
    batch = await until_paused(both[1], batch_id, StateReason.CIRCUIT_OPEN)
    assert batch.tally.reasons.keys() == {Reason.CONFIRMED}
    come_back(upstream, outage)
    await asyncio.wait_for(asyncio.gather(*turns), 60)

    batch = await existing(both[0].store.batches, batch_id)
    assert (batch.state, batch.state_reason, batch.probe_at) == (BatchState.COMPLETED, None, None)
    assert batch.tally.reasons == {Reason.CONFIRMED: 160}
    assert Counter(entry.id for entry in upstream.log if entry.executed) == dict.fromkeys(ids(160), 1)
    results = [line.result for page in [both[0].store.batches.pages(batch)] async for lines in page for line in lines]
    in_vain = sum(result.attempts for result in results if result) - 160
    assert 3 <= in_vain <= 2 * (16 + 16) + 4, "what was in flight, or reserved by then, and probes"


@pytest.mark.parametrize("outage", ["server_error", "reset_before"])
async def test_outages_cost_no_record_however_few_are_in_flight_and_however_often_they_come(
    worker: Open, upstream: SimulatorThread, redis: Redis, outage: str
) -> None:
    """Two in flight, three attempts: a record that used them up waits until those that were not tried yet show why."""
    ours = await worker(concurrency=2)
    batch_id = await accepted(ours, ids(60))
    turn = asyncio.create_task(take_turns(ours, batch_id))
    for sent_before in (5, 30):
        await until(lambda: sum(entry.executed for entry in upstream.log) >= sent_before)  # noqa: B023 - at once
        go_down(upstream, outage)
        await until_paused(ours, batch_id, StateReason.CIRCUIT_OPEN)
        come_back(upstream, outage)
        await let_probe_come(redis)
    await asyncio.wait_for(turn, 15)
    batch = await existing(ours.store.batches, batch_id)
    assert batch.tally.reasons.keys() <= {Reason.CONFIRMED, Reason.AFTER_UNANSWERED_ATTEMPT}
    assert Counter(entry.id for entry in upstream.log if entry.executed) == dict.fromkeys(ids(60), 1)


async def test_records_that_always_fail_end_when_no_others_are_left_to_show_why(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="server_error"),)))
    ours = await worker(concurrency=2)
    batch_id = await accepted(ours, ids(8))
    async with asyncio.timeout(10):
        await take_turns(ours, batch_id)
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"server_error"}
    assert Counter(sent(upstream)) == dict.fromkeys(ids(8), 3)


async def test_a_record_that_alone_always_fails_does_not_open_it_and_ends_as_failed(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    """It counts once, however often it is tried."""
    upstream.use(Scenario(rules=(Rule(fault="server_error"),)))
    ours = with_policy(await worker(), PATIENT)
    batch_id = await accepted(ours, ids(1))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == {"c000": "server_error"}
    assert len(upstream.log) == 30
    assert {name: value for name, value in (await circuit_of(redis)).items() if name in ("opened", "bad")} == {
        "bad": "1"
    }


async def test_a_record_that_failed_before_it_was_given_back_does_not_count_again(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="server_error", retry_after="60"),)))
    ours = await worker()
    batch_id = await accepted(ours, ids(5))
    for _ in range(2):
        assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert len(upstream.log) == 10
    await ours.tools.pacer.outage()
    assert (await circuit_of(redis))["bad"] == "5"


async def test_a_few_records_that_fail_among_others_do_not_open_it(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="server_error", ids="bad*"),)))
    ours = await worker()
    batch_id = await accepted(
        ours, [name for pair in zip(ids(40), ids(40, "bad"), ids(40, "d"), strict=True) for name in pair]
    )
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    batch = await existing(ours.store.batches, batch_id)
    assert batch.tally.reasons == {Reason.CONFIRMED: 80, Reason.SERVER_ERROR: 40}
    assert "opened" not in await circuit_of(redis)


async def test_when_nobody_is_there_a_single_record_is_enough_and_it_is_not_given_up(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Not even as its last attempt: it is known by then that the upstream is away."""
    ours = await worker()
    batch_id = await paused_by_outage(ours, upstream, count=1)
    assert (await existing(ours.store.batches, batch_id)).tally.pending == 1
    claim = await claimed(ours.store.shards, batch_id)
    assert claim.histories == {0: History(3, spared=3)}, "its attempts were made in vain, and do not count"


async def test_no_record_ends_for_its_last_attempt_while_it_is_open(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    """The probe's record too goes on to have one more attempt."""
    await paused_by_outage(await worker(), upstream)
    ours = with_policy(await worker(), RetryPolicy(max_attempts=1))
    batch_id = await accepted(ours, ids(5))
    for _ in range(4):
        await let_probe_come(redis)
        assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert (await existing(ours.store.batches, batch_id)).tally.pending == 5
    claim = await claimed(ours.store.shards, batch_id)
    assert sorted(history.attempts for history in claim.histories.values()) == [0, 1, 1, 1, 1]


async def test_while_it_is_open_shards_wait_outside_and_the_others_of_the_batch_too(
    worker: Open, upstream: SimulatorThread, jitter: Callable[[float], None]
) -> None:
    jitter(1.0)
    upstream.stop()
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(60), 10)).batch_id
    shards = ours.store.shards
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    for shard in range(6):
        began = time.monotonic()
        assert await delete_shard(ours.tools, batch_id, shard) is Ending.GIVEN_BACK
        assert time.monotonic() - began < 1.0, "no worker waits for the upstream"
    assert await shards.feed(batch_id, 8) is None, "all of them wait for the probe"
    assert await shards.next_due(batch_id) is None
    probe_at = (await existing(ours.store.batches, batch_id)).probe_at
    assert probe_at is not None
    await asyncio.sleep(max(0.0, probe_at - time.time() + 0.05))
    due = await shards.feed(batch_id, 8)
    assert due is not None
    assert len(due.shards) == 1, "one is enough to ask"


async def test_one_probe_is_sent_however_many_workers_ask(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    both = [await worker() for _ in range(2)]
    batches = [await paused_by_outage(each, upstream) for each in both]
    upstream.use(Scenario(rules=(Rule(fault="server_error"),), latency="300ms"))
    upstream.start()
    await let_probe_come(redis)
    await asyncio.gather(*(delete_shard(each.tools, batch, 0) for each, batch in zip(both, batches, strict=True)))
    assert len(upstream.log) == 1
    for batch_id in batches:
        await until_paused(both[0], batch_id, StateReason.CIRCUIT_OPEN)


async def test_a_batch_runs_again_as_soon_as_the_probe_is_answered(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    ours = await worker()
    batch_id = await paused_by_outage(ours, upstream)
    upstream.use(Scenario(latency="200ms"))
    upstream.start()
    await let_probe_come(redis)
    turn = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    async with asyncio.timeout(5):
        while (batch := await existing(ours.store.batches, batch_id)).state is BatchState.PAUSED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (batch.state, batch.state_reason, batch.probe_at) == (BatchState.RUNNING, None, None)
    assert batch.tally.pending > 0
    assert await turn is Ending.FINISHED


async def test_an_operators_pause_stays_one_when_the_upstream_is_back(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    """Also if it comes while the probe of this very batch is under way."""
    ours = await worker()
    batch_id = await paused_by_outage(ours, upstream)
    upstream.use(Scenario(latency="500ms"))
    upstream.start()
    await let_probe_come(redis)
    turn = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 1)
    await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    assert await turn is Ending.GIVEN_BACK
    batch = await until_paused(ours, batch_id, StateReason.OPERATOR)
    assert (batch.probe_at, batch.tally.done) == (None, len(upstream.log))
    assert await ours.tools.pacer.outage() is None, "the upstream is back"
    other = await accepted(ours, ids(3, "other"))
    assert await delete_shard(ours.tools, other, 0) is Ending.FINISHED
    await until_paused(ours, batch_id, StateReason.OPERATOR)
    upstream.use(Scenario())
    await resume(ours, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED


async def test_a_cancel_while_it_is_open_gives_every_record_its_outcome_and_sends_nothing(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker()
    batch_id = await paused_by_outage(ours, upstream)
    upstream.start()
    await control.cancel(ours.store.batches, ours.store.shards, batch_id, lambda _: None)
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.state_reason, batch.probe_at) == (BatchState.CANCELLED, None, None)
    assert batch.ended_at is not None
    assert batch.tally.reasons == {Reason.CANCELLED: 40}, "no connection was made, so nothing was executed"
    assert len(upstream.log) == 0


async def test_credentials_that_the_probe_finds_refused_pause_the_batch_for_the_operator(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    ours = await worker()
    batch_id = await paused_by_outage(ours, upstream)
    upstream.use(Scenario(rules=(Rule(fault="unauthorized"),)))
    upstream.start()
    await let_probe_come(redis)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    batch = await until_paused(ours, batch_id, StateReason.CREDENTIALS_REFUSED)
    assert (batch.probe_at, batch.tally.pending) == (None, 40)
    assert len(upstream.log) == 1
    upstream.use(Scenario())
    await resume(ours, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert set(sent(upstream)) == set(ids(40))


async def test_another_process_need_not_wait_for_the_probes_life_once_it_is_answered(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    """Its answer closes the circuit, also when the process that sent it has nothing more to ask for."""
    one, other = await worker(), await worker()
    batches = [await paused_by_outage(one, upstream, 1), await paused_by_outage(other, upstream, 5)]
    upstream.start()
    await let_probe_come(redis)
    assert await delete_shard(one.tools, batches[0], 0) is Ending.FINISHED
    async with asyncio.timeout(8):  # a probe's life is longer
        assert await delete_shard(other.tools, batches[1], 0) is Ending.FINISHED


async def test_a_probe_that_failed_is_told_at_once(worker: Open, upstream: SimulatorThread, redis: Redis) -> None:
    """Also when nobody here asks for another permit; else others would wait for an answer that never comes."""
    ours = with_policy(await worker(), RetryPolicy(max_attempts=9, first=0.02))
    batch_id = await paused_by_outage(ours, upstream, 1)
    upstream.use(Scenario(rules=(Rule(fault="server_error", retry_after="300"),)))
    upstream.start()
    await let_probe_come(redis)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    circuit = await circuit_of(redis)
    assert circuit["opened"] == "2"
    assert "probing" not in circuit
    assert len(upstream.log) == 1
    batch = await until_paused(ours, batch_id, StateReason.CIRCUIT_OPEN)
    assert batch.probe_at is not None
    assert batch.probe_at > upstream.log[0].t + 0.9, "the new pause shows"


async def test_a_late_answer_from_before_the_outage_does_not_let_the_batch_run(
    worker: Open, upstream: SimulatorThread
) -> None:
    """It says nothing of how the upstream is now."""
    slow = Rule(fault="latency", latency="1s", ids="c000")
    upstream.use(Scenario(rules=(slow, Rule(fault="server_error", retry_after="30"))))
    ours = await worker(concurrency=32)
    batch_id = await accepted(ours, ids(40))
    turn = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until_paused(ours, batch_id, StateReason.CIRCUIT_OPEN)
    assert await turn is Ending.GIVEN_BACK
    batch = await existing(ours.store.batches, batch_id)
    assert batch.tally.reasons == {Reason.CONFIRMED: 1}
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason.CIRCUIT_OPEN)
