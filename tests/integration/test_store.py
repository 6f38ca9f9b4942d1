"""Batches in Redis: accepted in whole or not at all, read back as they are, and moved only as SPEC 5 allows."""

import asyncio
import itertools
import os
import signal
import time
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout

from tests.conftest import (
    DELETED,
    INVALID,
    TARGET,
    all_keys,
    claimed,
    describe,
    existing,
    finish,
    lifetimes,
    lines,
    load,
    new_batch_id,
    submit,
    written,
)
from worker.domain.batches import TRANSITIONS, BatchState, Environment, StateReason, Target
from worker.domain.errors import ExpungeError, StoreError
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History, Result
from worker.pipeline.cancel import settle_cancelled
from worker.store import keys
from worker.store.connection import readable_errors
from worker.store.loading import Accepted
from worker.store.shards import NotClaimed, Standing
from worker.wiring import Store

RETENTION = 30 * 86_400
IDS = [f"c{number}" for number in range(7)]
OTHER_MERCHANT = Target(Environment.SANDBOX, "m2")
PRODUCTION = Target(Environment.PRODUCTION, "m1")


# Connections


async def test_a_command_can_be_cancelled_at_any_moment(redis: Redis) -> None:
    """A cancellation that is lost would leave behind somebody who goes on writing, or waiting, for ever."""

    async def asks_for_ever() -> None:
        while True:
            await redis.ping()

    for moment in range(200):
        asking = asyncio.create_task(asks_for_ever())
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking], timeout=5)
        assert asking.cancelled()


async def test_a_command_that_was_cancelled_leaves_no_answer_to_the_next(redis: Redis) -> None:
    async def asks() -> None:
        await redis.echo("of the one before")

    for moment in range(40):
        asking = asyncio.create_task(asks())
        for _ in range(moment):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await redis.echo(str(moment)) == str(moment).encode()


async def test_a_server_that_takes_no_more_is_given_up_and_the_next_command_begins_anew(redis: Redis) -> None:
    """Half a command may be on its way: what follows on the same connection would be read as its other half."""
    redis.connection_pool.connection_kwargs["socket_timeout"] = 0.2
    redis.set_retry(Retry(NoBackoff(), 0))
    server = (await redis.info("server"))["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(RedisTimeout, match="writing"):
            await redis.set("key", b"x" * 20_000_000)
    finally:
        os.kill(server, signal.SIGCONT)
    assert await redis.get("key") is None


# Accepting


async def test_nothing_of_a_batch_counts_before_its_commit(store: Store) -> None:
    description, batch_id = describe(IDS), new_batch_id()
    await load(store.batches, IDS, description, {1: INVALID}, batch_id)
    assert await store.batches.get(batch_id) is None
    assert await store.batches.recent(10) == []
    assert list(await store.batches.active(TARGET)) == []
    assert await store.batches.known(description) is None
    assert await store.shards.feed(batch_id, 10) is None


async def test_what_a_dead_submission_left_behind_expires_by_itself(store: Store) -> None:
    batch_id = new_batch_id()
    await load(store.batches, IDS, describe(IDS), {1: INVALID, 5: INVALID}, batch_id)
    left = await lifetimes(store.redis, await all_keys(store.redis))
    assert set(left) == {keys.of_batch(batch_id, part) for part in ("ids", "shards", "out:0", "out:1")}
    assert all(0 < seconds <= 3600 for seconds in left.values())


async def test_while_redis_is_full_batches_are_still_read(store: Store, redis: Redis) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await redis.config_set("maxmemory", "1")
    try:
        batch = await existing(store.batches, batch_id)
        assert (batch.tally.pending, await store.batches.recent(10)) == (len(IDS), [batch])
    finally:
        await redis.config_set("maxmemory", "0")


async def test_a_server_that_fills_up_within_a_transaction_is_said_to_be_full(redis: Redis, redis_url: str) -> None:
    async with redis.client() as connection:
        say: Any = connection.execute_command
        await say("MULTI")
        await say("SET", "a", "b")
        await redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreError, match="is full"), readable_errors(redis_url):
                await say("EXEC")
        finally:
            await redis.config_set("maxmemory", "0")


