"""An ended batch is removed at once: nothing of it is left that its expiry would not leave, and it never comes back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisAway

from tests.conftest import (
    DELETED,
    HOLDER,
    INVALID,
    TARGET,
    all_keys,
    claimed,
    describe,
    existing,
    expire_lease,
    finish,
    lifetimes,
    lines,
    load,
    make_settings,
    new_batch_id,
    submit,
    written,
)
from worker.domain import references
from worker.domain.audit import Deed, Entry
from worker.domain.batches import BatchState
from worker.domain.errors import Guard, RefusedError, StoreError
from worker.domain.events import Event
from worker.domain.outcomes import Reason
from worker.domain.people import EVENTS, NO_APPROVAL
from worker.domain.records import Doubt, History, Result
from worker.pipeline import control
from worker.pipeline.cancel import settle_cancelled
from worker.pipeline.gather import COLUMNS
from worker.pipeline.purge import find, purge
from worker.pipeline.retry import describe as describe_retry
from worker.pipeline.retry import retry
from worker.store import keys, purging, scripts
from worker.store.requests import Answer
from worker.store.scripts import NotReplicatedError
from worker.store.shards import NotClaimed, Standing
from worker.wiring import Store, open_store

IDS = [f"customer-{number}" for number in range(7)]
SHA256 = "a" * 64
RESULTS = {0: DELETED, 1: Result(Reason.SERVER_ERROR, http_status=500, attempts=3)}
STAYS = (keys.AUDIT, keys.LEDGER, "expunge:holds-version:")
"""All that a purge may leave of what was not there before the batch."""


async def rich(store: Store, *, ends: bool = True, **others: Any) -> str:
    """A batch that has a key of every kind: kept columns, outcomes, attempts, holders, names, an answer by its key."""
    batch_id = new_batch_id()
    columns = {"columns": ("customer_id", "name"), "kept": ("name",)}
    given = {"sha256": SHA256, "reference": "ticket-4711", "source": "leavers.csv", **columns}
    description = describe(IDS, **given | others)
    loading = store.batches.load(batch_id)
    for shard in range(description.shards):
        some = [row - 1 for row in description.rows_of(shard)]
        known = {2: INVALID} if shard == 1 else {}
        doubts = {1: History(doubt=Doubt.UNANSWERED)} if shard == 0 else {}
        cells = [[f"name of {IDS[at]}"] for at in some]
        await loading.add_shard(shard, [IDS[at] for at in some], known, doubts, cells)
    assert (await loading.commit(description, again=True)).known_by is None
    key = description.reference or ""
    assert await store.requests.begin("anna", key, "content") is None
    await store.requests.keep("anna", key, "content", Answer(202, "/", {"source": "leavers.csv"}, [batch_id]))
    if ends:
        await end(store, batch_id)
    return batch_id


async def end(store: Store, batch_id: str) -> None:
    for shard in await store.shards.unfinished(batch_id):
        claim = await claimed(store.shards, batch_id, shard)
        await store.shards.suspect(claim, 0)
        results = {at: RESULTS.get(at, DELETED) for at in range(len(claim.ids))}
        await store.shards.record(claim, written(claim, results), time.time())


async def purged(store: Store, batch_id: str, actor: str | None = "ada") -> int:
    removable = await find(store.batches, store.purging, batch_id)
    assert removable is not None
    return await purge(store.purging, removable, actor)


async def deeds(store: Store, batch_id: str) -> list[Entry]:
    return [entry async for entry in store.audit.entries(batch_id)]


async def content(redis: Redis) -> bytes:
    """All that is stored, the ledger and the audit trail too."""
    raw = [key async for key in redis.scan_iter("*", count=1000)]
    return b"".join([key + (await redis.dump(key) or b"") for key in raw])


async def values(redis: Redis) -> dict[bytes, object]:
    """The same by key, as it is read: in which order a hash, a set or the keys lie, reading may change."""
    say: Callable[..., Awaitable[Any]] = redis.execute_command
    read = {
        b"string": lambda key: say("GET", key),
        b"hash": lambda key: say("HGETALL", key),
        b"list": lambda key: say("LRANGE", key, 0, -1),
        b"set": lambda key: say("SMEMBERS", key),
        b"zset": lambda key: say("ZRANGE", key, 0, -1, "WITHSCORES"),
        b"stream": lambda key: say("XRANGE", key, "-", "+"),
    }
    return {key: await read[await say("TYPE", key)](key) async for key in redis.scan_iter("*", count=1000)}


# --- what is removed ---


async def test_nothing_is_left_of_a_purged_batch_but_the_audit_trail_and_digests(store: Store) -> None:
    neighbour = await rich(store, sha256="b" * 64, reference="ticket-4712")
    before = set(await all_keys(store.redis))
    others = {key: value for key, value in (await values(store.redis)).items() if neighbour.encode() in key}
    batch_id = await rich(store)
    tries = keys.of_batch(batch_id, "tries:2")
    await store.redis.hset(tries, "0", b"x")  # a shard that ends removes its own; the retention counts on no such thing
    keys_of_it = set(await all_keys(store.redis)) - before
    assert len([name for name in keys_of_it if batch_id in name]) >= 8

    removed = await purged(store, batch_id)

    added = set(await all_keys(store.redis)) - before
    assert {name for name in added if not name.startswith(STAYS)} == set()
    assert removed == len(keys_of_it - added)
    assert others.items() <= (await values(store.redis)).items(), "its neighbour is untouched"
    assert await store.redis.zrange(keys.BATCHES, 0, -1) == [neighbour.encode()], "not only hidden"


async def test_a_purge_leaves_the_very_keys_that_expiry_would_leave(store: Store) -> None:
    first = await rich(store)
    await purged(store, first)
    by_purge = set(await all_keys(store.redis))
    await store.redis.flushall()

    second = await rich(store)
    for name in await all_keys(store.redis):
        if not name.startswith(STAYS) and await store.redis.ttl(name) > 0:
            await store.redis.pexpire(name, 1)
    await asyncio.sleep(0.05)
    await store.batches.recent(None)  # forgets what expired
    assert {name.replace(second, first) for name in await all_keys(store.redis)} == by_purge


async def test_no_customer_file_or_reference_is_anywhere_after_a_purge(store: Store) -> None:
    batch_id = await rich(store)
    secret = [*(each.encode() for each in IDS), b"leavers.csv", b"ticket-4711", b"name of"]
    found = await content(store.redis)
    assert b"ticket-4711" in found
    await purged(store, batch_id)
    found = await content(store.redis)
    assert [each for each in secret if each in found] == []


async def test_the_ledger_knows_still_who_was_deleted_by_which_batch(store: Store) -> None:
    batch_id = await rich(store)
    await purged(store, batch_id)
    found = await store.ledger.lookup(IDS[:2], time.time())
    assert {at: deletion.batch_id for at, deletion in found.items()} == {0: batch_id}


async def test_the_audit_trail_says_who_purged_what_and_keeps_what_was_before(store: Store) -> None:
    batch_id = await rich(store)
    await purged(store, batch_id)
    found = await deeds(store, batch_id)
    assert [entry.deed for entry in found] == [Deed.SUBMITTED, Deed.COMPLETED, Deed.PURGED]
    assert (found[-1].actor, found[-1].detail) == ("ada", {"rows": "7", "environment": "sandbox", "merchant": "m1"})


async def test_the_file_and_the_reference_are_free_again(store: Store) -> None:
    batch_id = await rich(store)
    description = (await existing(store.batches, batch_id)).description
    assert await store.batches.known(description) is not None
    await purged(store, batch_id)
    assert await store.batches.known(description) is None
    assert (await submit(store.batches, IDS, sha256=SHA256, reference="ticket-4711")).known_by is None


async def test_a_later_batch_keeps_the_file_that_it_took_over(store: Store) -> None:
    first = await rich(store)
    later = await submit(store.batches, IDS, sha256=SHA256, again=True)
    await purged(store, first)
    known = await store.batches.known(describe(IDS, sha256=SHA256))
    assert known is not None
    assert known.batch_id == later.batch_id


async def test_the_answer_to_an_idempotency_key_goes_with_its_batch_and_others_stay(store: Store) -> None:
    batch_id = await rich(store)
    assert await store.requests.begin("anna", "other", "content") is None
    await store.requests.keep("anna", "other", "content", Answer(202, "/", {}, [new_batch_id()]))
    await purged(store, batch_id)
    assert await store.requests.begin("anna", "ticket-4711", "content") is None, "the request is a new one"
    assert isinstance(await store.requests.begin("anna", "other", "content"), Answer)


async def test_the_records_of_a_gathering_go_too_that_somebody_died_over(store: Store) -> None:
    """It became the batch, and was not yet put away: left there, it would become the same batch once more."""
    (taken,) = await store.gatherer.take([Event("/crm", "e1", ("c1",))])
    assert taken is not None
    own: dict[str, Any] = {
        "reference": references.of_events(taken.gathering_id),
        "submitted_by": EVENTS,
        "columns": COLUMNS,
    }
    batch_id = (await submit(store.batches, ["c1"], **own)).batch_id
    await store.redis.zadd(keys.gatherings(TARGET), {taken.gathering_id: 1})
    await finish(store.shards, batch_id, 1)
    await purged(store, batch_id)
    assert [name for name in await all_keys(store.redis) if taken.gathering_id in name] == []
    await store.gatherer.close_due()
    assert await store.batches.recent(None) == []


async def test_a_reference_that_somebody_chose_after_events_takes_none_of_them_away(store: Store) -> None:
    (taken,) = await store.gatherer.take([Event("/crm", "e1", ("c1",))])
    assert taken is not None
    batch_id = await rich(store, reference=references.of_events(taken.gathering_id), submitted_by="anna")
    await purged(store, batch_id)
    assert [line async for some in store.gatherer.gatherings.lines(replace_id(taken.gathering_id)) for line in some]


def replace_id(gathering_id: str) -> Any:
    return type("Gathering", (), {"id": gathering_id})()


# --- which batches ---


async def test_a_batch_that_has_not_ended_is_refused_and_nothing_of_it_changes(store: Store) -> None:
    waiting = await rich(store, ends=False, needs_approval=True, submitted_by="anna", reference="R0")
    running = await rich(store, ends=False)
    paused = await rich(store, ends=False, reference="R1")
    await store.batches.move(paused, BatchState.RUNNING, BatchState.PAUSED)
    kept = await values(store.redis)
    for batch_id, state in ((waiting, "awaiting_approval"), (running, "running"), (paused, "paused")):
        with pytest.raises(RefusedError, match=rf"batch {batch_id} is {state}, .* `expunge cancel {batch_id}`") as why:
            await find(store.batches, store.purging, batch_id)
        assert (why.value.guard, why.value.exit_code) == (Guard.STATE, 4)
        batch = await existing(store.batches, batch_id)
        assert (await store.purging.begin(batch, None, None))[0] is purging.Begun.NOT_ENDED, "not by a race either"
    assert await values(store.redis) == kept


async def test_a_cancelled_batch_waits_for_what_is_in_flight_and_no_late_write_brings_it_back(store: Store) -> None:
    batch_id = await rich(store, ends=False)
    in_flight = await claimed(store.shards, batch_id, 0, HOLDER)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.CANCELLED)
    for shard in (1, 2):
        await settle_cancelled(store.shards, await claimed(store.shards, batch_id, shard))
    with pytest.raises(RefusedError, match=rf"is cancelled, and .* still ending: wait .* `expunge cancel {batch_id}`"):
        await find(store.batches, store.purging, batch_id)

    await expire_lease(store.redis, batch_id, 0)  # its worker hangs; another one ends the shard
    await settle_cancelled(store.shards, await claimed(store.shards, batch_id, 0, "another"))
    await purged(store, batch_id)
    kept = await values(store.redis)

    late = await store.shards.record(in_flight, written(in_flight), time.time())
    assert (late.ours, late.standing) == (False, Standing.GONE)
    assert not await store.shards.release(in_flight, {0: History(doubt=Doubt.UNANSWERED)}, 0.0)
    assert not await store.shards.suspect(in_flight, 1)
    assert await store.shards.claim(batch_id, 0, HOLDER) is NotClaimed.NOT_RUNNING
    assert await store.shards.feed(batch_id, 10) is None
    await store.batches.circuit_opened(batch_id, 1.0)
    await store.batches.circuit_closed(batch_id)
    assert await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED) == (False, None)
    with pytest.raises(RefusedError, match="is gone"):
        await control.cancel(store.batches, store.shards, batch_id, lambda _: None)
    assert await values(store.redis) == kept, "not a key, not a digest"


async def test_the_last_worker_of_a_completed_batch_may_be_late_too(store: Store) -> None:
    """Also while its outcomes are still there, since whoever purges died before they were removed."""
    batch_id = await rich(store, ends=False)
    claims = [await claimed(store.shards, batch_id, shard) for shard in range(3)]
    await end_by(store, claims)
    batch = await existing(store.batches, batch_id)
    await store.purging.begin(batch, None, None)
    kept = await values(store.redis)
    for claim in claims:
        assert not (await store.shards.record(claim, written(claim), time.time())).ours
    assert await values(store.redis) == kept


async def end_by(store: Store, claims: list[Any]) -> None:
    for claim in claims:
        assert (await store.shards.record(claim, written(claim), time.time())).ours


async def test_there_is_nothing_to_purge_of_an_id_that_no_batch_has(store: Store) -> None:
    assert await find(store.batches, store.purging, new_batch_id()) is None
    assert await find(store.batches, store.purging, "*") is None
    batch_id = await rich(store)
    await purged(store, batch_id)
    assert await find(store.batches, store.purging, batch_id) is None


async def test_a_batch_that_is_on_its_way_into_the_store_cannot_be_purged(store: Store) -> None:
    batch_id = new_batch_id()
    loading = await load(store.batches, IDS, describe(IDS), batch_id=batch_id)
    assert await find(store.batches, store.purging, batch_id) is None
    await loading.commit(describe(IDS), again=False)
    assert len(await lines(store.batches, batch_id)) == 7


# --- in the middle ---


class _Dies(Exception):  # noqa: N818 - stands for kill -9
    pass


async def half(store: Store, monkeypatch: pytest.MonkeyPatch, after: int) -> tuple[str, set[str]]:
    """A batch whose purge was killed after so many pieces; and what was left."""
    monkeypatch.setattr(purging, "_AT_ONCE", 1)
    batch_id = await rich(store)
    unlink, calls = store.redis.unlink, 0

    async def dying(*names: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > after:
            raise _Dies
        return int(await unlink(*names))

    monkeypatch.setattr(store.redis, "unlink", dying)
    with pytest.raises(_Dies):
        await purged(store, batch_id)
    monkeypatch.setattr(store.redis, "unlink", unlink)
    return batch_id, {name for name in await all_keys(store.redis) if batch_id in name}


@pytest.mark.parametrize("after", range(4))
async def test_a_purge_that_is_killed_leaves_no_batch_and_the_same_again_ends_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    batch_id, left = await half(store, monkeypatch, after)
    assert left, "it died in the middle"
    assert await store.batches.get(batch_id) is None
    assert await store.batches.recent(None) == []
    assert await store.shards.feed(batch_id, 10) is None
    assert await store.shards.claim(batch_id, 0, HOLDER) is NotClaimed.NOT_RUNNING
    assert all(0 < seconds <= 30 * 86_400 for seconds in (await lifetimes(store.redis, sorted(left))).values()), (
        "whoever does not ask again loses nothing: the rest expires when it would have"
    )
    removable = await find(store.batches, store.purging, batch_id)
    assert removable is not None
    assert removable.records == 7
    await purge(store.purging, removable, "ada")
    assert [name for name in await all_keys(store.redis) if batch_id in name] == []
    assert [entry.deed for entry in await deeds(store, batch_id)].count(Deed.PURGED) == 1, "it was done once"


async def test_an_answer_that_is_lost_can_be_asked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = await rich(store)
    batch = await existing(store.batches, batch_id)
    begin = store.purging.begin

    async def lost(_: object, *arguments: Any) -> Any:
        await begin(*arguments)
        raise RedisAway

    with monkeypatch.context() as patch:
        patch.setattr(type(store.purging), "begin", lost)
        with pytest.raises(RedisAway):
            await purged(store, batch_id)
    assert (await store.purging.begin(batch, None, "ada"))[0] is purging.Begun.GONE
    await purged(store, batch_id)
    assert [name for name in await all_keys(store.redis) if batch_id in name] == []


async def test_it_is_not_called_gone_before_replicas_have_it_however_often_it_is_asked(
    store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "WAIT", 0.05)
    batch_id = await rich(store)
    async with open_store(make_settings(redis_url, replicas=1)) as careful:
        for _ in range(3):
            with pytest.raises(NotReplicatedError):
                await purged(careful, batch_id)
            assert await store.batches.get(batch_id) is None
    await purged(store, batch_id)
    assert [name for name in await all_keys(store.redis) if batch_id in name] == []


async def test_a_report_that_is_read_meanwhile_says_so_instead_of_calling_records_pending(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id, _ = await half(store, monkeypatch, 1)
    other = await rich(store)
    batch = replace(await existing(store.batches, other), id=batch_id)  # as it was read before the purge
    with pytest.raises(StoreError, match=f"batch {batch_id} was purged, or expired, while it was read"):
        _ = [line async for page in store.batches.pages(batch) for line in page]


async def test_a_purge_between_two_answers_of_one_read_shows_no_record_as_pending(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands of a read are not one step: whatever comes between them, an ID is only read behind its outcome."""
    batch_id = await rich(store)
    batch = await existing(store.batches, batch_id)
    asked: list[str] = []
    execute = Pipeline.execute

    async def noted(pipe: Any, *arguments: Any) -> Any:
        asked.extend(command[0][1] for command in pipe.command_stack)
        return await execute(pipe, *arguments)

    monkeypatch.setattr(Pipeline, "execute", noted)
    assert [line async for page in store.batches.pages(batch) for line in page]
    assert asked.index(keys.of_batch(batch_id, "ids")) > asked.index(keys.of_batch(batch_id, "out:0"))


async def test_a_retry_of_a_batch_that_is_purged_meanwhile_makes_none_and_leaves_nothing(store: Store) -> None:
    batch_id = await rich(store)
    batch = await existing(store.batches, batch_id)
    described = describe_retry(batch, 3, batch.description.brakes, NO_APPROVAL)
    await purged(store, batch_id)
    kept = set(await all_keys(store.redis))
    with pytest.raises(StoreError, match="purged"):
        await retry(store.batches, store.holds, batch, described)
    assert set(await all_keys(store.redis)) == kept


async def test_a_batch_that_was_sent_again_can_be_purged_and_its_retry_goes_on(store: Store) -> None:
    batch_id = await rich(store)
    batch = await existing(store.batches, batch_id)
    again = await retry(
        store.batches, store.holds, batch, describe_retry(batch, 3, batch.description.brakes, NO_APPROVAL)
    )
    await purged(store, batch_id)
    assert (await existing(store.batches, again.batch_id)).description.retry_of == batch_id
    await end(store, again.batch_id)
    assert (await existing(store.batches, again.batch_id)).state is BatchState.COMPLETED
