"""One shard from claim to outcome, against the simulator over sockets and a real store."""

import asyncio
import logging
import random
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.conftest import claimed, existing, expire_lease, lines, outcomes, submit, until, written
from tests.integration.conftest import Open
from worker.domain.batches import BatchState, Environment, Lane, StateReason, Target
from worker.domain.outcomes import Reason
from worker.domain.rates import Rate
from worker.domain.records import Doubt, History, Result
from worker.logs import configure
from worker.outfit import Worker
from worker.pacing.pace import AHEAD
from worker.pipeline import delete_shard as module
from worker.pipeline.attempts import RetryPolicy
from worker.pipeline.control import pause
from worker.pipeline.delete_shard import BESIDE, delete_shard
from worker.pipeline.shard_run import Ending
from worker.simulator import PERSONAL_VALUES, Entry, Rule, Scenario, SimulatorThread
from worker.simulator.replies import PERSON
from worker.store import keys


def ids(count: int, prefix: str = "c") -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


def sent(upstream: SimulatorThread) -> list[str]:
    """The customers of all requests, in order."""
    return [entry.id for entry in upstream.log]


async def arrived(upstream: SimulatorThread) -> None:
    """Wait until the upstream has read what was on the wire before: a request that came later is answered."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for _ in range(2):
            await client.get(f"{upstream.url}/_simulator/stats")


async def accepted(worker: Worker, customer_ids: Sequence[str]) -> str:
    """A batch of one shard; returns its ID."""
    return (await submit(worker.store.batches, customer_ids, max(1, len(customer_ids)))).batch_id


async def resume(worker: Worker, batch_id: str) -> None:
    moved, _ = await worker.store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    assert moved


async def attempts(worker: Worker, batch_id: str) -> set[int]:
    """How many attempts the finished records of a batch took."""
    return {line.result.attempts for line in await lines(worker.store.batches, batch_id) if line.result}


# Outcomes


async def test_every_record_has_its_outcome_and_the_batch_completes(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(60))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.tally.reasons) == (BatchState.COMPLETED, {Reason.CONFIRMED: 60})
    assert sorted(sent(upstream)) == ids(60)
    assert {(entry.merchant, entry.type) for entry in upstream.log} == {("m1", "sandbox")}
    assert await attempts(ours, batch_id) == {1}


FAULTS: dict[str, tuple[dict[str, Any], Reason, int]] = {
    "gone": ({"fault": "absent"}, Reason.NOT_FOUND, 1),
    "refused": ({"fault": "rejected", "status": 409}, Reason.CONFLICT, 1),
    "lacking": ({"fault": "rejected", "missing_field": "tax_id"}, Reason.MISSING_FIELD, 1),
    "empty": ({"fault": "status", "status": 204}, Reason.NO_CONTENT, 1),
    "later": ({"fault": "accepted"}, Reason.ACCEPTED_NOT_CONFIRMED, 1),
    "alive": ({"fault": "still_active"}, Reason.STILL_ACTIVE, 1),
    "moved": ({"fault": "redirect"}, Reason.REDIRECTED, 1),
    "proxy": ({"fault": "not_the_api"}, Reason.NOT_THE_API, 1),
    "down": ({"fault": "server_error"}, Reason.SERVER_ERROR, 3),
    "shaky": ({"fault": "server_error", "times": 2}, Reason.CONFIRMED, 3),
    "garbled": ({"fault": "unreadable", "executed": False}, Reason.UNREADABLE_REPLY, 3),
    "silent": ({"fault": "timeout_before"}, Reason.NO_ANSWER, 3),
    "cut": ({"fault": "reset_before"}, Reason.NO_ANSWER, 3),
    "unheard": ({"fault": "timeout_after", "times": 1}, Reason.AFTER_UNANSWERED_ATTEMPT, 2),
    "cutafter": ({"fault": "reset_after", "times": 1}, Reason.AFTER_UNANSWERED_ATTEMPT, 2),
    "brokenafter": ({"fault": "server_error", "times": 1, "executed": True}, Reason.AFTER_UNANSWERED_ATTEMPT, 2),
    "limited": ({"fault": "rate_limited", "retry_after": "0"}, Reason.RATE_LIMITED, 3),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_of_the_upstream_ends_as_the_specification_says(
    worker: Open, upstream: SimulatorThread, fault: str
) -> None:
    """The tables of SPEC 2 and 3, over sockets, with the number of requests that each takes.

    One fault at a time: all of them together are as many failures as open the circuit, in an unlucky order.
    """
    rule, reason, requests = FAULTS[fault]
    upstream.use(Scenario(rules=(Rule(ids=fault, **rule),)))
    ours = await worker(timeout=1.0)
    batch_id = await accepted(ours, [fault, "fine"])
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == {fault: reason.text, "fine": "confirmed"}
    assert Counter(sent(upstream)) == {fault: requests, "fine": 1}
    for line in await lines(ours.store.batches, batch_id):
        assert line.result is not None
        assert line.result.attempts == Counter(sent(upstream))[line.customer_id]
    assert (await existing(ours.store.batches, batch_id)).state is BatchState.COMPLETED


async def test_without_a_connection_a_record_fails_and_nobody_claims_that_it_was_sent(
    worker: Open, upstream: SimulatorThread
) -> None:
    """One that had bad luck: when nobody is there at all, the circuit opens before it comes to that."""
    upstream.stop()
    ours = await worker()
    ours = replace(ours, tools=replace(ours.tools, policy=RetryPolicy(max_attempts=2, first=0.02)))
    batch_id = await accepted(ours, ids(1))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == {"c000": "no_connection"}


async def test_every_attempt_of_a_record_has_one_idempotency_key_of_its_own(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="server_error", times=1),)))
    ours = await worker()
    for _ in range(2):
        await delete_shard(ours.tools, await accepted(ours, ids(5)), 0)
        upstream.use(Scenario(rules=(Rule(fault="server_error", times=9),)))
    found = {entry.idempotency_key for entry in upstream.log}
    by_customer = {(entry.id, entry.idempotency_key) for entry in upstream.log}
    assert None not in found
    assert len(found) == len(by_customer) == 5
    assert len(upstream.log) == 10


async def test_another_batch_has_other_idempotency_keys(worker: Open, upstream: SimulatorThread) -> None:
    """Else an upstream that remembers them would answer for the batch before."""
    upstream.use(Scenario(rules=(Rule(fault="rejected"),)))
    ours = await worker()
    for batch_id in [await accepted(ours, ids(5)), await accepted(ours, ids(5))]:
        await delete_shard(ours.tools, batch_id, 0)
    assert len({entry.idempotency_key for entry in upstream.log}) == 10


async def test_what_the_ledger_knows_needs_no_call(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    first = await accepted(ours, ids(5))
    await delete_shard(ours.tools, first, 0)
    requests = len(upstream.log)
    second = await accepted(ours, [*ids(5), "new"])
    assert await delete_shard(ours.tools, second, 0) is Ending.FINISHED
    assert sent(upstream)[requests:] == ["new"]
    found = {line.customer_id: line.result for line in await lines(ours.store.batches, second)}
    for customer_id in ids(5):
        result = found[customer_id]
        assert result is not None
        assert (result.reason, result.attempts) == (Reason.DELETED_EARLIER, 0)
        assert (result.note or "").startswith(f"batch {first}, 20")


async def test_an_id_that_this_workers_pattern_does_not_accept_is_never_sent(
    worker: Open, upstream: SimulatorThread
) -> None:
    """It was accepted by another pattern; it is checked again just before sending (SPEC 2)."""
    ours = await worker(id_pattern="c[0-9]+")
    batch_id = await accepted(ours, ["c1", "x1", "c2", "c3x"])
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert sorted(sent(upstream)) == ["c1", "c2"]
    assert await outcomes(ours.store.batches, batch_id) == {
        "c1": "confirmed",
        "x1": "invalid_id",
        "c2": "confirmed",
        "c3x": "invalid_id",
    }


async def test_an_id_that_would_hit_another_resource_is_never_sent_whatever_the_pattern(
    worker: Open, upstream: SimulatorThread
) -> None:
    unsafe = ["", ".", "..", "../c9", "a/b", "a?b", "a#b", "%2e", "a%2Fb", "a b", "a\nb", "a\0b", "ä", "a;b", "a\\b"]
    ours = await worker(id_pattern="(?s).*")
    batch_id = await accepted(ours, [*unsafe, "c1"])
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert sent(upstream) == ["c1"]
    assert await outcomes(ours.store.batches, batch_id) == dict.fromkeys(unsafe, "invalid_id") | {"c1": "confirmed"}


async def test_a_worker_with_time_left_goes_on_with_the_next_shards_of_its_batch(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(60), 10)).batch_id
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert Counter(sent(upstream)) == dict.fromkeys(ids(60), 1)
    assert (await existing(ours.store.batches, batch_id)).state is BatchState.COMPLETED


async def test_no_more_requests_are_in_flight_than_configured_also_between_two_shards(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(latency="30ms..60ms"))
    ours, most = await worker(concurrency=4), 0
    batch_id = (await submit(ours.store.batches, ids(120), 10)).batch_id
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    while not work.done():
        in_flight = upstream.stats()["in_flight"]
        assert isinstance(in_flight, int)
        most = max(most, in_flight)
        await asyncio.sleep(0.001)
    assert await work is Ending.FINISHED
    assert most == 4


async def test_a_store_that_cannot_be_asked_is_told_as_such(worker: Open, upstream: SimulatorThread) -> None:
    """The caller waits for Redis then, and must know it from an error of ours."""
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    now = time.time()
    digest = ours.store.ledger.digest("c000")
    await ours.store.redis.set(ours.store.ledger.periods.prefix(now).encode() + digest[:2], "no hash")
    told = False
    try:
        await delete_shard(ours.tools, batch_id, 0)
    except* RedisError:  # alone or in a group, as the task takes it
        told = True
    assert told
    assert len(upstream.log) == 0


# What pauses


@pytest.mark.parametrize("fault", ["unauthorized", "forbidden"])
async def test_refused_credentials_pause_the_batch_and_count_no_attempt(
    worker: Open, upstream: SimulatorThread, fault: str
) -> None:
    upstream.use(Scenario(rules=(Rule(fault=fault),)))
    ours = await worker()
    batch_id = await accepted(ours, ids(100))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason.CREDENTIALS_REFUSED)
    assert batch.tally.pending == 100
    assert len(upstream.log) <= 8
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.NOT_RUNNING

    upstream.use(Scenario())
    await resume(ours, batch_id)
    claim = await claimed(ours.store.shards, batch_id)
    assert {history.attempts for history in claim.histories.values()} <= {0}
    await ours.store.shards.release(claim, {}, 0.0)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await attempts(ours, batch_id) == {1}


async def test_a_reply_for_another_customer_is_unknown_and_pauses_the_batch(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="other_customer", ids="c005"),), latency="10ms"))
    ours = await worker(concurrency=4)
    batch_id = await accepted(ours, ids(100))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason.REPLY_FOR_ANOTHER_CUSTOMER)
    assert (await outcomes(ours.store.batches, batch_id))["c005"] == "reply_for_another_customer"
    assert len(upstream.log) <= 6 + 2 * 4
    assert batch.tally.done == len(upstream.log)  # what was in flight has its outcome all the same


async def test_a_429_pauses_all_workers_and_costs_no_record(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(rules=(Rule(fault="rate_limited", retry_after="1", times=1, ids="c010"),)))
    one, other = (
        await worker(concurrency=2, rate_limit=Rate.parse("100/s")),
        await worker(concurrency=2, rate_limit=Rate.parse("100/s")),
    )
    first, second = await accepted(one, ids(60)), await accepted(other, ids(60, "d"))
    endings = await asyncio.gather(delete_shard(one.tools, first, 0), delete_shard(other.tools, second, 0))
    assert set(endings) == {Ending.FINISHED}
    throttled_at = next(entry.t for entry in upstream.log if entry.status == 429)
    during = [entry for entry in upstream.log if throttled_at + AHEAD + 0.1 < entry.t < throttled_at + 0.95]
    assert during == []
    assert set((await outcomes(one.store.batches, first)).values()) == {"confirmed"}
    assert set((await outcomes(other.store.batches, second)).values()) == {"confirmed"}


async def test_a_wait_longer_than_the_shards_time_happens_outside_the_worker(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Promise 5: the shard is given back and due again when the upstream asked for, with its attempts."""
    upstream.use(Scenario(rules=(Rule(fault="server_error", retry_after="300", ids="c001"),)))
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    began = time.monotonic()
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert time.monotonic() - began < 5
    assert (await outcomes(ours.store.batches, batch_id)) == {"c000": "confirmed", "c001": None, "c002": "confirmed"}
    score = await ours.store.redis.zscore(keys.of_batch(batch_id, "shards"), "0")
    assert isinstance(score, float)
    assert 290 < score / 1000 - time.time() <= 300
    claim = await claimed(ours.store.shards, batch_id)
    assert claim.histories == {1: History(1, Doubt.SERVER_FAILED)}