async def test_a_discarded_batch_leaves_no_key(store: Store) -> None:
    loading = await load(store.batches, IDS, describe(IDS), {1: INVALID})
    await loading.discard()
    assert await all_keys(store.redis) == []


async def test_an_accepted_batch_is_there_in_whole_and_does_not_expire(store: Store) -> None:
    accepted = await submit(store.batches, IDS, known={1: INVALID, 4: Result(Reason.DUPLICATE, first_row=1)})
    assert accepted.known_by is None
    batch = await existing(store.batches, accepted.batch_id)
    assert (batch.state, batch.state_reason, batch.ended_at) == (BatchState.RUNNING, None, None)
    assert (batch.tally.pending, batch.tally[Outcome.SKIPPED]) == (5, 2)
    assert list(await store.batches.active(TARGET)) == [accepted.batch_id]
    assert [found.id for found in await store.batches.recent(10)] == [accepted.batch_id]
    names = [name for name in await all_keys(store.redis) if name != keys.AUDIT]
    assert set((await lifetimes(store.redis, names)).values()) == {-1}


async def test_what_a_submission_says_of_itself_is_read_back_unchanged(store: Store) -> None:
    given = describe(
        IDS, 2, source="Kündigungen ;\n.csv", columns=("n", 'a "b", c', ""), id_column='a "b", c', reference="R ä 1"
    )
    accepted = await (await load(store.batches, IDS, given)).commit(given, again=False)
    assert (await existing(store.batches, accepted.batch_id)).description == given


async def test_times_of_a_batch_are_seconds_since_the_epoch(store: Store) -> None:
    before = time.time()
    accepted = await submit(store.batches, ["c1"])
    await finish(store.shards, accepted.batch_id, 1)
    batch = await existing(store.batches, accepted.batch_id)
    assert batch.ended_at is not None
    assert before - 1 <= batch.created_at <= batch.ended_at <= time.time() + 1


async def test_a_file_is_refused_the_second_time_and_leaves_no_key(store: Store) -> None:
    first = await submit(store.batches, IDS, sha256="a" * 64)
    kept = await all_keys(store.redis)
    second = await submit(store.batches, IDS, known={0: INVALID}, sha256="a" * 64)
    assert second == Accepted(first.batch_id, "file")
    assert await all_keys(store.redis) == kept
    assert await store.batches.known(describe(IDS, sha256="a" * 64)) == Accepted(first.batch_id, "file")


async def test_a_reference_is_known_before_its_file(store: Store) -> None:
    first = await submit(store.batches, IDS, sha256="a" * 64, reference="R1")
    await submit(store.batches, IDS, sha256="a" * 64, reference="R2", again=True)
    found = await store.batches.known(describe(IDS, sha256="a" * 64, reference="R1"))
    assert found == Accepted(first.batch_id, "reference")


@pytest.mark.parametrize("target", [OTHER_MERCHANT, PRODUCTION])
async def test_the_same_file_for_another_merchant_or_environment_is_another_batch(store: Store, target: Target) -> None:
    first = await submit(store.batches, IDS, sha256="a" * 64, reference="R1")
    other = await submit(store.batches, IDS, sha256="a" * 64, reference="R1", target=target)
    assert other.known_by is None
    assert other.batch_id != first.batch_id
    assert await store.batches.known(describe(IDS, sha256="a" * 64, target=target)) == Accepted(other.batch_id, "file")


async def test_a_file_is_accepted_again_when_asked_for_explicitly(store: Store) -> None:
    first = await submit(store.batches, IDS, sha256="a" * 64)
    second = await submit(store.batches, IDS, sha256="a" * 64, again=True)
    assert second.known_by is None
    assert second.batch_id != first.batch_id
    assert await store.batches.known(describe(IDS, sha256="a" * 64)) == Accepted(second.batch_id, "file")
    assert list(await store.batches.active(TARGET)) == sorted([first.batch_id, second.batch_id])


@pytest.mark.parametrize("again", [False, True])
async def test_a_reference_names_one_batch_for_ever(store: Store, again: bool) -> None:
    first = await submit(store.batches, IDS, reference="R1")
    second = await submit(store.batches, IDS[:2], reference="R1", again=again)
    assert second == Accepted(first.batch_id, "reference")
    assert list(await store.batches.active(TARGET)) == [first.batch_id]


