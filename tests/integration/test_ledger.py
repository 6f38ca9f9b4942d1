"""The ledger: what was deleted before is found, nobody else is, and no customer's ID rests in it."""

import time
import zlib
from collections.abc import Mapping

import pytest
from redis.asyncio import Redis

from tests.conftest import DELETED, all_keys, claimed, lifetimes, make_settings, submit, written
from worker.domain.batches import Environment
from worker.domain.customer_ids import Digester
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Result
from worker.store import keys
from worker.store.ledger import Deletion, Ledger
from worker.store.shards import Shards
from worker.wiring import Store, open_store

DAY = 86_400
DAYS = 365
IDS = ["customer_canary_one", "customer_canary_two", "customer_canary_three"]


async def record(store: Store, results: Mapping[int, Result], now: float | None = None) -> str:
    """Record outcomes of a batch of ``IDS``; returns its ID."""
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    recorded = await store.shards.record(claim, written(claim, results), time.time() if now is None else now)
    assert recorded.ours
    return batch_id


def ledger_of(redis: Redis, key: bytes, scope: str, days: int = DAYS) -> Ledger:
    return Ledger(redis, Digester(key, scope), days)


async def entries(redis: Redis) -> dict[str, dict[bytes, bytes]]:
    """All that is in the ledger, by key."""
    found: dict[str, dict[bytes, bytes]] = {}
    for name in await all_keys(redis):
        if name.startswith(keys.LEDGER):
            bucket = await redis.hgetall(name.encode("utf-8", "surrogateescape"))
            found[name] = bucket  # type: ignore[assignment] # of bytes, as nothing is decoded
    return found


async def expiry(redis: Redis, name: str) -> object:
    """When a key expires, seconds since the epoch."""
    return await redis.expiretime(name.encode("utf-8", "surrogateescape"))  # type: ignore[arg-type] # a str is too narrow


async def test_a_deletion_is_found_with_its_batch_and_time(store: Store) -> None:
    before = int(time.time())
    batch_id = await record(store, {0: DELETED, 2: Result(Reason.NO_CONTENT, 204, 1)})
    found = await store.ledger.lookup([*reversed(IDS), "somebody else"], time.time())
    assert set(found) == {0, 2}
    for deletion in found.values():
        assert deletion.batch_id == batch_id
        assert before <= deletion.at <= time.time()
    assert await store.ledger.lookup([], time.time()) == {}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.outcome is not Outcome.DELETED])
async def test_only_what_was_deleted_enters(store: Store, reason: Reason) -> None:
    await record(store, {0: Result(reason, first_row=1 if reason is Reason.DUPLICATE else None)})
    assert await entries(store.redis) == {}
    assert await store.ledger.lookup(IDS, time.time()) == {}


async def test_what_a_stale_holder_says_does_not_enter(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.release(claim, {}, 0.0)
    await store.shards.record(claim, written(claim), time.time())
    assert await entries(store.redis) == {}


async def test_a_deletion_that_came_second_to_another_outcome_does_not_enter(store: Store) -> None:
    """The ledger says what the batch says: a record's first outcome stands."""
    batch_id = (await submit(store.batches, IDS)).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(claim, written(claim, {0: Result(Reason.NO_ANSWER)}), time.time())
    await store.shards.record(claim, written(claim, {0: DELETED}), time.time())
    assert await entries(store.redis) == {}


async def test_no_customer_id_rests_outside_its_batchs_own_list(store: Store) -> None:
    batch_id = await record(store, {0: DELETED, 1: Result(Reason.NOT_FOUND), 2: DELETED})
    own = keys.of_batch(batch_id, "ids")
    for key in [key async for key in store.redis.scan_iter()]:
        dump = await store.redis.dump(key)
        assert dump is not None
        for customer_id in IDS:
            assert customer_id.encode() not in key
            assert customer_id.encode() not in dump
    packed = await store.redis.hget(own, "0")
    assert isinstance(packed, bytes)
    assert IDS[0].encode() in zlib.decompress(packed)
    for bucket in (await entries(store.redis)).values():
        assert {(len(field), len(value)) for field, value in bucket.items()} == {(10, 12)}


async def test_another_key_finds_nothing(store: Store) -> None:
    await record(store, {0: DELETED})
    assert await ledger_of(store.redis, b"a key for tests", "sandbox:m1").lookup(IDS, time.time()) != {}
    assert await ledger_of(store.redis, b"another key", "sandbox:m1").lookup(IDS, time.time()) == {}


@pytest.mark.parametrize("other", [{"merchant_id": "m2"}, {"environment": Environment.PRODUCTION}])
async def test_another_merchant_or_environment_finds_nothing(
    store: Store, redis_url: str, other: dict[str, object]
) -> None:
    await record(store, {0: DELETED})
    async with open_store(make_settings(redis_url, **other)) as elsewhere:
        assert await elsewhere.ledger.lookup(IDS, time.time()) == {}


async def test_a_deletion_counts_for_as_many_days_as_were_asked_and_no_longer(store: Store) -> None:
    now = time.time()
    await record(store, {0: DELETED}, now)
    for days in (0, 1, 200, DAYS - 0.01):
        assert set(await store.ledger.lookup(IDS, now + days * DAY)) == {0}, days
    for days in (DAYS + 0.01, 400, 2 * DAYS, 3 * DAYS):
        assert await store.ledger.lookup(IDS, now + days * DAY) == {}, days


async def test_a_deletion_is_still_known_when_the_period_has_changed(store: Store) -> None:
    """Entries lie in periods of ``days``; the last one's count too."""
    start = (time.time() // (DAYS * DAY)) * DAYS * DAY
    await record(store, {0: DELETED}, start + DAYS * DAY - 1)
    assert set(await store.ledger.lookup(IDS, start + DAYS * DAY + 1)) == {0}


async def test_the_latest_deletion_of_a_customer_is_the_one_told(store: Store) -> None:
    await record(store, {0: DELETED})
    latest = await record(store, {0: DELETED})
    found = await store.ledger.lookup(IDS, time.time())
    assert [deletion.batch_id for deletion in found.values()] == [latest]
    assert isinstance(found[0], Deletion)


async def test_every_key_of_the_ledger_expires_within_twice_its_days(store: Store) -> None:
    await record(store, dict.fromkeys(range(3), DELETED))
    names = list(await entries(store.redis))
    left = await lifetimes(store.redis, names)
    assert len(names) == 3
    assert all(DAYS * DAY - 60 <= seconds <= 2 * DAYS * DAY for seconds in left.values())


async def test_later_deletions_do_not_prolong_a_buckets_life(store: Store) -> None:
    """Two deletions of one customer share a bucket, and its life is that of the period."""
    await record(store, {0: DELETED})
    (name,) = await entries(store.redis)
    first = await expiry(store.redis, name)
    await record(store, {0: DELETED})
    assert await expiry(store.redis, name) == first


async def test_with_no_days_nothing_is_kept_and_nothing_found(store: Store, redis_url: str) -> None:
    await record(store, {0: DELETED})
    before = await entries(store.redis)
    async with open_store(make_settings(redis_url, ledger_days=0)) as forgetful:
        assert isinstance(forgetful.shards, Shards)
        await record(forgetful, {1: DELETED})
        assert await forgetful.ledger.lookup(IDS, time.time()) == {}
    assert await entries(store.redis) == before
