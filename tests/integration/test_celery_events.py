"""What Celery producers send lies in its queue until it is persisted, and what is wrong is kept apart (SPEC 8)."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from tests.conftest import TARGET, existing, lines
from tests.integration.conftest import Open
from worker.domain.events import REUSED
from worker.embedded import embedded_server
from worker.intake.celery_message import TASK
from worker.outfit import Worker
from worker.queue import celery_app, events_queue_of, lists_of
from worker.store import keys
from worker.store.dead_letters import DeadLetter
from worker.store.event_queue import LARGEST
from worker.wiring import Store

QUEUE = events_queue_of(TARGET)
PRIORITIES = (0, 3, 6, 9)


class Producer:
    """A stock Celery application that knows the queue's name and nothing else."""

    def __init__(self, url: str) -> None:
        self.app = Celery(broker=url.replace("unix://", "redis+socket://"))  # as Celery's documentation has it

    def send(self, *args: Any, **options: Any) -> str:
        return str(self.app.send_task(TASK, args, queue=QUEUE, **options).id)


@pytest.fixture
def producer(redis_url: str) -> Iterator[Producer]:
    made = Producer(redis_url)
    yield made
    made.app.close()


def waiting(url: str) -> list[bytes]:
    """Every message that lies in one of the queue's lists."""
    with BlockingRedis.from_url(url) as redis:
        return [raw for name in lists_of(QUEUE) for raw in redis.lrange(name, 0, -1)]


async def until_empty(url: str) -> None:
    async with asyncio.timeout(20):
        while waiting(url):  # noqa: ASYNC110 - another process may empty it
            await asyncio.sleep(0.05)


async def rows(store: Store) -> list[list[str]]:
    """Every record that became part of a rolling batch."""
    await store.gatherer.close_due()
    found = [await existing(store.batches, batch.id) for batch in await store.batches.recent(None)]
    return sorted([list(line.cells) for batch in found for line in await lines(store.batches, batch.id)])


async def letters(store: Store) -> list[DeadLetter]:
    return [letter for _, letter in await store.dead_letters.list(100)]


async def opened(worker: Open, **settings: Any) -> Worker:
    return await worker(event_batch_age=1e-6, **settings)


async def test_what_a_stock_producer_sends_is_taken_and_leaves_the_queue(
    worker: Open, producer: Producer, redis_url: str
) -> None:
    here = await opened(worker)
    first = producer.send(["c1", "c2"], "A-1")
    second = producer.send(["c3"], kwargs={"due": "2027-01-02T03:04:05Z"})
    await here.celery_events.take_waiting()

    assert waiting(redis_url) == []
    assert await rows(here.store) == [
        ["c1", "A-1", "", "celery", first],
        ["c2", "A-1", "", "celery", first],
        ["c3", "", "2027-01-02T03:04:05Z", "celery", second],
    ]
    assert await letters(here.store) == []


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_every_list_that_kombu_makes_of_the_queue_is_read(
    worker: Open, producer: Producer, redis_url: str, priority: int
) -> None:
    """With this project's key prefix and without one, at each of kombu's priorities."""
    here = await opened(worker)
    ours = celery_app(redis_url)
    ours.conf.broker_transport_options["priority_steps"] = list(PRIORITIES)
    for number, app in enumerate((ours, producer.app)):
        app.send_task(TASK, [[f"c{number}"]], queue=QUEUE, priority=priority)
    assert len(waiting(redis_url)) == 2, "where this test looks for them"
    await here.celery_events.take_waiting()
    assert [row[0] for row in await rows(here.store)] == ["c0", "c1"]
    assert waiting(redis_url) == []
    ours.close()


