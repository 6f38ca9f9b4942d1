"""Brakes (SPEC 6): they trip in the step that moves the tally, once, and hold until somebody says go on."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from tests.conftest import INVALID, claimed, existing, lines, submit, written
from tests.integration.conftest import Open
from worker.domain.batches import BatchState, StateReason
from worker.domain.brakes import BAD, Brakes, Despite, Tripped
from worker.domain.errors import Guard, RefusedError
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.records import Result
from worker.pipeline import control
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.shard_run import Ending
from worker.simulator import Rule, Scenario, SimulatorThread
from worker.store import keys
from worker.store.shards import NotClaimed, Recorded, Standing, Written
from worker.wiring import Store

SIZE = 200
DELETED, GONE, REFUSED = Reason.CONFIRMED, Reason.NOT_FOUND, Reason.BAD_REQUEST


def customers(count: int) -> list[str]:
    return [f"c{number:04}" for number in range(count)]


async def batch_of(store: Store, count: int, brakes: Brakes | None = None, size: int = SIZE) -> str:
    return (await submit(store.batches, customers(count), size, brakes=brakes or Brakes())).batch_id


async def write(store: Store, batch_id: str, reasons: Sequence[Reason], first: int = 0) -> Recorded:
    """Write these outcomes to shard 0, from an offset on, and give it back."""
    claim = await claimed(store.shards, batch_id)
    results = [Written(first + at, claim.ids[first + at], Result(reason)) for at, reason in enumerate(reasons)]
    recorded = await store.shards.record(claim, results, time.time())
    await store.shards.release(claim, {}, 0.0)
    return recorded


async def stands(store: Store, batch_id: str) -> tuple[BatchState, StateReason | None]:
    batch = await existing(store.batches, batch_id)
    return batch.state, batch.state_reason


RUNNING = (BatchState.RUNNING, None)


@pytest.mark.parametrize("reason", BAD)
async def test_half_of_a_hundred_that_end_badly_pause_the_batch_with_the_numbers(store: Store, reason: Reason) -> None:
    batch_id = await batch_of(store, SIZE)
    assert (await write(store, batch_id, [DELETED] * 50 + [reason] * 49)).standing is Standing.RUNNING
    assert await write(store, batch_id, [reason], 99) == Recorded(True, Standing.PAUSED, holds="0")
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    assert batch.tripped == Tripped(Despite.FAILURE_THRESHOLD, 50, 100, 0.5, canary=False)
    assert await store.batches.active(batch.description.target) == {}


@pytest.mark.parametrize("reason", [REFUSED, GONE])
async def test_a_hundred_and_one_of_whom_fewer_than_half_end_badly_or_are_not_found_do_not(
    store: Store, reason: Reason
) -> None:
    batch_id = await batch_of(store, SIZE)
    await write(store, batch_id, [DELETED] * 51 + [reason] * 50)
    assert await stands(store, batch_id) == RUNNING


async def test_ninety_nine_that_end_badly_do_not(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    await write(store, batch_id, [REFUSED] * 99)
    assert await stands(store, batch_id) == RUNNING


async def test_half_of_a_hundred_that_are_not_found_pause_the_batch(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    await write(store, batch_id, [DELETED] * 50 + [GONE] * 50)
    batch = await existing(store.batches, batch_id)
    assert batch.state_reason is StateReason.MOSTLY_NOT_FOUND
    assert batch.tripped == Tripped(Despite.MOSTLY_NOT_FOUND, 50, 100, 0.5, canary=False)


@pytest.mark.parametrize("reason", [Reason.AFTER_UNANSWERED_ATTEMPT, Reason.AFTER_INTERRUPTED_ATTEMPT])
async def test_an_absent_customer_whom_we_most_likely_deleted_is_not_not_found(store: Store, reason: Reason) -> None:
    batch_id = await batch_of(store, SIZE)
    await write(store, batch_id, [reason] * 150)
    assert await stands(store, batch_id) == RUNNING


@pytest.mark.parametrize("reason", [Reason.DELETED_EARLIER, Reason.DUPLICATE, Reason.INVALID_ID, Reason.ON_HOLD])
async def test_what_was_not_sent_is_not_judged(store: Store, reason: Reason) -> None:
    """Neither do they hide that all others end badly, nor are they the hundred that must be done."""
    batch_id = await batch_of(store, 400, size=400)
    await write(store, batch_id, [reason] * 200 + [REFUSED] * 99)
    assert await stands(store, batch_id) == RUNNING
    await write(store, batch_id, [REFUSED], 299)
    assert (await existing(store.batches, batch_id)).tripped == Tripped(
        Despite.FAILURE_THRESHOLD, 100, 100, 0.5, canary=False
    )


async def test_each_batch_has_its_own_thresholds(store: Store) -> None:
    strict = await batch_of(store, SIZE, Brakes(failure_threshold=0.07, not_found_threshold=1.0))
    await write(store, strict, [GONE] * 93 + [REFUSED] * 7)
    assert await stands(store, strict) == (BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    patient = await batch_of(store, SIZE, Brakes(failure_threshold=0.07, not_found_threshold=0.9))
    await write(store, patient, [GONE] * 89 + [DELETED] * 11)
    assert await stands(store, patient) == RUNNING
    loose = await batch_of(store, SIZE, Brakes(failure_threshold=1.0, not_found_threshold=1.0))
    await write(store, loose, [REFUSED] * 99 + [DELETED])
    assert await stands(store, loose) == RUNNING


async def test_a_batch_whose_last_record_ends_badly_is_completed_not_paused(store: Store) -> None:
    """There is nothing left to keep from being sent."""
    batch_id = await batch_of(store, 120)
    await write(store, batch_id, [REFUSED] * 120)
    assert await stands(store, batch_id) == (BatchState.COMPLETED, None)


async def test_what_was_in_flight_is_still_written_and_the_numbers_stay_those_that_tripped(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    claim = await claimed(store.shards, batch_id)

    async def record(first: int, count: int) -> Recorded:
        results = [Written(at, claim.ids[at], Result(REFUSED)) for at in range(first, first + count)]
        return await store.shards.record(claim, results, time.time())

    assert (await record(0, 100)).standing is Standing.PAUSED
    assert (await record(100, 20)).standing is Standing.PAUSED
    batch = await existing(store.batches, batch_id)
    assert batch.tally.done == 120
    assert batch.tripped == Tripped(Despite.FAILURE_THRESHOLD, 100, 100, 0.5, canary=False)


async def test_an_operators_pause_stands_and_the_brake_trips_when_the_batch_goes_on(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    claim = await claimed(store.shards, batch_id)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    results = [Written(at, claim.ids[at], Result(REFUSED)) for at in range(100)]
    await store.shards.record(claim, results, time.time())
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.OPERATOR)
    await control.resume(store.batches, store.feeder, batch_id)
    await store.shards.record(claim, [], time.time())
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)


async def test_a_batch_that_waits_for_the_upstream_is_braked_and_does_not_go_on_by_itself(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    claim = await claimed(store.shards, batch_id)
    await store.batches.circuit_opened(batch_id, 1.0)
    results = [Written(at, claim.ids[at], Result(REFUSED)) for at in range(100)]
    await store.shards.record(claim, results, time.time())
    await store.batches.circuit_closed(batch_id)
    batch = await existing(store.batches, batch_id)
    assert (batch.state_reason, batch.probe_at) == (StateReason.FAILURE_THRESHOLD, None)


# Going on


async def braked(store: Store, reason: Reason = REFUSED) -> str:
    batch_id = await batch_of(store, SIZE)
    await write(store, batch_id, [reason] * 100)
    return batch_id


async def test_a_plain_resume_is_refused_with_the_numbers_and_what_would_be_allowed(store: Store) -> None:
    batch_id = await braked(store)
    with pytest.raises(RefusedError, match=r"^batch \w+ is paused: 100 of 100 .*: --despite failure_threshold "):
        await control.resume(store.batches, store.feeder, batch_id)
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)


@pytest.mark.parametrize("despite", [Despite.MOSTLY_NOT_FOUND, Despite.CANARY])
async def test_despite_another_brake_is_refused(store: Store, despite: Despite) -> None:
    batch_id = await braked(store)
    with pytest.raises(RefusedError, match="--despite failure_threshold"):
        await control.resume(store.batches, store.feeder, batch_id, despite=despite)


async def test_the_store_itself_does_not_let_a_braked_batch_run(store: Store) -> None:
    """Should the batch have been braked since it was looked at."""
    batch_id = await braked(store)
    for despite in (None, Despite.CANARY, Despite.MOSTLY_NOT_FOUND):
        moved = await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING, despite=despite)
        assert moved == (False, BatchState.PAUSED)


async def test_despite_is_refused_for_what_no_brake_holds(store: Store) -> None:
    batch_id = await batch_of(store, SIZE)
    await control.pause(store.batches, batch_id)
    with pytest.raises(RefusedError, match="paused by operator, not by failure_threshold") as refused:
        await control.resume(store.batches, store.feeder, batch_id, despite=Despite.FAILURE_THRESHOLD)
    assert refused.value.guard is Guard.STATE, "no brake holds it"
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.OPERATOR)


async def test_a_batch_that_goes_on_despite_a_brake_is_not_held_by_it_again_but_by_the_other(store: Store) -> None:
    batch_id = (await submit(store.batches, customers(400), 400)).batch_id
    await write(store, batch_id, [REFUSED] * 100)
    await control.resume(store.batches, store.feeder, batch_id, despite=Despite.FAILURE_THRESHOLD)
    await write(store, batch_id, [REFUSED], 100)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.tripped, batch.despite) == (BatchState.RUNNING, None, (Despite.FAILURE_THRESHOLD,))
    await write(store, batch_id, [GONE] * 101, 101)
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.MOSTLY_NOT_FOUND)
    await control.resume(store.batches, store.feeder, batch_id, despite=Despite.MOSTLY_NOT_FOUND)
    await write(store, batch_id, [GONE], 202)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.despite) == (
        BatchState.RUNNING,
        (Despite.FAILURE_THRESHOLD, Despite.MOSTLY_NOT_FOUND),
    )


async def test_a_braked_batch_whose_rest_was_in_flight_completes_when_it_goes_on(store: Store) -> None:
    batch_id = await batch_of(store, 110)
    claim = await claimed(store.shards, batch_id)
    for some in (range(100), range(100, 110)):
        await store.shards.record(claim, written(claim, dict.fromkeys(some, Result(REFUSED))), time.time())
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    await control.resume(store.batches, store.feeder, batch_id, despite=Despite.FAILURE_THRESHOLD)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason, batch.tripped) == (BatchState.COMPLETED, None, None)


async def test_a_braked_batch_can_be_cancelled(store: Store) -> None:
    batch_id = await braked(store)
    await control.cancel(store.batches, store.shards, batch_id, lambda _: None)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason, batch.tripped) == (BatchState.CANCELLED, None, None)


# Canary


CANARY = Brakes(canary=5)


async def test_while_a_canary_is_out_only_its_shard_is_given_out(store: Store) -> None:
    batch_id = await batch_of(store, 30, CANARY, 10)
    due = await store.shards.feed(batch_id, 8)
    assert due is not None
    assert due.shards == [0]
    assert await store.shards.feed(batch_id, 8) is None
    assert await store.shards.claim(batch_id, 1, "t") is NotClaimed.NOT_RUNNING
    assert (await claimed(store.shards, batch_id)).allowance == 5
    assert await store.shards.next_due(batch_id) is None


async def test_a_canary_that_is_well_lets_the_rest_go(store: Store) -> None:
    batch_id = await batch_of(store, 30, CANARY, 10)
    await write(store, batch_id, [DELETED] * 3)
    assert (await existing(store.batches, batch_id)).canary_left == 2
    assert (await claimed(store.shards, batch_id)).allowance == 2
    await write(store, batch_id, [REFUSED] * 2, 3)
    assert (await existing(store.batches, batch_id)).canary_left is None
    assert (await claimed(store.shards, batch_id)).allowance is None
    due = await store.shards.feed(batch_id, 8)
    assert due is not None
    assert due.shards == [1, 2]


@pytest.mark.parametrize(("reason", "state_reason"), [(REFUSED, "failure_threshold"), (GONE, "mostly_not_found")])
async def test_a_canary_that_ends_badly_pauses_the_batch(store: Store, reason: Reason, state_reason: str) -> None:
    batch_id = await batch_of(store, 30, CANARY, 10)
    await write(store, batch_id, [DELETED, DELETED, reason, reason, reason])
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.state_reason) == (BatchState.PAUSED, StateReason(state_reason))
    assert batch.tripped == Tripped(Despite(state_reason), 3, 5, 0.5, canary=True)
    with pytest.raises(RefusedError, match=f"3 of the first 5 .*--despite canary .* or --despite {state_reason}"):
        await control.resume(store.batches, store.feeder, batch_id)


async def test_despite_the_canary_the_rest_goes_but_is_judged_at_a_hundred(store: Store) -> None:
    batch_id = await batch_of(store, SIZE, CANARY)
    await write(store, batch_id, [REFUSED] * 5)
    await control.resume(store.batches, store.feeder, batch_id, despite=Despite.CANARY)
    await write(store, batch_id, [REFUSED] * 94, 5)
    assert await stands(store, batch_id) == RUNNING
    assert (await claimed(store.shards, batch_id)).allowance is None
    await write(store, batch_id, [REFUSED], 99)
    batch = await existing(store.batches, batch_id)
    assert batch.tripped == Tripped(Despite.FAILURE_THRESHOLD, 100, 100, 0.5, canary=False)
    assert batch.despite == (Despite.CANARY,)


async def test_what_is_not_sent_is_no_part_of_the_canary(store: Store) -> None:
    known = dict.fromkeys(range(12), INVALID)
    batch_id = (await submit(store.batches, customers(30), 10, known, brakes=CANARY)).batch_id
    due = await store.shards.feed(batch_id, 8)
    assert due is not None
    assert due.shards == [1]
    assert (await claimed(store.shards, batch_id, 1)).allowance == 5


async def test_a_canary_that_was_done_during_a_pause_is_judged_when_the_batch_goes_on(store: Store) -> None:
    batch_id = await batch_of(store, 30, CANARY, 10)
    claim = await claimed(store.shards, batch_id)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    await store.shards.record(claim, [Written(at, claim.ids[at], Result(GONE)) for at in range(5)], time.time())
    await control.resume(store.batches, store.feeder, batch_id)
    assert (await claimed(store.shards, batch_id)).allowance == 0
    await store.shards.record(claim, [], time.time())
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.MOSTLY_NOT_FOUND)


async def test_a_cancelled_batch_gives_out_all_its_shards_whatever_its_canary(store: Store) -> None:
    batch_id = await batch_of(store, 30, CANARY, 10)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.CANCELLED)
    due = await store.shards.feed(batch_id, 8)
    assert due is not None
    assert due.shards == [0, 1, 2]
    assert (await claimed(store.shards, batch_id, 2)).allowance is None


async def test_a_batch_that_is_smaller_than_its_canary_completes(store: Store) -> None:
    batch_id = await batch_of(store, 4, CANARY)
    await write(store, batch_id, [REFUSED] * 4)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.canary_left) == (BatchState.COMPLETED, None)


# With a worker


async def with_canary(worker: Open) -> tuple[Store, str]:
    """A batch of 30 with a canary of 5, after a worker's turn."""
    ours = await worker()
    batch_id = (await submit(ours.store.batches, customers(30), 10, brakes=CANARY)).batch_id
    await delete_shard(ours.tools, batch_id, 0)
    return ours.store, batch_id