# What stops


async def test_a_stop_gives_the_shard_back_and_sends_nothing_more(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(latency="20ms"))
    stopped_at: list[int] = []

    def stopping() -> bool:
        if len(upstream.log) >= 20:
            stopped_at.append(len(upstream.log))
        return bool(stopped_at)

    ours = await worker(stopping, concurrency=4)
    batch_id = await accepted(ours, ids(100))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert len(upstream.log) <= stopped_at[0] + 4
    batch = await existing(ours.store.batches, batch_id)
    assert batch.tally.done == len(upstream.log)  # what was in flight came to its end

    due = await ours.store.shards.feed(batch_id, 4)
    assert due is not None
    assert due.shards == [0]
    successor = await worker(concurrency=64)
    upstream.use(Scenario())
    assert await delete_shard(successor.tools, batch_id, 0) is Ending.FINISHED
    assert Counter(sent(upstream)) == dict.fromkeys(ids(100), 1)
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"confirmed"}


async def test_no_delete_starts_after_a_pause_was_acknowledged(worker: Open, upstream: SimulatorThread) -> None:
    """Promise 7."""
    upstream.use(Scenario(latency="20ms"))
    ours = await worker(concurrency=8, rate_limit=Rate.parse("100/s"))
    operator = await worker()
    batch_id = await accepted(ours, ids(400))
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 20)
    await pause(operator.store.batches, batch_id)
    before = len(upstream.log)
    assert await work is Ending.GIVEN_BACK
    await asyncio.sleep(0.5)
    assert len(upstream.log) == before
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.tally.done) == (BatchState.PAUSED, before)