async def test_a_repeated_commit_answers_the_same(store: Store) -> None:
    """redis-py repeats a command that may have run."""
    description = describe(IDS, reference="R1")
    loading = await load(store.batches, IDS, description, {0: INVALID})
    first = await loading.commit(description, again=False)
    before = await existing(store.batches, first.batch_id)
    assert await loading.commit(description, again=False) == first
    assert await existing(store.batches, first.batch_id) == before
    assert len(await lines(store.batches, first.batch_id)) == len(IDS)


async def test_a_commit_repeated_after_work_began_takes_nothing_back(store: Store) -> None:
    description = describe(IDS, 3)
    loading = await load(store.batches, IDS, description)
    accepted = await loading.commit(description, again=False)
    claim = await claimed(store.shards, accepted.batch_id)
    await store.shards.record(claim, written(claim), time.time())
    assert await loading.commit(description, again=False) == accepted
    assert (await existing(store.batches, accepted.batch_id)).tally.pending == 4


async def test_of_two_submissions_of_one_file_at_once_one_becomes_a_batch(store: Store) -> None:
    accepted = await asyncio.gather(*(submit(store.batches, IDS, sha256="a" * 64) for _ in range(8)))
    assert len({one.batch_id for one in accepted}) == 1
    assert [one.known_by for one in accepted].count(None) == 1
    assert len(list(await store.batches.active(TARGET))) == 1


async def test_a_batch_that_expired_while_it_was_loaded_is_not_accepted(store: Store) -> None:
    """A submission that slept (a closed laptop) until its keys were gone must not become a batch without IDs."""
    description, batch_id = describe(IDS), new_batch_id()
    loading = await load(store.batches, IDS, description, batch_id=batch_id)
    await store.redis.unlink(*await all_keys(store.redis))
    with pytest.raises(ExpungeError):
        await loading.commit(description, again=False)
    assert list(await store.batches.active(TARGET)) == []
    assert await store.batches.get(batch_id) is None


async def test_a_batch_with_nothing_to_send_completes_at_once(store: Store) -> None:
    accepted = await submit(store.batches, IDS[:4], known=dict.fromkeys(range(4), INVALID), reference="R1")
    batch = await existing(store.batches, accepted.batch_id)
    assert batch.state is BatchState.COMPLETED
    assert batch.ended_at is not None
    assert batch.tally[Outcome.SKIPPED] == 4
    assert list(await store.batches.active(TARGET)) == []
    await assert_all_expires(store.redis)


# Reading


async def test_an_unknown_batch_is_none(store: Store) -> None:
    assert await store.batches.get(new_batch_id()) is None


async def test_the_newest_batches_come_first_and_expired_ones_are_forgotten(store: Store) -> None:
    ids = []
    for _ in range(4):
        ids.append((await submit(store.batches, IDS)).batch_id)
        await asyncio.sleep(0.002)  # a millisecond is the order's resolution
    await store.redis.delete(keys.of_batch(ids[2], "meta"))
    assert [batch.id for batch in await store.batches.recent(10)] == [ids[3], ids[1], ids[0]]
    assert await store.redis.zscore(keys.BATCHES, ids[2]) is None
    assert [batch.id for batch in await store.batches.recent(2)] == [ids[3], ids[1]]


@pytest.mark.parametrize("shard_size", [1, 2, 3, 50, 100])
async def test_records_come_in_the_order_of_the_rows(store: Store, shard_size: int) -> None:
    """51 rows: in one shard, in several pages of shards, and in between."""
    ids = [f"c{number:03}" for number in range(51)]
    accepted = await submit(store.batches, ids, shard_size, {7: INVALID, 50: Result(Reason.DUPLICATE, first_row=3)})
    found = await lines(store.batches, accepted.batch_id)
    assert [(line.row, line.customer_id) for line in found] == list(enumerate(ids, 1))
    assert {line.row: line.result.reason for line in found if line.result} == {
        8: Reason.INVALID_ID,
        51: Reason.DUPLICATE,
    }


