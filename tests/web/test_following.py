"""Followers of a batch: each sees every change, and the store is asked once for all of them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import existing, finish, make_settings, submit, until
from worker.domain.batches import BatchState
from worker.store import keys
from worker.web import following
from worker.web.following import Hub, snapshot
from worker.wiring import Store

IDS = [f"c{number}" for number in range(6)]


@pytest.fixture
async def hub(store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(following, "EVERY", 0.05)
    async with Hub(store, make_settings(redis_url)) as hub:
        yield hub


async def states(hub: Hub, store: Store, batch_id: str, seen: str | None = None) -> list[str]:
    batch = await existing(store.batches, batch_id)
    events = [event async for event in hub.follow(batch, seen) if event.startswith(b"event")]
    return [json.loads(event.split(b"\ndata: ")[1].split(b"\n")[0])["state"] for event in events]


async def followed(hub: Hub, followers: int) -> None:
    """Wait until so many have seen how the batch stands, and wait for a change."""
    await until(lambda: hub.followers >= followers, 30)


async def shown(hub: Hub, batch_id: str, state: str) -> None:
    """Wait until the followers are told that it stands so."""
    await until(lambda: f'"{state}"'.encode() in hub._watches[batch_id].latest.event, 30)


async def test_all_followers_see_every_change_until_it_has_ended(hub: Hub, store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    followers = [asyncio.create_task(states(hub, store, batch_id)) for _ in range(20)]
    await followed(hub, 20)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)
    await shown(hub, batch_id, "paused")
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    await finish(store.shards, batch_id, 2)
    async with asyncio.timeout(30):
        found = await asyncio.gather(*followers)
    assert all(each[0] == "running" and "paused" in each and each[-1] == "completed" for each in found)


async def test_the_store_is_asked_once_for_all(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    followers = [asyncio.create_task(states(hub, store, batch_id)) for _ in range(50)]
    await followed(hub, 50)
    asked = 0
    get = store.batches.__class__.get

    async def counted(_: object, wanted: str) -> object:
        nonlocal asked
        asked += 1
        return await get(store.batches, wanted)

    monkeypatch.setattr(store.batches.__class__, "get", counted)
    began = time.monotonic()
    await until(lambda: asked >= 8, 30)
    assert asked <= (time.monotonic() - began) / following.EVERY + 1
    hub.close()
    async with asyncio.timeout(30):
        await asyncio.gather(*followers)


async def test_what_was_seen_before_is_not_sent_again(hub: Hub, store: Store, redis_url: str) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)
    seen = (await snapshot(store, make_settings(redis_url), await existing(store.batches, batch_id))).id
    follower = asyncio.create_task(states(hub, store, batch_id, seen))
    await followed(hub, 1)
    await asyncio.sleep(0.2)
    hub.close()
    assert await follower == []


async def test_nobody_is_asked_for_what_nobody_follows(hub: Hub, store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    events = hub.follow(await existing(store.batches, batch_id), None)
    await anext(events)
    assert (len(hub._watches), hub.followers) == (1, 1)
    await events.aclose()  # type: ignore[attr-defined]
    assert (len(hub._watches), hub.followers) == (0, 0)


async def test_a_look_at_what_nobody_follows_any_more_has_ended_before_the_store_may_close(
    store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have a connection in hand, which it gives back when it is cancelled."""
    monkeypatch.setattr(following, "EVERY", 0.01)
    batch = await existing(store.batches, (await submit(store.batches, IDS)).batch_id)
    began, given_back = asyncio.Event(), asyncio.Event()

    async def get(*_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            given_back.set()

    monkeypatch.setattr(store.batches.__class__, "get", get)
    async with Hub(store, make_settings(redis_url)) as hub:
        events = hub.follow(batch, None)
        await anext(events)
        await began.wait()
        await events.aclose()  # type: ignore[attr-defined]
    assert given_back.is_set()


async def test_followers_of_a_batch_that_is_purged_before_they_saw_its_end_are_let_go(hub: Hub, store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    followers = [asyncio.create_task(states(hub, store, batch_id)) for _ in range(3)]
    await followed(hub, 3)
    batch = await existing(store.batches, batch_id)
    await store.redis.hset(keys.of_batch(batch_id, "meta"), "ended_at", "1")  # so quickly that nobody looks in between
    await store.purging.begin(batch, None, None)
    async with asyncio.timeout(30):
        assert [each[0] for each in await asyncio.gather(*followers)] == ["running"] * 3
    assert hub.followers == 0