async def test_who_lost_the_shard_stops_within_a_second_and_writes_nothing_more(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(latency="30ms"))
    ours = await worker(concurrency=4)
    batch_id = await accepted(ours, ids(400))
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 30)
    far_away = int((time.time() + 60) * 1000)
    await ours.store.redis.hset(keys.of_batch(batch_id, "holders"), "0", f"another {far_away} 0")
    taken_at = time.time()
    before = await lines(ours.store.batches, batch_id)
    assert await work is Ending.LOST
    assert upstream.log[-1].t < taken_at + 1.0
    assert await lines(ours.store.batches, batch_id) == before
    holder = await ours.store.redis.hget(keys.of_batch(batch_id, "holders"), "0")
    assert holder == f"another {far_away} 0".encode()


async def test_a_shard_that_is_not_ours_to_take_sends_nothing(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    claim = await claimed(ours.store.shards, batch_id, 0, "another")
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.HELD
    await ours.store.shards.release(claim, {}, 0.0)
    await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.NOT_RUNNING
    await resume(ours, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    requests = len(upstream.log)
    assert await delete_shard(ours.tools, batch_id, 0) in (Ending.DONE, Ending.NOT_RUNNING)
    assert len(upstream.log) == requests == 3


async def test_what_is_not_done_in_the_shards_time_is_given_back(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUDGET", 0.5)
    upstream.use(Scenario(latency="20ms"))
    ours = await worker(concurrency=2)
    batch_id = await accepted(ours, ids(1000))
    began = time.monotonic()
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert time.monotonic() - began < 5.0, "all of it takes ten seconds at least"
    assert 0 < len(upstream.log) < 1000
    assert (await existing(ours.store.batches, batch_id)).tally.done == len(upstream.log)
    assert not (await claimed(ours.store.shards, batch_id)).deaths


async def test_an_outage_of_the_store_costs_time_and_no_record(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    """Promise 9, and promise 6: while it lasts, nothing is sent beyond what was reserved."""
    upstream.use(Scenario(latency="10ms"))
    ours = await worker(concurrency=4, rate_limit=Rate.parse("100/s"))
    batch_id = await accepted(ours, ids(100))
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 20)
    try:
        await redis.config_set("maxmemory", "1")
        full_at = time.time()
        await asyncio.sleep(1.2)
    finally:
        await redis.config_set("maxmemory", "0")
    assert [entry for entry in upstream.log if entry.t > full_at + AHEAD + 0.1] == []
    assert await work is Ending.FINISHED
    assert Counter(sent(upstream)) == dict.fromkeys(ids(100), 1)
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"confirmed"}


# Cancelled and interrupted


async def test_no_request_starts_after_a_shard_was_cancelled(worker: Open, upstream: SimulatorThread) -> None:
    """No coroutine outlives its shard: a DELETE that does is the worst fault there is."""
    upstream.use(Scenario(latency="20ms"))
    ours = await worker(concurrency=8)
    batch_id = await accepted(ours, ids(400))
    before = asyncio.all_tasks()
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 50)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert {task.get_coro().__qualname__ for task in left} <= {"Pacer._grant_all"}  # type: ignore[union-attr]
    await arrived(upstream)
    requests = len(upstream.log)
    await asyncio.sleep(0.4)
    assert len(upstream.log) == requests
    done = (await existing(ours.store.batches, batch_id)).tally.done
    assert requests - 8 <= done <= requests  # what was known when it was cancelled is written


async def test_a_cancelled_shard_always_ends(worker: Open, upstream: SimulatorThread) -> None:
    """Whenever the cancellation comes: a shard that hung would hold its worker process for ever."""
    upstream.use(Scenario(latency="0ms..10ms", rules=(Rule(fault="server_error", share=0.1, times=1),)))
    ours, chance = await worker(concurrency=4, rate_limit=Rate.parse("1000/s")), random.Random(1)  # noqa: S311
    for number in range(25):
        batch_id = await accepted(ours, ids(200, f"r{number}x"))
        work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
        await asyncio.sleep(chance.uniform(0.0, 0.3) if number % 5 else 0.25 + chance.uniform(0.0, 0.01))
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=5)
        assert done == {work}, [task.get_stack() for task in asyncio.all_tasks()]
        await arrived(upstream)
        requests = len(upstream.log)
        await existing(ours.store.batches, batch_id)
        await asyncio.sleep(0.02)
        assert len(upstream.log) == requests