async def test_id_cells_come_back_as_they_were(store: Store) -> None:
    ids = ["", " ", "007", "c;1", 'a"b', "ünï", "\u2028", "😀", "c" * 70_000]
    accepted = await submit(store.batches, ids, known=dict.fromkeys(range(len(ids)), INVALID))
    assert [line.customer_id for line in await lines(store.batches, accepted.batch_id)] == ids


async def test_a_result_comes_back_as_it_was_recorded(store: Store) -> None:
    results = {
        0: Result(Reason.CONFIRMED, 200, 3, "f" * 32, ("tax_id", "dob"), False),
        1: Result(Reason.MISSING_FIELD, 422, 255, "not-hex", ("naïve",), True),
        2: Result(Reason.DELETED_EARLIER, note="batch x, 2024-01-02T03:04:05Z"),
        3: Result(Reason.NO_ANSWER, None, 5),
        4: Result(Reason.DUPLICATE, first_row=4_000_000_000),
    }
    accepted = await submit(store.batches, IDS[:5], 5)
    claim = await claimed(store.shards, accepted.batch_id)
    before = int(time.time())
    await store.shards.record(claim, written(claim, results), time.time())
    for line in await lines(store.batches, accepted.batch_id):
        assert line.result is not None
        assert line.result.finished_at is not None
        assert before <= line.result.finished_at <= time.time()
        assert line.result == results[line.row - 1]._replace(finished_at=line.result.finished_at)


# The end


async def assert_all_expires(redis: Redis) -> None:
    """Everything of ended batches expires when the retention is over; only what is everybody's stays (SPEC 10)."""
    of_batches = [
        key
        for key in await all_keys(redis)
        if key not in (keys.AUDIT, keys.BATCHES, keys.active(TARGET), keys.DIGEST_KEY, keys.workers(TARGET))
    ]
    left = await lifetimes(redis, [key for key in of_batches if not key.startswith(keys.LEDGER)])
    assert left
    assert {key: seconds for key, seconds in left.items() if not RETENTION - 60 <= seconds <= RETENTION} == {}


async def test_every_key_of_a_completed_batch_expires_with_its_retention(store: Store) -> None:
    accepted = await submit(store.batches, IDS, known={1: INVALID}, reference="R1", sha256="a" * 64)
    await finish(store.shards, accepted.batch_id, 3)
    assert (await existing(store.batches, accepted.batch_id)).state is BatchState.COMPLETED
    names = await all_keys(store.redis)
    assert keys.of_file("a" * 64, TARGET) in names
    assert keys.of_reference("R1", TARGET) in names
    await assert_all_expires(store.redis)


async def test_the_end_of_an_older_batch_does_not_forget_the_file_of_one_that_runs(store: Store) -> None:
    older = await submit(store.batches, IDS[:2], sha256="a" * 64)
    newer = await submit(store.batches, IDS[:2], sha256="a" * 64, again=True)
    await finish(store.shards, older.batch_id, 1)
    name = keys.of_file("a" * 64, TARGET)
    assert await store.batches.known(describe(IDS, sha256="a" * 64)) == Accepted(newer.batch_id, "file")
    assert await lifetimes(store.redis, [name]) == {name: -1}


async def test_a_cancelled_batch_ends_when_every_record_has_its_outcome(store: Store) -> None:
    """It stays active until then; afterwards all of it expires as that of a completed one does."""
    accepted = await submit(store.batches, IDS[:4], 2)
    holding = await claimed(store.shards, accepted.batch_id)
    assert await store.batches.move(accepted.batch_id, BatchState.RUNNING, BatchState.CANCELLED) == (
        True,
        BatchState.CANCELLED,
    )
    assert await store.shards.claim(accepted.batch_id, 0, "t2") is NotClaimed.HELD, "what is in flight ends first"
    assert await store.shards.unfinished(accepted.batch_id) == [1, 0]
    await settle_cancelled(store.shards, await claimed(store.shards, accepted.batch_id, 1, "t2"))
    batch = await existing(store.batches, accepted.batch_id)
    assert (batch.state, batch.ended_at, batch.goes_on) == (BatchState.CANCELLED, None, True)
    assert list(await store.batches.active(TARGET)) == [accepted.batch_id]

    recorded = await store.shards.record(holding, written(holding, {0: DELETED}), time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.CANCELLED)
    await store.shards.release(holding, {1: History(1, Doubt.UNANSWERED, Reason.NO_ANSWER)}, 0.0)
    await settle_cancelled(store.shards, await claimed(store.shards, accepted.batch_id, 0, "t3"))
    batch = await existing(store.batches, accepted.batch_id)
    assert (batch.state, batch.tally.pending, batch.goes_on) == (BatchState.CANCELLED, 0, False)
    assert batch.tally.reasons == {Reason.CONFIRMED: 1, Reason.NO_ANSWER: 1, Reason.CANCELLED: 2}
    assert batch.ended_at is not None
    assert list(await store.batches.active(TARGET)) == []
    await assert_all_expires(store.redis)


