"""``expunge retry``: a new batch, linked to the old one, of the records that may end otherwise (SPEC 7)."""

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.conftest import TARGET, all_keys, claimed, existing, lifetimes, lines, new_batch_id, outcomes, submit
from tests.conftest import describe as describe_batch
from tests.integration.conftest import Open
from worker.domain.batches import Batch, BatchState, Lane
from worker.domain.brakes import Brakes
from worker.domain.errors import RefusedError
from worker.domain.holds import Term
from worker.domain.outcomes import Outcome, Reason
from worker.domain.people import NO_APPROVAL, ApprovalRule
from worker.domain.records import Doubt, Result
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.retry import describe, retry
from worker.simulator import Rule, Scenario, SimulatorThread
from worker.store import keys
from worker.store.loading import Accepted
from worker.store.shards import Written
from worker.wiring import Store

TRIED = [reason for reason in Reason if reason.outcome is not Outcome.SKIPPED]
DOUBTFUL = [reason for reason in Reason if reason.outcome is Outcome.UNKNOWN and reason.retryable]


async def ended(store: Store, reasons: Mapping[str, Reason], size: int = 500) -> Batch:
    """A batch whose records ended so."""
    batch_id = (await submit(store.batches, list(reasons), size, lane=Lane.URGENT, brakes=Brakes(1.0, 1.0))).batch_id
    for shard in range(-(-len(reasons) // size)):
        claim = await claimed(store.shards, batch_id, shard)
        results = [Written(at, i, Result(reasons[i])) for at, i in enumerate(claim.ids)]
        await store.shards.record(claim, results, time.time())
    return await existing(store.batches, batch_id)


async def asked(store: Store, batch: Batch, most: int = 500) -> Accepted:
    return await retry(store.batches, store.holds, batch, describe(batch, most, Brakes(), NO_APPROVAL))


async def retried(store: Store, batch: Batch, most: int = 500) -> Batch:
    return await existing(store.batches, (await asked(store, batch, most)).batch_id)


async def test_exactly_the_retryable_records_are_taken_in_their_order(store: Store) -> None:
    reasons = {f"{reason.text}_{at}": reason for at in range(2) for reason in Reason}
    made = await retried(store, await ended(store, reasons))
    expected = [customer_id for customer_id, reason in reasons.items() if reason.retryable]
    assert [line.customer_id for line in await lines(store.batches, made.id)] == expected
    assert (made.state, made.tally.pending) == (BatchState.RUNNING, len(expected))


async def test_a_retry_of_many_shards_loses_nobody(store: Store) -> None:
    ids = [f"c{number:04}" for number in range(1000)]
    chosen = {i: Reason.NO_CONNECTION if number % 3 else Reason.CONFIRMED for number, i in enumerate(ids)}
    made = await retried(store, await ended(store, chosen, 70), 50)
    assert made.description.shard_size == 50
    expected = [customer_id for number, customer_id in enumerate(ids) if number % 3]
    assert [line.customer_id for line in await lines(store.batches, made.id)] == expected


async def test_both_batches_name_each_other(store: Store) -> None:
    old = await ended(store, {"a": Reason.NO_CONNECTION, "b": Reason.CONFIRMED})
    made = await retried(store, old)
    assert made.description.retry_of == old.id
    assert (await existing(store.batches, old.id)).retried_by == made.id
    assert (made.description.lane, made.description.target) == (Lane.URGENT, TARGET)


async def test_asked_twice_it_is_the_same_batch(store: Store) -> None:
    old = await ended(store, {"a": Reason.NO_CONNECTION})
    first, second = [await asked(store, old) for _ in range(2)]
    assert first.batch_id == second.batch_id
    assert (first.known_by, second.known_by) == (None, "file")


async def test_asked_twice_at_once_it_is_the_same_batch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await ended(store, {"a": Reason.NO_CONNECTION})
    first = await asked(store, old)

    async def not_yet(_: object) -> None:
        """What the other one heard a moment before."""

    monkeypatch.setattr(store.batches, "known", not_yet)
    assert await asked(store, old) == Accepted(first.batch_id, "file")


async def test_the_trail_says_of_which_batch_it_is_a_retry(store: Store) -> None:
    old = await ended(store, {"a": Reason.NO_CONNECTION})
    made = await retried(store, old)
    (submitted,) = [entry async for entry in store.audit.entries(made.id)]
    assert submitted.detail["retry_of"] == old.id


async def test_a_retry_has_the_brakes_of_now_not_those_of_the_earlier_batch(store: Store) -> None:
    made = await retried(store, await ended(store, {"a": Reason.NO_CONNECTION}))
    assert made.description.brakes == Brakes()


async def test_a_retry_is_a_submission_of_its_own_that_needs_an_approval_of_its_own(store: Store) -> None:
    old = await ended(store, {"a": Reason.NO_CONNECTION, "b": Reason.NO_CONNECTION})
    old = replace(old, description=replace(old.description, submitted_by="anna"))
    described = {above: describe(old, 500, Brakes(), ApprovalRule(above)) for above in (1, 2)}
    assert [described[above].needs_approval for above in (1, 2)] == [True, False]
    assert described[1].submitted_by is None
    made = await existing(store.batches, (await retry(store.batches, store.holds, old, described[1])).batch_id)
    assert made.state is BatchState.AWAITING_APPROVAL


async def test_batches_with_the_same_records_are_retried_each_by_itself(store: Store) -> None:
    one, other = [await ended(store, {"a": Reason.NO_CONNECTION}) for _ in range(2)]
    assert (await retried(store, one)).id != (await retried(store, other)).id


async def test_a_retry_can_be_retried(store: Store) -> None:
    first = await retried(store, await ended(store, {"a": Reason.NO_CONNECTION}))
    claim = await claimed(store.shards, first.id)
    await store.shards.record(claim, [Written(0, "a", Result(Reason.NO_CONNECTION))], time.time())
    second = await retried(store, await existing(store.batches, first.id))
    assert second.description.retry_of == first.id


async def test_a_batch_that_has_not_ended_is_refused(store: Store) -> None:
    batch_id = (await submit(store.batches, ["a", "b"])).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(claim, [Written(0, "a", Result(Reason.NO_CONNECTION))], time.time())
    for state in (BatchState.RUNNING, BatchState.CANCELLED):
        if state is BatchState.CANCELLED:
            await store.batches.move(batch_id, BatchState.RUNNING, state)
        with pytest.raises(RefusedError, match=f"batch {batch_id} is {state.value}: it can be retried when"):
            await asked(store, await existing(store.batches, batch_id))


async def test_a_batch_of_which_nothing_can_be_retried_is_refused(store: Store) -> None:
    old = await ended(store, {reason.text: reason for reason in Reason if not reason.retryable})
    with pytest.raises(RefusedError, match="nothing of batch"):
        await asked(store, old)
    assert len(await store.batches.recent(10)) == 1


@pytest.mark.parametrize("reason", [*DOUBTFUL, Reason.SERVER_ERROR])
async def test_whom_the_earlier_batch_may_have_deleted_does_not_read_not_found(
    worker: Open, upstream: SimulatorThread, reason: Reason
) -> None:
    upstream.use(Scenario(customers=()))
    ours = await worker()
    made = await retried(ours.store, await ended(ours.store, {"a": reason, "b": Reason.NO_CONNECTION}))
    await delete_shard(ours.tools, made.id, 0)
    assert await outcomes(ours.store.batches, made.id) == {"a": "after_unanswered_attempt", "b": "not_found"}


async def test_a_doubt_of_the_earlier_batch_stays_when_the_retry_fails(worker: Open, upstream: SimulatorThread) -> None:
    """``failed`` would promise that nothing was done."""
    upstream.use(Scenario(rules=[Rule(fault="redirect", location="/elsewhere")]))
    ours = await worker()
    old = await ended(ours.store, {"a": Reason.UNREADABLE_REPLY, "b": Reason.NO_CONNECTION})
    made = await retried(ours.store, old)
    await delete_shard(ours.tools, made.id, 0)
    assert await outcomes(ours.store.batches, made.id) == {"a": "unreadable_reply", "b": "redirected"}
    assert [line.result.attempts for line in await lines(ours.store.batches, made.id) if line.result] == [1, 1]


async def test_who_is_on_hold_when_a_batch_is_retried_is_left_out_and_a_doubt_is_still_said(store: Store) -> None:
    await store.holds.add(["a", "b"], Term("litigation 12"), replace=False)
    made = await retried(store, await ended(store, {"a": Reason.NO_ANSWER, "b": Reason.ON_HOLD, "c": Reason.ON_HOLD}))
    assert await outcomes(store.batches, made.id) == {"a": "no_answer", "b": "on_hold", "c": None}
    notes = [line.result.note for line in await lines(store.batches, made.id) if line.result]
    assert notes == ["not sent again, since it is on hold: litigation 12", "litigation 12"]


async def test_doubts_are_kept_as_long_as_the_batch_and_no_longer(store: Store) -> None:
    made = await retried(store, await ended(store, {"a": Reason.NO_ANSWER, "b": Reason.NO_ANSWER}))
    names = await all_keys(store.redis, f"*{made.id}*")
    assert keys.of_batch(made.id, "tries:0") in names
    assert set((await lifetimes(store.redis, names)).values()) == {-1}
    claim = await claimed(store.shards, made.id)
    assert {history.doubt for history in claim.histories.values()} == {Doubt.UNANSWERED}
    await store.shards.record(
        claim, [Written(at, i, Result(Reason.CONFIRMED)) for at, i in enumerate("ab")], time.time()
    )
    assert keys.of_batch(made.id, "tries:0") not in await all_keys(store.redis)


async def test_a_retry_keeps_the_cells_that_the_batch_had_kept(store: Store) -> None:
    ids = ["c1", "c2", "c3"]
    description = describe_batch(ids, columns=("case", "customer_id"), kept=("case",))
    loading = store.batches.load(new_batch_id())
    await loading.add_shard(0, ids, {}, kept=[["A1"], ["A2"], ["A3"]])
    batch_id = (await loading.commit(description, again=False)).batch_id
    claim = await claimed(store.shards, batch_id)
    reasons = [Reason.NO_ANSWER, Reason.CONFIRMED, Reason.SERVER_ERROR]
    await store.shards.record(claim, [Written(at, ids[at], Result(reasons[at])) for at in range(3)], time.time())

    made = await retried(store, await existing(store.batches, batch_id), 1)

    assert made.description.stored_columns == ("case", "customer_id")
    assert [list(line.cells) for line in await lines(store.batches, made.id)] == [["A1", "c1"], ["A3", "c3"]]