async def test_a_404_after_the_shard_was_interrupted_is_told_from_a_customer_who_never_was(
    worker: Open, upstream: SimulatorThread
) -> None:
    """A worker died with attempts in flight (SPEC 2); what has an outcome is not sent again (promise 4)."""
    upstream.use(Scenario(rules=(Rule(fault="absent", ids="never*"),)))
    ours = await worker(concurrency=8)
    batch_id = await accepted(ours, [*ids(4), *ids(3, "x"), "never"])
    dead = await claimed(ours.store.shards, batch_id)
    for customer_id in [*ids(4), "never"]:
        await ours.tools.client.delete(customer_id, "key")
    heard = {0: Result(Reason.CONFIRMED, attempts=1), 7: Result(Reason.NOT_FOUND, attempts=1)}
    await ours.store.shards.record(dead, written(dead, heard), time.time())
    await expire_lease(ours.store.redis, batch_id)

    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == (
        dict.fromkeys([*ids(4), *ids(3, "x")], "confirmed")
        | dict.fromkeys(ids(4)[1:], "after_interrupted_attempt")
        | {"never": "not_found"}
    )
    assert Counter(sent(upstream)) == Counter([*ids(4), *ids(3, "x"), "never", *ids(4)[1:]])


async def test_a_404_after_a_death_is_after_interrupted_attempt_also_for_records_that_were_given_back_before(
    worker: Open,
) -> None:
    """What is known of their attempts by an earlier turn does not hide that their holder died."""
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    given_back = {0: History(), 1: History(2), 2: History(1, Doubt.SERVER_FAILED)}
    await ours.store.shards.release(await claimed(ours.store.shards, batch_id), given_back, 0.0)
    await claimed(ours.store.shards, batch_id, 0, "dead")
    for customer_id in ids(3):
        await ours.tools.client.delete(customer_id, "key")
    await expire_lease(ours.store.redis, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == {
        "c000": "after_interrupted_attempt",
        "c001": "after_interrupted_attempt",
        "c002": "after_unanswered_attempt",
    }


async def test_what_a_cancelled_run_had_in_flight_counts_as_unanswered(worker: Open, upstream: SimulatorThread) -> None:
    """As Celery's time limit cancels it: the shard is given back at once, and the attempts that were cut off count."""
    upstream.use(Scenario(rules=(Rule(fault="timeout_after", ids="slow*"),)))
    ours = await worker(concurrency=8, timeout=60.0)
    batch_id = await accepted(ours, [*ids(10), *ids(4, "slow")])
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) == 14)

    async def have_been_heard() -> bool:
        return (await existing(ours.store.batches, batch_id)).tally.done >= 10

    await until(have_been_heard)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    upstream.use(Scenario())
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == (
        dict.fromkeys(ids(10), "confirmed") | dict.fromkeys(ids(4, "slow"), "after_unanswered_attempt")
    )
    assert Counter(sent(upstream)) == dict.fromkeys(ids(10), 1) | dict.fromkeys(ids(4, "slow"), 2)