async def test_a_batch_with_nothing_pending_that_is_cancelled_has_ended(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    await store.shards.record(claim, written(claim), time.time())
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.CANCELLED)
    assert (await existing(store.batches, batch_id)).ended_at is not None
    await assert_all_expires(store.redis)


# Transitions


async def put_into(store: Store, batch_id: str, state: BatchState) -> None:
    await store.redis.hset(keys.of_batch(batch_id, "meta"), "state", state.value)


@pytest.mark.parametrize(("source", "to"), list(itertools.product(BatchState, BatchState)))
async def test_only_the_transitions_of_the_specification_exist(
    store: Store, source: BatchState, to: BatchState
) -> None:
    accepted = await submit(store.batches, IDS)
    await put_into(store, accepted.batch_id, source)
    if to not in TRANSITIONS[source]:
        with pytest.raises(ValueError, match="no transition"):
            await store.batches.move(accepted.batch_id, source, to)
    elif to is not BatchState.COMPLETED:  # which has conditions of its own, below
        assert await store.batches.move(accepted.batch_id, source, to) == (True, to)
        source = to
    batch = await store.batches.get(accepted.batch_id)
    assert batch is not None
    assert batch.state is source


async def test_a_batch_with_pending_records_cannot_be_completed(store: Store) -> None:
    """Promise 1: a batch completes only when nothing is pending."""
    accepted = await submit(store.batches, IDS)
    moved, state = await store.batches.move(accepted.batch_id, BatchState.RUNNING, BatchState.COMPLETED)
    assert (moved, state) == (False, BatchState.RUNNING)


@pytest.mark.parametrize("actual", [state for state in BatchState if state is not BatchState.RUNNING])
async def test_a_batch_in_another_state_is_not_moved_and_the_answer_names_that_state(
    store: Store, actual: BatchState
) -> None:
    accepted = await submit(store.batches, IDS)
    await put_into(store, accepted.batch_id, actual)
    answer = await store.batches.move(
        accepted.batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.CREDENTIALS_REFUSED
    )
    assert answer == (False, actual)
    batch = await store.batches.get(accepted.batch_id)
    assert batch is not None
    assert (batch.state, batch.state_reason) == (actual, None)


async def test_moving_a_batch_that_is_not_there_says_so(store: Store) -> None:
    batch_id = new_batch_id()
    assert await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED) == (False, None)
    assert await all_keys(store.redis) == []


async def test_a_pause_has_its_reason_and_a_resumed_batch_has_none(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason.OPERATOR)
    assert list(await store.batches.active(TARGET)) == []
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.RUNNING, None)
    assert list(await store.batches.active(TARGET)) == [batch_id]


async def test_of_two_pauses_at_once_the_first_gives_the_reason(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    answers = await asyncio.gather(
        store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR),
        store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.CREDENTIALS_REFUSED),
    )
    assert sorted(moved for moved, _ in answers) == [False, True]
    winner = StateReason.OPERATOR if answers[0][0] else StateReason.CREDENTIALS_REFUSED
    assert (await existing(store.batches, batch_id)).state_reason is winner


async def test_a_paused_batch_with_nothing_left_completes_when_resumed(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    recorded = await store.shards.record(claim, written(claim), time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.PAUSED)
    assert (await existing(store.batches, batch_id)).tally.pending == 0

    assert await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING) == (True, BatchState.COMPLETED)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.COMPLETED, None)
    assert batch.ended_at is not None
    assert list(await store.batches.active(TARGET)) == []
    await assert_all_expires(store.redis)
