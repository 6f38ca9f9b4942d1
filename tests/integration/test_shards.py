"""Shards in Redis: one holder at a time, outcomes written once, the tally moved with them, and nothing forgotten."""

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.conftest import (
    DELETED,
    INVALID,
    TARGET,
    all_keys,
    claimed,
    existing,
    expire_lease,
    finish,
    lines,
    new_batch_id,
    outcomes,
    submit,
    written,
)
from worker.domain.batches import BatchState, StateReason
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History, Result
from worker.pipeline.reconcile import EVERY
from worker.store import keys
from worker.store.shards import LEASE, MESSAGE_LIFE, Claim, Due, NotClaimed, Presence, Shards, Standing
from worker.wiring import Store

ABSENT = Result(Reason.NOT_FOUND, http_status=404, attempts=1)
IDS = [f"c{number}" for number in range(9)]


async def pause(store: Store, batch_id: str) -> None:
    moved, _ = await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    assert moved


async def resume(store: Store, batch_id: str) -> BatchState | None:
    moved, state = await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    assert moved
    return state


async def fed(shards: Shards, batch_id: str, window: int = 100) -> list[int]:
    due = await shards.feed(batch_id, window)
    return [] if due is None else due.shards


async def due_at(redis: Redis, batch_id: str, shard: int) -> float:
    """In how many seconds a shard is due again."""
    score = await redis.zscore(keys.of_batch(batch_id, "shards"), str(shard))
    assert isinstance(score, float)
    return score / 1000 - time.time()


async def let_time_come(redis: Redis, batch_id: str, shard: int) -> None:
    """What a shard waits for is over: its score is the time at which it is due."""
    await redis.zadd(keys.of_batch(batch_id, "shards"), {str(shard): 1}, xx=True)


# Claims


async def test_a_claim_holds_the_shards_ids_what_is_finished_and_what_was_tried(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 4, known={5: INVALID})).batch_id
    claim = await claimed(store.shards, batch_id, 1)
    assert (claim.ids, claim.finished, claim.histories, claim.deaths) == (IDS[4:8], frozenset({1}), {}, 0)