async def test_a_404_in_an_uninterrupted_shard_is_a_customer_who_is_not_there(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Also after a shard that was given back: nothing of it was in doubt."""
    upstream.use(Scenario(customers=frozenset()))
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    await ours.store.shards.release(await claimed(ours.store.shards, batch_id), {}, 0.0)
    await delete_shard(ours.tools, batch_id, 0)
    assert await outcomes(ours.store.batches, batch_id) == dict.fromkeys(ids(3), "not_found")


async def test_the_attempts_of_an_earlier_holder_count(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(rules=(Rule(fault="server_error"),)))
    ours = await worker()
    batch_id = await accepted(ours, ids(2))
    claim = await claimed(ours.store.shards, batch_id)
    tried = {0: History(2, Doubt.UNANSWERED, Reason.UNREADABLE_REPLY), 1: History(2, Doubt.SERVER_FAILED)}
    await ours.store.shards.release(claim, tried, 0.0)
    await delete_shard(ours.tools, batch_id, 0)
    assert Counter(sent(upstream)) == {"c000": 1, "c001": 1}
    assert await outcomes(ours.store.batches, batch_id) == {"c000": "unreadable_reply", "c001": "server_error"}


# Promise 8: no personal data rests here


@pytest.fixture
def debug_log() -> Iterator[Callable[[], None]]:
    """Call it to log as a worker does with EXPUNGE_LOG_LEVEL=debug; what that changes is put back."""
    root, celery = logging.getLogger(), logging.getLogger("celery")
    handlers, level, celery_level = root.handlers[:], root.level, celery.level
    yield lambda: configure("debug")
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    celery.setLevel(celery_level)


def personal_replies() -> Scenario:
    """Replies of every kind, each with the whole file of the customer in it."""
    file = orjson.dumps(PERSON).decode()
    inner = '"request_id":"{request_id}","success":false,"data":{"customer_id":"{customer_id}","individual":' + file
    envelope = '{"status":false,"message":' + file + ',"data":{' + inner + '}},"more":' + file + "}"
    page = "<html>" + file + "</html>"
    return Scenario(
        rules=(
            Rule(ids="rejected*", fault="rejected", body=envelope),
            Rule(ids="lacking*", fault="rejected", missing_field=("tax_id",), shape="example"),
            Rule(ids="error*", fault="server_error", body=envelope),
            Rule(ids="page*", fault="server_error", body=page),
            Rule(ids="html*", fault="unreadable", body=page),
            Rule(ids="cut*", fault="unreadable", shape="truncated"),
            Rule(ids="list*", fault="unreadable", body="[" + envelope + "]"),
            Rule(ids="absent*", fault="status", status=404, body=envelope),
            Rule(ids="proxy*", fault="not_the_api", body=page),
            Rule(ids="alive*", fault="still_active"),
            Rule(ids="other*", fault="other_customer"),
            Rule(ids="secret*", fault="unauthorized", body=envelope),
            Rule(ids="moved*", fault="redirect", location="/" + str(PERSON["last_name"])),
        )
    )


KINDS = ("fine", "rejected", "lacking", "error", "page", "html", "cut", "list", "absent", "proxy", "alive", "moved")


async def test_nothing_of_the_customers_file_rests_in_the_store_or_in_the_log(
    worker: Open,
    upstream: SimulatorThread,
    redis: Redis,
    debug_log: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    debug_log()
    upstream.use(personal_replies())
    ours = await worker()
    logging.getLogger().addHandler(caplog.handler)  # what libraries would say if somebody let them
    logging.getLogger().setLevel(logging.DEBUG)
    customer_ids = [f"{kind}_canary_{number}" for number in range(3) for kind in KINDS]
    batches, endings = [], []
    for batch in (customer_ids, ["other_canary"] * 3, ["secret_canary"] * 3):
        batches.append(await accepted(ours, batch))
        endings.append(await delete_shard(ours.tools, batches[-1], 0))
    assert endings[0] is Ending.FINISHED
    assert set((await outcomes(ours.store.batches, batches[0])).values()) >= {
        "confirmed", "bad_request", "missing_field", "server_error", "unreadable_reply", "not_found", "not_the_api",
        "still_active", "redirected",
    }  # fmt: skip
    assert [(await existing(ours.store.batches, batch_id)).state_reason for batch_id in batches[1:]] == [
        StateReason.REPLY_FOR_ANOTHER_CUSTOMER,
        StateReason.CREDENTIALS_REFUSED,
    ]

    printed = "".join(capsys.readouterr())
    assert "batch paused" in printed  # the log was captured, then
    stored = [piece async for piece in everything(redis)]
    assert any(b"fine_canary_0" in piece for piece in stored)  # and the store was looked through
    for value in PERSONAL_VALUES:
        assert value not in printed
        assert value not in caplog.text
        assert [piece for piece in stored if value.encode() in piece] == []
    for customer_id in (*customer_ids, "other_canary", "secret_canary"):
        assert customer_id not in printed
        assert [piece for piece in stored if customer_id.encode() in piece and not piece.startswith(b"[")] == []


async def everything(redis: Redis) -> AsyncIterator[bytes]:
    """All keys and values there are, taken apart and unpacked, and their dumps."""
    async for key in redis.scan_iter():
        yield key
        dump = await redis.dump(key)
        assert dump is not None
        yield dump
        for piece in await _pieces(redis, key):
            yield piece
            with suppress(zlib.error):
                yield zlib.decompress(piece)


async def _pieces(redis: Redis, key: bytes) -> list[bytes]:
    found: Any
    match await redis.type(key):
        case b"hash":
            found = await redis.hgetall(key)
            return [*found.keys(), *found.values()]
        case b"string":
            found = [await redis.get(key)]
        case b"zset":
            found = await redis.zrange(key, 0, -1)
        case b"set":
            found = await redis.smembers(key)
        case b"list":
            found = await redis.lrange(key, 0, -1)
        case b"stream":
            entries: list[tuple[bytes, dict[bytes, bytes]]] = await redis.xrange(key)  # type: ignore[assignment]
            found = [piece for _, fields in entries for piece in (*fields.keys(), *fields.values())]
        case other:
            raise AssertionError(f"look into {other!r} too")
    return list(found)


async def test_what_may_be_kept_of_a_reply_is_kept(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(rules=(Rule(fault="deleted_with_missing_field", missing_field=("tax_id", "dob")),)))
    ours = await worker()
    batch_id = await accepted(ours, ids(1))
    await delete_shard(ours.tools, batch_id, 0)
    (line,) = await lines(ours.store.batches, batch_id)
    assert line.result is not None
    assert (line.result.http_status, line.result.missing_field, line.result.is_wallet_ready) == (
        200,
        ("tax_id", "dob"),
        False,
    )
    assert len(line.result.request_id or "") == 32


async def test_a_customer_is_named_in_the_log_by_a_short_digest(
    worker: Open,
    upstream: SimulatorThread,
    debug_log: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    debug_log()
    upstream.use(Scenario(rules=(Rule(fault="unauthorized"),)))
    ours = await worker(concurrency=1)
    batch_id = await accepted(ours, ["customer_canary"])
    await delete_shard(ours.tools, batch_id, 0)
    printed = capsys.readouterr().err
    assert f"customer={ours.store.digester.log('customer_canary')}" in printed
    assert "customer_canary" not in printed


def test_entries_of_the_simulator_tell_when_a_request_came() -> None:
    """The tests above compare its clock with ours."""
    assert Entry._fields[0] == "t"


# One message is a turn


async def test_one_message_works_through_the_shards_of_a_batch_that_is_alone(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(60), 7)).batch_id
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert (await existing(ours.store.batches, batch_id)).state is BatchState.COMPLETED
    assert sorted(sent(upstream)) == ids(60)


async def test_a_turn_begins_other_batches_beside_its_own_and_each_is_accounted_for(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(latency="20ms"))
    ours = await worker()
    batches = [(await submit(ours.store.batches, ids(200, f"batch{number}"), 7)).batch_id for number in range(3)]
    turn = asyncio.create_task(delete_shard(ours.tools, batches[0], 0))
    await until(lambda: len(upstream.log) >= 8)
    batches.append((await submit(ours.store.batches, ids(5, "late"), 5)).batch_id)
    assert await turn is Ending.FINISHED
    asked = sent(upstream)
    assert sorted(asked) == sorted([*ids(200, "batch0"), *ids(200, "batch1"), *ids(200, "batch2"), *ids(5, "late")])
    assert max(map(asked.index, ids(5, "late"))) < len(asked) * 0.8, "it waited for the others' end"
    for batch_id in batches:
        assert (await existing(ours.store.batches, batch_id)).state is BatchState.COMPLETED


async def test_a_turn_leaves_batches_of_another_target_alone(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    other = await submit(ours.store.batches, ids(5, "other"), 5, target=Target(Environment.SANDBOX, "m2"))
    batch_id = (await submit(ours.store.batches, ids(60), 7)).batch_id
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert sorted(sent(upstream)) == ids(60)
    assert (await existing(ours.store.batches, other.batch_id)).tally.pending == 5


async def begun(ours: Worker, batches: list[str]) -> list[bool]:
    return [bool(await ours.store.redis.hlen(keys.of_batch(batch_id, "holders"))) for batch_id in batches]


async def test_a_process_works_on_few_batches_at_once_and_on_urgent_ones_besides(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="timeout_after"),)))
    ours = await worker(timeout=60.0)
    batches = [(await submit(ours.store.batches, ids(20, f"batch{number}"), 20)).batch_id for number in range(12)]
    turn = asyncio.create_task(delete_shard(ours.tools, batches[0], 0))

    async def are_begun() -> bool:
        return (await begun(ours, batches)).count(True) >= BESIDE

    await until(are_begun)
    await asyncio.sleep(2 * module._LOOK_EVERY)
    held = await begun(ours, batches)
    assert held.count(True) == BESIDE
    assert held[0]
    urgent = (await submit(ours.store.batches, ids(20, "urgent"), 20, lane=Lane.URGENT)).batch_id

    async def is_begun() -> bool:
        return await begun(ours, [urgent]) == [True]

    await until(is_begun)
    turn.cancel()
    with suppress(asyncio.CancelledError):
        await turn


async def test_of_more_batches_than_a_process_works_on_at_once_each_has_its_turn(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(latency="10ms"))
    ours = await worker(concurrency=16)
    batches = [(await submit(ours.store.batches, ids(100, f"batch{number}"), 5)).batch_id for number in range(12)]
    turn = asyncio.create_task(delete_shard(ours.tools, batches[0], 0))
    done = [0]
    while not all(done) and not turn.done():
        await asyncio.wait([turn], timeout=0.05)
        done = [(await existing(ours.store.batches, batch_id)).tally.done for batch_id in batches]
    assert max(done) < 100, "some waited until others had ended"
    assert await turn is Ending.FINISHED


@pytest.mark.parametrize("shard_size", [1, 3, 20])
async def test_a_turn_holds_few_shards_at_once_and_leaves_the_others_to_other_workers(
    worker: Open, upstream: SimulatorThread, shard_size: int
) -> None:
    """As many as keep the process's slots busy, and one more; and never more requests in flight than slots."""
    upstream.use(Scenario(latency="400ms"))
    ours = await worker(concurrency=8)
    batch_id = (await submit(ours.store.batches, ids(80), shard_size)).batch_id
    turn = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    most = in_flight = 0
    while not turn.done():
        in_flight = max(in_flight, int(str(upstream.stats()["in_flight"])))
        held: list[bytes] = await ours.store.redis.hvals(keys.of_batch(batch_id, "holders"))  # type: ignore[assignment]
        most = max(most, sum(not value.startswith(b"-") for value in held))
        await asyncio.sleep(0.002)
    assert await turn is Ending.FINISHED
    assert most <= -(-2 * 8 // shard_size) + 2
    assert in_flight == 8