async def test_a_worker_sends_the_canary_alone_and_then_the_rest_in_one_go(
    worker: Open, upstream: SimulatorThread
) -> None:
    """The first answer of the rest is later than the last of the canary."""
    upstream.use(Scenario(latency="50ms"))
    store, batch_id = await with_canary(worker)
    assert (await existing(store.batches, batch_id)).state is BatchState.COMPLETED
    first = [entry.id for entry in upstream.log[:5]]
    assert sorted(first) == customers(5)
    assert upstream.log[5].t > max(entry.t for entry in upstream.log[:5]) + 0.05
    assert sorted(entry.id for entry in upstream.log) == customers(30)


async def test_who_is_on_hold_is_no_part_of_the_canary_and_nobody_waits_for_them(
    worker: Open, upstream: SimulatorThread
) -> None:
    """The first shard is on hold as a whole, after the batch was submitted: it must not be given out for ever."""
    ours = await worker()
    batch_id = await batch_of(ours.store, 30, CANARY, 10)
    await ours.store.holds.add(customers(12), Term("litigation"), replace=False)
    await delete_shard(ours.tools, batch_id, 0)
    assert sorted(entry.id for entry in upstream.log[:5]) == customers(17)[12:]
    assert {entry.id for entry in upstream.log} == set(customers(30)[12:])
    assert (await existing(ours.store.batches, batch_id)).state is BatchState.COMPLETED