async def test_a_message_stays_in_the_queue_until_its_event_is_persisted(
    worker: Open, producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await opened(worker)
    producer.send(["c1"])
    seen: list[int] = []
    add = type(here.store.gatherer.gatherings).add

    async def dies_before(*_: Any) -> Any:
        seen.append(len(waiting(redis_url)))
        raise RuntimeError("dead")

    async def dies_after(*args: Any) -> Any:
        await add(*args)
        seen.append(len(waiting(redis_url)))
        raise RuntimeError("dead")

    for death in (dies_before, dies_after):
        with monkeypatch.context() as dying:
            dying.setattr("worker.store.gatherings.Gatherings.add", death)
            with pytest.raises(RuntimeError):
                await here.celery_events.take_waiting()
    assert seen == [1, 1]
    await here.celery_events.take_waiting()
    assert [row[0] for row in await rows(here.store)] == ["c1"], "read three times, counted once"
    assert waiting(redis_url) == []


async def test_a_bad_message_is_kept_with_its_reason_before_it_leaves_the_queue(
    worker: Open, producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await opened(worker)
    producer.send(["c1"], serializer="pickle")
    (raw,) = waiting(redis_url)

    async def die(*_: object) -> None:
        raise RuntimeError("dead")

    with monkeypatch.context() as dying:
        dying.setattr("worker.store.event_queue.EventQueue.remove", die)
        with pytest.raises(RuntimeError):
            await here.celery_events.take_waiting()
    (letter,) = await letters(here.store)
    assert (letter.way, letter.place.split()[0], letter.content) == ("celery", QUEUE, raw)
    assert letter.reason == "its content is not application/json; pickle and YAML are never read"
    assert waiting(redis_url) == [raw]
    await here.celery_events.take_waiting()
    assert waiting(redis_url) == []


async def test_a_task_id_that_was_used_for_other_customers_is_refused_on_both_ways(
    worker: Open, producer: Producer, redis_url: str
) -> None:
    here = await opened(worker)
    task_id = producer.send(["c1", "c2"])
    producer.send(["c2", "c1"], task_id=task_id)
    producer.send(["c1", "c3"], task_id=task_id)
    await here.celery_events.take_waiting()
    await here.celery_events.take_call(task_id, [["c1"]], {})

    assert waiting(redis_url) == []
    assert [row[0] for row in await rows(here.store)] == ["c1", "c2"]
    assert [letter.reason for letter in await letters(here.store)] == [REUSED, REUSED]


async def test_bad_messages_hold_up_no_good_ones(
    worker: Open, producer: Producer, redis_url: str, redis: Redis
) -> None:
    here = await opened(worker, event_batch_size=3)
    producer.send(["good-1"])
    producer.send(["c1"], serializer="pickle")
    producer.send(["c1"], serializer="yaml")
    producer.send(["c1"], compression="zlib")
    producer.send(["c1"], countdown=1)
    producer.send("c1")
    producer.send(["a/b"])
    producer.send([f"c{number}" for number in range(4)])
    producer.app.send_task("crm.other", [["c1"]], queue=QUEUE)
    await redis.lpush(QUEUE, b"junk", b"", b"\xff\xfe", json.dumps(["c1"]))
    producer.send(["good-2"])
    await here.celery_events.take_waiting()

    assert [row[0] for row in await rows(here.store)] == ["good-1", "good-2"]
    assert waiting(redis_url) == []
    reasons = [letter.reason for letter in await letters(here.store)]
    assert len(reasons) == 12
    assert reasons[6] == "it names 4 customers; at most 3 can be in one event", "no more than a rolling batch holds"


async def test_a_dead_letter_is_found_by_its_task_or_by_the_digest_of_its_message_and_shows_no_id_that_a_sender_chose(
    worker: Open, producer: Producer, redis: Redis, redis_url: str
) -> None:
    here = await opened(worker)
    task_id = producer.send(["a/b"])
    await here.celery_events.take_waiting()
    producer.send(["a/b"], task_id="customer-17")
    (raw,) = waiting(redis_url)
    await here.celery_events.take_waiting()
    await redis.lpush(QUEUE, b"junk")
    await here.celery_events.take_waiting()
    await here.celery_events.take_call(task_id, ["a/b"], {})
    await here.celery_events.take_call("customer-17", ["a/b"], {})
    assert [letter.place for letter in await letters(here.store)] == [
        f"{QUEUE} task {task_id}",
        f"{QUEUE} sha1 {hashlib.sha1(raw, usedforsecurity=False).hexdigest()}",
        f"{QUEUE} sha1 {hashlib.sha1(b'junk', usedforsecurity=False).hexdigest()}",
        f"task {task_id}",
        "task ?",
    ]


async def test_a_message_that_is_too_large_is_not_even_read(worker: Open, redis_url: str, redis: Redis) -> None:
    here = await opened(worker)
    await redis.lpush(QUEUE, b"x" * (LARGEST + 1))
    await redis.lpush(QUEUE, b"x" * LARGEST)
    await here.celery_events.take_waiting()
    found = await letters(here.store)
    assert [(letter.reason, letter.content) for letter in found] == [
        ("it is larger than 4 MiB", b""),
        ("it is no JSON", b""),
    ]
    assert waiting(redis_url) == []


async def test_thousands_of_messages_are_taken_by_two_processes_at_once_each_once(
    worker: Open, producer: Producer, redis: Redis, redis_url: str
) -> None:
    here, there = await opened(worker), await opened(worker)
    producer.send(["c0"])
    (raw,) = waiting(redis_url)
    good = json.loads(raw)
    copies = []
    for number in range(2_500):
        good["headers"]["id"] = f"t{number}"
        copies.append(json.dumps(good))
    await redis.lpush(QUEUE, *copies)
    await asyncio.gather(here.celery_events.take_waiting(), there.celery_events.take_waiting())
    assert waiting(redis_url) == []
    assert len({row[4] for row in await rows(here.store)}) == len(await rows(here.store)) == 2_501


async def test_what_came_while_others_were_read_is_not_removed_with_them(
    worker: Open, producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await opened(worker)
    producer.send(["c1"])
    bury = here.store.dead_letters.add
    came: list[int] = []

    async def another_comes(*args: Any) -> None:
        if not came:
            producer.send(["c2"])
            producer.send(["c3"], priority=9)
            came.append(len(waiting(redis_url)))
        await bury(*args)

    monkeypatch.setattr(here.store.dead_letters, "add", another_comes)
    await here.celery_events.take_waiting()
    assert came == [3]
    assert [row[0] for row in await rows(here.store)] == ["c1", "c2", "c3"]


async def test_the_broker_may_be_another_redis_than_the_store(worker: Open, tmp_path: Path) -> None:
    with embedded_server(tmp_path / "broker") as broker_url:
        here = await opened(worker, broker_url=broker_url)
        elsewhere = Producer(broker_url)
        elsewhere.send(["c1"])
        elsewhere.send(["c2"], serializer="pickle")
        await here.celery_events.take_waiting()
        assert [row[0] for row in await rows(here.store)] == ["c1"]
        assert len(await letters(here.store)) == 1
        assert waiting(broker_url) == []
        elsewhere.app.close()


async def test_one_process_reads_at_a_time_and_another_goes_on_when_it_is_gone(
    worker: Open, producer: Producer, redis: Redis, redis_url: str
) -> None:
    here = await opened(worker)
    await redis.set(keys.event_reader(TARGET), b"", px=1_500)
    producer.send(["c1"])
    reading = asyncio.create_task(here.celery_events.take_forever())
    await asyncio.sleep(0.7)
    assert len(waiting(redis_url)) == 1
    await until_empty(redis_url)
    reading.cancel()
    assert [row[0] for row in await rows(here.store)] == ["c1"]


async def test_an_error_of_redis_stops_no_reading(
    worker: Open, producer: Producer, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.celery_events._PATIENCE", 0.05)
    here = await opened(worker)
    await redis.set(QUEUE, "no list")
    reading = asyncio.create_task(here.celery_events.take_forever())
    await asyncio.sleep(0.2)
    await redis.delete(QUEUE)
    producer.send(["c1"])
    await until_empty(redis_url)
    reading.cancel()
    assert [row[0] for row in await rows(here.store)] == ["c1"]
