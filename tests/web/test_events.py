"""Streams of events: where they go on, when they end, and what they do while nothing happens."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.conftest import existing, finish, make_settings, submit, until
from tests.web.conftest import Client
from worker.domain.batches import BatchState
from worker.web import following
from worker.web.following import Hub
from worker.wiring import Store


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are short, and looked after often."""
    monkeypatch.setattr(following, "EVERY", 0.05)
    monkeypatch.setattr(following, "LONGEST", 0.5)
    monkeypatch.setattr(following, "_QUIET", 0.1)


@pytest.fixture
async def hub(store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(following, "EVERY", 0.05)
    async with Hub(store, make_settings(redis_url)) as hub:
        yield hub


def ids(response: httpx.Response) -> list[str]:
    return [line.removeprefix("id: ") for line in response.text.splitlines() if line.startswith("id: ")]


@pytest.mark.usefixtures("soon")
async def test_a_stream_ends_after_a_while_and_goes_on_behind_the_last_event(vera: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await web_store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)
    path = f"/v1/batches/{batch_id}/events"
    async with asyncio.timeout(10):
        first = await vera.get(path)
        (last,) = ids(first)
        again = await vera.get(path, headers={"Last-Event-ID": last})
    assert (again.status_code, ids(again)) == (200, [])
    assert first.headers["x-accel-buffering"] == "no"
    assert first.headers["cache-control"] == "no-store"


async def test_the_streams_that_are_open_are_counted(app: FastAPI, vera: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    events = app.state.web.hub.follow(await existing(web_store.batches, batch_id), None)
    await anext(events)
    assert "expunge_followers 1.0" in (await vera.get("/metrics")).text
    await events.aclose()
    assert "expunge_followers 0.0" in (await vera.get("/metrics")).text


async def test_a_batch_is_looked_at_again_when_redis_is_back(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = (await submit(store.batches, ["c1"])).batch_id
    batch, get, failures = await existing(store.batches, batch_id), store.batches.get, [3]

    async def away(_: object, wanted: str) -> object:
        if failures[0]:
            failures[0] -= 1
            raise RedisConnectionError
        return await get(wanted)

    monkeypatch.setattr(store.batches.__class__, "get", away)
    events = hub.follow(batch, None)
    await anext(events)
    assert b'"running"' in await anext(events)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)
    async with asyncio.timeout(5):
        assert b'"paused"' in await anext(events)
    assert failures == [0]
    await events.aclose()  # type: ignore[attr-defined]


async def seen(hub: Hub, batch_id: str, word: bytes) -> None:
    """Wait until the hub has looked and found it so."""
    await until(lambda: word in hub._watches[batch_id].latest.event)


async def test_whoever_reads_slowly_gets_the_newest_and_nothing_is_kept_for_them(hub: Hub, store: Store) -> None:
    batch_id = (await submit(store.batches, ["c1"])).batch_id
    events = hub.follow(await existing(store.batches, batch_id), None)
    await anext(events)
    assert b'"running"' in await anext(events)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)
    await seen(hub, batch_id, b'"paused"')
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    await finish(store.shards, batch_id, 1)
    await seen(hub, batch_id, b'"completed"')
    left = [event async for event in events if event.startswith(b"event")]
    assert len(left) == 1
    assert b'"completed"' in left[0]


async def test_the_store_is_left_alone_when_nobody_follows_any_more(hub: Hub, store: Store) -> None:
    batch_id = (await submit(store.batches, ["c1"])).batch_id
    events = hub.follow(await existing(store.batches, batch_id), None)
    await anext(events)
    task = hub._watches[batch_id].task
    assert task is not None
    await events.aclose()  # type: ignore[attr-defined]
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_stream_shows_that_it_lives_while_nothing_changes(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_QUIET", 0.1)
    batch_id = (await submit(store.batches, ["c1"])).batch_id
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED)  # else its expected end moves
    events = hub.follow(await existing(store.batches, batch_id), None)
    async with asyncio.timeout(5):
        found = [await anext(events) for _ in range(4)]
    assert [each for each in found if not each.startswith(b"event")] == [b": \n\n"] * 3
    await events.aclose()  # type: ignore[attr-defined]