async def test_a_worker_sends_nothing_beyond_a_canary_that_ends_badly(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(customers=()))
    store, batch_id = await with_canary(worker)
    assert await stands(store, batch_id) == (BatchState.PAUSED, StateReason.MOSTLY_NOT_FOUND)
    assert sorted(entry.id for entry in upstream.log) == customers(5)
    assert await store.shards.feed(batch_id, 8) is None


async def test_a_canary_record_that_waits_is_waited_for_and_nobody_else_is_sent(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Also when its shard is claimed again: those of the canary stay the same."""
    rule = Rule(fault="status", status=503, retry_after="60", ids="c0002", times=2)
    upstream.use(Scenario(rules=[rule]))
    ours = await worker()
    batch_id = (await submit(ours.store.batches, customers(30), 10, brakes=CANARY)).batch_id
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert sorted(entry.id for entry in upstream.log) == customers(5)
    assert await ours.store.shards.feed(batch_id, 8) is None
    due = await ours.store.redis.zscore(keys.of_batch(batch_id, "shards"), "0")
    assert due is not None
    assert due / 1000 > time.time() + 50
    await delete_shard(ours.tools, batch_id, 0)
    assert sorted(entry.id for entry in upstream.log) == sorted([*customers(5), "c0002"])
    await delete_shard(ours.tools, batch_id, 0)
    assert sorted(entry.id for entry in upstream.log) == sorted([*customers(30), "c0002", "c0002"])


async def test_two_workers_trip_a_brake_once_and_stop(worker: Open, upstream: SimulatorThread) -> None:
    """Beyond what was in flight, nothing is sent after the pause was written (SPEC 4, promise 7)."""
    upstream.use(Scenario(latency="30ms", rules=[Rule(fault="rejected")]))
    first, second = await worker(), await worker()
    batch_id = (await submit(first.store.batches, customers(2000), 100)).batch_id
    await asyncio.gather(*(delete_shard(ours.tools, batch_id, at) for at, ours in enumerate((first, second))))
    batch = await existing(first.store.batches, batch_id)
    assert batch.state_reason is StateReason.FAILURE_THRESHOLD
    assert batch.tripped is not None
    assert batch.tripped.done >= 100
    results = [line.result for line in await lines(first.store.batches, batch_id) if line.result]
    assert len(results) == len(upstream.log) < 1000
    await asyncio.sleep(0.2)
    assert len(upstream.log) == len(results)