async def test_a_leased_shard_is_held_against_every_other(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await claimed(store.shards, batch_id, 0, "t1")
    assert await store.shards.claim(batch_id, 0, "t2") is NotClaimed.HELD
    await claimed(store.shards, batch_id, 1, "t2")


async def test_of_many_who_claim_at_once_one_gets_the_shard(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    answers = await asyncio.gather(*(store.shards.claim(batch_id, 0, f"t{number}") for number in range(20)))
    assert sorted(map(str, answers))[-19:] == ["held"] * 19


async def test_a_claim_repeated_with_its_token_answers_the_same(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    assert await claimed(store.shards, batch_id) == await claimed(store.shards, batch_id)
    await expire_lease(store.redis, batch_id)
    assert (await claimed(store.shards, batch_id)).deaths == 0


async def test_a_token_that_begins_like_the_holders_is_another(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id, 0, "t11")
    for token in ("t1", "t", "t111"):
        assert await store.shards.claim(batch_id, 0, token) is NotClaimed.HELD
        other = replace(claim, token=token)
        assert not (await store.shards.record(other, written(claim), time.time())).ours
        assert not await store.shards.release(other, {}, 0.0)
    assert (await existing(store.batches, batch_id)).tally.pending == len(IDS)


async def test_a_dead_holders_shard_goes_to_the_next_as_interrupted(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await claimed(store.shards, batch_id, 0, "dead")
    await expire_lease(store.redis, batch_id)
    assert (await claimed(store.shards, batch_id, 0, "t2")).deaths == 1


async def test_an_interrupted_shard_stays_so_however_often_it_is_given_back(store: Store) -> None:
    """An attempt of it may have been executed without anybody knowing, and no later holder can undo that."""
    batch_id = (await submit(store.batches, IDS)).batch_id
    await claimed(store.shards, batch_id, 0, "dead")
    await expire_lease(store.redis, batch_id)
    for number in range(3):
        claim = await claimed(store.shards, batch_id, 0, f"t{number}")
        assert claim.deaths == 1
        assert (await store.shards.record(claim, written(claim, {number: ABSENT}), time.time())).ours
        assert await store.shards.release(claim, {}, 0.0) is (number < 2)


async def test_a_released_shard_was_not_interrupted_and_its_histories_come_back(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    histories = {
        0: History(1),
        2: History(4, Doubt.UNANSWERED | Doubt.SERVER_FAILED | Doubt.INTERRUPTED, Reason.UNREADABLE_REPLY),
    }
    assert await store.shards.release(await claimed(store.shards, batch_id), histories, 0.0)
    claim = await claimed(store.shards, batch_id, 0, "t2")
    assert (claim.deaths, claim.histories) == (0, histories)


async def test_histories_are_kept_when_the_next_holder_dies(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await store.shards.release(await claimed(store.shards, batch_id), {1: History(3)}, 0.0)
    await claimed(store.shards, batch_id, 0, "dead")
    await expire_lease(store.redis, batch_id)
    assert (await claimed(store.shards, batch_id, 0, "t3")).histories == {1: History(3)}


async def test_a_paused_a_finished_and_an_unknown_shard_are_not_given(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, known={3: INVALID, 4: INVALID, 5: INVALID})).batch_id
    assert await store.shards.claim(batch_id, 1, "t1") is NotClaimed.DONE
    await finish(store.shards, batch_id, 1)
    assert await store.shards.claim(batch_id, 0, "t2") is NotClaimed.DONE
    assert await store.shards.claim(batch_id, 99, "t2") is NotClaimed.DONE
    await pause(store, batch_id)
    assert await store.shards.claim(batch_id, 2, "t2") is NotClaimed.NOT_RUNNING
    assert await store.shards.claim(new_batch_id(), 0, "t2") is NotClaimed.NOT_RUNNING


# Promise 2: an outcome is written once, and the tally moves with it


async def test_the_first_outcome_of_a_record_stands(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(claim, written(claim, {0: DELETED}), time.time())
    await store.shards.record(claim, written(claim, {0: ABSENT, 1: ABSENT}), time.time())
    assert await outcomes(store.batches, batch_id) == {"c0": "confirmed", "c1": "not_found", "c2": None}
    tally = (await existing(store.batches, batch_id)).tally
    assert (tally.pending, tally.reasons) == (1, {Reason.CONFIRMED: 1, Reason.NOT_FOUND: 1})


async def test_the_first_outcome_stands_within_one_group_too(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    group = written(claim, {0: DELETED}) + written(claim, {0: ABSENT})
    await store.shards.record(claim, group, time.time())
    tally = (await existing(store.batches, batch_id)).tally
    assert (tally.pending, tally.reasons) == (2, {Reason.CONFIRMED: 1})


async def test_a_repeated_write_moves_the_tally_once(store: Store) -> None:
    """redis-py repeats a command whose answer was lost."""
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    group = written(claim, {0: DELETED, 2: ABSENT})
    first, now = await store.shards.record(claim, group, time.time()), time.time()
    before = await lines(store.batches, batch_id)
    for _ in range(3):
        assert await store.shards.record(claim, group, now) == first
    assert await lines(store.batches, batch_id) == before
    assert (await existing(store.batches, batch_id)).tally.pending == 1


async def test_a_repeated_last_write_changes_nothing(store: Store) -> None:
    """The shard has ended with it, and so has the batch; asked again, the store only says in which state it is."""
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    assert (await store.shards.record(claim, written(claim), time.time())).ours
    before = await existing(store.batches, batch_id)
    again = await store.shards.record(claim, written(claim, {0: ABSENT}), time.time())
    assert again.standing is Standing.COMPLETED
    assert await existing(store.batches, batch_id) == before


async def test_a_stale_holder_changes_neither_outcomes_nor_tally(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    stale = await claimed(store.shards, batch_id, 0, "slow")
    await store.shards.record(stale, written(stale, {0: DELETED}), time.time())
    await expire_lease(store.redis, batch_id)
    newest = await claimed(store.shards, batch_id, 0, "new")
    assert newest.finished == {0}
    before = await lines(store.batches, batch_id), await existing(store.batches, batch_id)

    refused = await store.shards.record(stale, written(stale, {0: ABSENT, 1: ABSENT}), time.time())
    assert (refused.ours, refused.standing) == (False, Standing.RUNNING)
    assert not await store.shards.release(stale, {1: History(9)}, 0.0)
    assert (await lines(store.batches, batch_id), await existing(store.batches, batch_id)) == before
    assert await store.shards.claim(batch_id, 0, "third") is NotClaimed.HELD

    assert (await store.shards.record(newest, written(newest), time.time())).ours
    assert await outcomes(store.batches, batch_id) == dict.fromkeys(IDS[:3], "confirmed")


async def test_an_expired_lease_that_nobody_took_still_writes(store: Store) -> None:
    """Nobody else can have sent anything of the shard, so what is known of it is not thrown away."""
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    await expire_lease(store.redis, batch_id)
    assert (await store.shards.record(claim, written(claim, {0: DELETED}), time.time())).ours
    assert await store.shards.claim(batch_id, 0, "t2") is NotClaimed.HELD


async def test_who_gave_a_shard_back_writes_nothing_more(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    assert await store.shards.release(claim, {}, 0.0)
    assert not (await store.shards.record(claim, written(claim), time.time())).ours
    assert (await existing(store.batches, batch_id)).tally.pending == 3


class Race:
    """Holders that write, repeat, die, take over and give back in any order, and somebody who looks."""

    def __init__(self, store: Store, batch_id: str, seed: int) -> None:
        self._store, self._batch_id = store, batch_id
        self._chance = random.Random(seed)  # noqa: S311
        self._tokens = itertools.count()
        self._first_seen: dict[int, Result] = {}
        self._until = time.monotonic() + 20

    async def running(self) -> bool:
        """``existing`` also checks that the tally adds up at this instant."""
        assert time.monotonic() < self._until, "the batch never completes"
        return (await existing(self._store.batches, self._batch_id)).state is BatchState.RUNNING

    async def look(self) -> None:
        while await self.running():
            for line in await lines(self._store.batches, self._batch_id):
                if line.result is not None:
                    assert self._first_seen.setdefault(line.row, line.result) == line.result

    async def work(self) -> None:
        while await self.running():
            shard = self._chance.randrange(4)
            claim = await self._store.shards.claim(self._batch_id, shard, f"t{next(self._tokens)}")
            if claim is NotClaimed.HELD and self._chance.random() < 0.3:
                await self._store.redis.hset(keys.of_batch(self._batch_id, "holders"), str(shard), "dead 1 0")
            if not isinstance(claim, NotClaimed):
                await self._hold(claim)

    async def _hold(self, claim: Claim) -> None:
        for _ in range(self._chance.randrange(4)):
            offsets = self._chance.sample(range(10), self._chance.randrange(6))
            results = {offset: self._chance.choice([DELETED, ABSENT]) for offset in offsets}
            await self._store.shards.record(claim, written(claim, results), time.time())
        if self._chance.random() < 0.5:
            await self._store.shards.release(claim, {}, 0.0)


@pytest.mark.parametrize("seed", range(5))
async def test_the_tally_adds_up_at_every_instant_of_a_race(store: Store, seed: int) -> None:
    ids = [f"c{number}" for number in range(40)]
    batch_id = (await submit(store.batches, ids, 10, known={3: INVALID, 30: INVALID})).batch_id
    race = Race(store, batch_id, seed)
    async with asyncio.TaskGroup() as group:
        group.create_task(race.look())
        for _ in range(4):
            group.create_task(race.work())
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.tally.done) == (BatchState.COMPLETED, 40)
    found = Counter(line.result.reason for line in await lines(store.batches, batch_id) if line.result)
    assert found == batch.tally.reasons


# Leases and the end


async def test_a_write_renews_the_lease_also_with_nothing_to_write(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    await let_time_come(store.redis, batch_id, 0)
    recorded = await store.shards.record(claim, [], time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.RUNNING)
    assert LEASE - 2 < await due_at(store.redis, batch_id, 0) <= LEASE
    assert (await existing(store.batches, batch_id)).tally.pending == len(IDS)


async def test_renewing_keeps_the_mark_of_an_interrupted_shard(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await claimed(store.shards, batch_id, 0, "dead")
    await expire_lease(store.redis, batch_id)
    claim = await claimed(store.shards, batch_id, 0, "t2")
    await store.shards.record(claim, [], time.time())
    assert (await claimed(store.shards, batch_id, 0, "t2")).deaths == 1


async def test_a_holder_learns_of_a_pause_with_its_next_write(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    await pause(store, batch_id)
    recorded = await store.shards.record(claim, written(claim, {0: DELETED}), time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.PAUSED)
    assert (await outcomes(store.batches, batch_id))["c0"] == "confirmed"


async def test_a_holder_learns_that_its_batch_is_gone(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.redis.delete(*await all_keys(store.redis, f"*{batch_id}*"))
    recorded = await store.shards.record(claim, written(claim), time.time())
    assert (recorded.ours, recorded.standing) == (False, Standing.GONE)
    assert await all_keys(store.redis, f"*{batch_id}*") == []


async def test_shard_and_batch_end_in_the_step_that_writes_the_last_outcome(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:5], known={3: INVALID})).batch_id
    first, last = await claimed(store.shards, batch_id, 0, "t1"), await claimed(store.shards, batch_id, 1, "t2")
    recorded = await store.shards.record(last, written(last, {1: DELETED}), time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.RUNNING)
    assert await store.shards.claim(batch_id, 1, "t3") is NotClaimed.DONE
    recorded = await store.shards.record(first, written(first, {0: DELETED, 1: DELETED}), time.time())
    assert recorded.standing is Standing.RUNNING
    recorded = await store.shards.record(first, written(first, {2: DELETED}), time.time())
    assert (recorded.ours, recorded.standing) == (True, Standing.COMPLETED)
    batch = await existing(store.batches, batch_id)
    assert (batch.tally.pending, batch.tally[Outcome.DELETED], batch.tally[Outcome.SKIPPED]) == (0, 4, 1)
    assert list(await store.batches.active(TARGET)) == []
    left = await all_keys(store.redis, f"*{batch_id}*")
    assert {name.rpartition(":")[2] for name in left} == {"meta", "ids", "tally", "0", "1"}


async def test_shards_that_end_at_once_complete_their_batch_exactly_once(store: Store) -> None:
    ids = [f"c{number}" for number in range(30)]
    batch_id = (await submit(store.batches, ids, 3)).batch_id
    claims = [await claimed(store.shards, batch_id, shard, f"t{shard}") for shard in range(10)]
    answers = await asyncio.gather(*(store.shards.record(claim, written(claim), time.time()) for claim in claims))
    assert sorted(str(answer.standing) for answer in answers) == ["completed"] + ["running"] * 9
    assert (await existing(store.batches, batch_id)).tally.pending == 0


async def test_a_batch_whose_last_outcome_comes_while_it_is_paused_completes_when_resumed(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS[:3])).batch_id
    claim = await claimed(store.shards, batch_id)
    await pause(store, batch_id)
    assert (await store.shards.record(claim, written(claim), time.time())).standing is Standing.PAUSED
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.tally.pending, batch.ended_at) == (BatchState.PAUSED, 0, None)
    assert await resume(store, batch_id) is BatchState.COMPLETED


# Feeding


async def test_shards_are_fed_in_the_order_of_the_rows_within_the_window(store: Store) -> None:
    ids = [f"c{number}" for number in range(36)]
    batch_id = (await submit(store.batches, ids, 3)).batch_id
    assert await store.shards.feed(batch_id, 4) == Due(batch_id, TARGET, [0, 1, 2, 3])
    assert await fed(store.shards, batch_id, 4) == []
    assert await fed(store.shards, batch_id, 7) == [4, 5, 6]
    await finish(store.shards, batch_id, 2)
    assert await fed(store.shards, batch_id, 7) == [7, 8]
    assert await fed(store.shards, batch_id, 100) == [9, 10, 11]


async def test_a_shard_under_way_counts_in_the_window(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 1)).batch_id
    for shard in range(3):
        await claimed(store.shards, batch_id, shard)
    assert await fed(store.shards, batch_id, 4) == [3]


async def test_feeders_at_once_send_every_shard_once(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 1)).batch_id
    answers = await asyncio.gather(*(fed(store.shards, batch_id, 9) for _ in range(10)))
    assert sorted(itertools.chain(*answers)) == list(range(9))


async def test_a_lost_message_is_due_again_after_its_life(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 9)).batch_id
    assert await fed(store.shards, batch_id) == [0]
    assert MESSAGE_LIFE - 2 < await due_at(store.redis, batch_id, 0) <= MESSAGE_LIFE
    assert await fed(store.shards, batch_id) == []
    await let_time_come(store.redis, batch_id, 0)
    assert await fed(store.shards, batch_id) == [0]


async def test_a_shard_given_back_is_due_after_its_delay(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 9)).batch_id
    await store.shards.release(await claimed(store.shards, batch_id), {}, 90.0)
    assert 88 < await due_at(store.redis, batch_id, 0) <= 90
    assert await fed(store.shards, batch_id) == []
    await let_time_come(store.redis, batch_id, 0)
    assert await fed(store.shards, batch_id) == [0]
    await store.shards.release(await claimed(store.shards, batch_id), {}, 0.0)
    assert await fed(store.shards, batch_id) == [0]


async def test_shards_that_wait_do_not_keep_the_others_of_their_batch_from_being_fed(store: Store) -> None:
    """A few records with a long ``Retry-After`` must not hold up the whole batch."""
    batch_id = (await submit(store.batches, IDS, 1)).batch_id
    assert await fed(store.shards, batch_id, 4) == [0, 1, 2, 3]
    for shard in range(4):
        await store.shards.release(await claimed(store.shards, batch_id, shard), {}, 3600.0)
    assert await fed(store.shards, batch_id, 4) == [4, 5, 6, 7]


async def test_a_dead_holders_shard_is_due_when_its_lease_ends(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 9)).batch_id
    await claimed(store.shards, batch_id)
    assert LEASE - 2 < await due_at(store.redis, batch_id, 0) <= LEASE
    assert await fed(store.shards, batch_id) == []
    await expire_lease(store.redis, batch_id)
    assert await fed(store.shards, batch_id) == [0]


def test_a_dead_workers_shard_runs_elsewhere_within_a_minute() -> None:
    """Promise 4: its lease or its message ends, and the reconciler looks every few seconds."""
    assert max(LEASE, MESSAGE_LIFE) + 2 * EVERY <= 60


async def test_nothing_is_fed_of_a_batch_that_does_not_run(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await pause(store, batch_id)
    assert await fed(store.shards, batch_id) == []
    await resume(store, batch_id)
    assert await fed(store.shards, batch_id) == [0, 1, 2]
    await finish(store.shards, batch_id, 3)
    assert await fed(store.shards, batch_id) == []
    assert await fed(store.shards, new_batch_id()) == []


async def test_a_resumed_batch_does_not_wait_for_messages_that_came_while_it_was_paused(store: Store) -> None:
    """They were passed over; what nobody holds is due at once, what somebody holds stays theirs."""
    batch_id = (await submit(store.batches, IDS)).batch_id
    assert await fed(store.shards, batch_id) == [0, 1, 2]
    await claimed(store.shards, batch_id, 1)
    await pause(store, batch_id)
    await resume(store, batch_id)
    assert await fed(store.shards, batch_id) == [0, 2]
    assert await store.shards.claim(batch_id, 1, "t2") is NotClaimed.HELD


async def test_a_worker_with_time_left_gets_one_more_shard_whatever_is_under_way(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 1)).batch_id
    assert await fed(store.shards, batch_id, 4) == [0, 1, 2, 3]
    assert [await store.shards.next_due(batch_id) for _ in range(5)] == [4, 5, 6, 7, 8]


async def test_a_worker_with_time_left_gets_a_shard_whose_message_waits_in_the_queue(store: Store) -> None:
    """Else a small batch would wait behind the messages of a large one, for as long as all processes are busy."""
    batch_id = (await submit(store.batches, IDS, 3)).batch_id
    assert await fed(store.shards, batch_id, 4) == [0, 1, 2]
    assert await store.shards.next_due(batch_id) == 0
    claim = await claimed(store.shards, batch_id, 0)
    assert await store.shards.next_due(batch_id) == 1
    await store.shards.release(await claimed(store.shards, batch_id, 1), {}, 60.0)
    await claimed(store.shards, batch_id, 2)
    assert await store.shards.next_due(batch_id) is None, "one is held, and one rests for a while"
    await store.shards.release(claim, {}, 0.0)
    assert await store.shards.next_due(batch_id) == 0
    await claimed(store.shards, batch_id, 0)
    await expire_lease(store.redis, batch_id, 0)
    assert await fed(store.shards, batch_id, 4) == [0]
    assert await store.shards.next_due(batch_id) == 0, "its holder is dead"


async def test_a_shard_with_nothing_to_send_is_never_fed(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, known=dict.fromkeys((3, 4, 5, 8), INVALID))).batch_id
    assert await fed(store.shards, batch_id) == [0, 2]


# Redis forgets its scripts


async def test_all_goes_on_when_redis_forgets_its_scripts(store: Store) -> None:
    """As it does when it is restarted."""
    flush = store.redis.script_flush
    presence = Presence(store.redis, TARGET)
    batch_id = (await submit(store.batches, IDS[:6])).batch_id
    await flush()
    assert await fed(store.shards, batch_id) == [0, 1]
    await flush()
    first = await claimed(store.shards, batch_id, 0)
    await flush()
    assert (await store.shards.record(first, written(first), time.time())).ours
    await flush()
    second = await claimed(store.shards, batch_id, 1)
    await flush()
    assert await store.shards.release(second, {}, 0.0)
    await flush()
    await pause(store, batch_id)
    await flush()
    assert await resume(store, batch_id) is BatchState.RUNNING
    await flush()
    assert await presence.beat("p1") == 1
    await flush()
    assert set(await store.ledger.lookup(IDS, time.time())) == {0, 1, 2}
    await flush()
    await submit(store.batches, IDS)
    await finish_rest(store, batch_id)


async def finish_rest(store: Store, batch_id: str) -> None:
    claim = await claimed(store.shards, batch_id, 1, "t9")
    await store.redis.script_flush()
    assert (await store.shards.record(claim, written(claim), time.time())).standing is Standing.COMPLETED


# Presence


async def test_processes_count_while_they_beat(store: Store) -> None:
    presence = Presence(store.redis, TARGET)
    assert await presence.count() == 0
    assert [await presence.beat(name) for name in ("p1", "p2", "p1")] == [1, 2, 2]
    assert await presence.count() == 2
    await store.redis.zadd(keys.workers(TARGET), {"p1": 1})
    assert await presence.count() == 1
    assert await presence.beat("p1") == 2


async def test_one_process_a_time_has_the_turn(store: Store) -> None:
    presence = Presence(store.redis, TARGET)
    turns = await asyncio.gather(*(presence.take_turn(f"p{number}", 2.0) for number in range(10)))
    assert turns.count(True) == 1
    assert not await presence.take_turn("p1", 2.0)
    await asyncio.sleep(2.05)
    assert await presence.take_turn("p2", 2.0)
