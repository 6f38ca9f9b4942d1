"""Entries of a Redis Stream are persisted, then acknowledged; what cannot be taken is a dead letter (SPEC 8)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from tests.conftest import make_settings, until
from worker.domain.audit import Deed
from worker.domain.events import REUSED, Event
from worker.outfit import entry_reader
from worker.pipeline.letters import TakenAgain, take_again
from worker.pipeline.listen import MOST_DELIVERIES, Listener, Problem
from worker.store.gatherings import Taken
from worker.store.streams import EventStream, NoStreamError
from worker.wiring import Store, open_store

STREAM, GROUP = "closed-accounts", "expunge"
SOON = 0.05  # seconds after which what a consumer left is claimed


class Rig:
    """A stream, and listeners at it that were or were not killed."""

    def __init__(self, store: Store, redis: Redis, **settings: Any) -> None:
        self.store, self.redis = store, redis
        self._reader = entry_reader(make_settings("redis://unused", **settings))
        self.problems: list[Problem | None] = []

    def stream(self, *, delete: bool = False, claim_after: float = SOON) -> EventStream:
        return EventStream(self.redis, STREAM, GROUP, self.store.dead_letters, claim_after, delete=delete)

    def listener(self, stream: EventStream) -> Listener:
        return Listener(stream, self._reader, self.store.gatherer, 0.01, self.problems.append)

    @asynccontextmanager
    async def listening(self, stream: EventStream | None = None) -> AsyncIterator[Listener]:
        """A listener that is asked to stop at the end."""
        stream = stream or self.stream()
        await stream.create()
        stopping = asyncio.Event()
        listener = self.listener(stream)
        task = asyncio.create_task(listener.listen(stopping))
        try:
            yield listener
        finally:
            stopping.set()
            await task

    async def add(self, *customers: str, **more: str) -> list[str]:
        return [await self.put({"customer_id": each, **more}) for each in customers]

    async def put(self, fields: dict[Any, Any]) -> str:
        return cast("bytes", await self.redis.xadd(STREAM, fields)).decode()

    async def pending(self) -> int:
        return int((await self.redis.xpending(STREAM, GROUP))["pending"])

    async def consumers(self) -> list[str]:
        return [str(each["name"], "ascii") for each in await self.redis.xinfo_consumers(STREAM, GROUP)]

    async def letters(self) -> list[tuple[str, str]]:
        """Place and reason."""
        return [(letter.place, letter.reason) for _, letter in await self.store.dead_letters.list(1000)]

    async def customers(self) -> list[str]:
        """Who waits to be in a batch."""
        found: list[str] = []
        for name in [key async for key in self.redis.scan_iter("expunge:gathering:*:lines")]:
            lines = cast("list[bytes]", await self.redis.lrange(name, 0, -1))
            found += [line.split(",")[0] for raw in lines for line in raw.decode().splitlines()]
        return sorted(found)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has nothing to read looks more often whether it is asked to stop."""
    monkeypatch.setattr("worker.store.streams._BLOCK", 20)


@pytest.fixture
def rig(store: Store, redis: Redis) -> Rig:
    return Rig(store, redis)


async def counted(listener: Listener, count: int) -> None:
    async def all_of_them() -> bool:
        return int(sum(vars(listener.counts).values())) >= count

    await until(all_of_them, 30)


async def test_what_was_there_before_the_group_is_taken_too_and_all_is_acknowledged(rig: Rig) -> None:
    await rig.add("c1", "c2")
    async with rig.listening() as listener:
        await counted(listener, 2)
        await rig.add("c3")
        await counted(listener, 3)
    assert await rig.customers() == ["c1", "c2", "c3"]
    assert await rig.pending() == 0


async def test_an_entry_is_acknowledged_only_when_it_is_persisted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pending: list[int] = []
    take = rig.store.gatherer.take

    async def watched(events: list[Event]) -> list[Taken | None]:
        taken = await take(events)
        pending.append(await rig.pending())
        return taken

    monkeypatch.setattr(rig.store.gatherer, "take", watched)
    await rig.add("c1", "c2")
    async with rig.listening() as listener:
        await counted(listener, 2)
    assert sum(pending) == 2


async def test_bad_entries_become_dead_letters_with_their_reason_and_hold_up_nobody(rig: Rig) -> None:
    (bad,) = await rig.add("no/customer")
    await rig.add("c1")
    large = await rig.put({"event": b"x" * 1_000_000})
    async with rig.listening() as listener:
        await counted(listener, 3)
    assert vars(listener.counts) == {"taken": 1, "repeated": 0, "refused": 2}
    assert await rig.letters() == [
        (f"{STREAM} {bad}", "its customer ID is not accepted by EXPUNGE_ID_PATTERN"),
        (f"{STREAM} {large}", "it has 1,000,005 bytes; at most 262,144 are taken"),
    ]
    assert await rig.customers() == ["c1"]
    assert await rig.pending() == 0


async def test_a_bad_entry_is_never_acknowledged_without_its_letter(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = rig.stream()
    await stream.create()
    await rig.add("no/customer")

    async def die(*_: object) -> None:
        raise RedisConnectionError

    stopping = asyncio.Event()
    with monkeypatch.context() as dying:
        dying.setattr(rig.store.dead_letters, "add_to", die)
        task = asyncio.create_task(rig.listener(stream).listen(stopping))
        await until(lambda: bool(rig.problems), 30)
        stopping.set()
        await task
    assert await rig.pending() == 1
    async with rig.listening() as listener:
        await counted(listener, 1)
    assert len(await rig.letters()) == 1


async def test_an_entry_with_a_field_twice_is_refused_as_redis_has_it(rig: Rig) -> None:
    await rig.redis.execute_command("XADD", STREAM, "*", "customer_id", "c1", "customer_id", "c2")  # type: ignore[no-untyped-call]
    async with rig.listening() as listener:
        await counted(listener, 1)
    assert [reason for _, reason in await rig.letters()] == ["it has a field twice; an entry names one customer"]


async def test_what_a_dead_consumer_had_in_hand_is_taken_by_another_and_the_consumer_is_forgotten(rig: Rig) -> None:
    dead = rig.stream()
    await dead.create()
    await rig.add("c1", "no/customer", "c3")
    assert len(await dead.read()) == 3
    async with rig.listening() as listener:
        await counted(listener, 3)

        async def forgotten() -> bool:
            return dead.consumer not in await rig.consumers()

        await until(forgotten, 30)
    assert await rig.customers() == ["c1", "c3"]
    assert await rig.pending() == 0


async def test_what_somebody_has_in_hand_is_not_taken_from_them_before_its_time(rig: Rig) -> None:
    busy = rig.stream()
    await busy.create()
    await rig.add("c1")
    await busy.read()
    patient = rig.stream(claim_after=3600)
    async with rig.listening(patient) as listener:
        await rig.add("c2")
        await counted(listener, 1)
    assert await rig.customers() == ["c2"]
    assert await rig.pending() == 1


async def test_a_consumer_with_something_in_hand_is_never_forgotten(rig: Rig) -> None:
    dead = rig.stream()
    await dead.create()
    await rig.add("c1")
    await dead.read()
    await asyncio.sleep(20 * SOON)
    assert await rig.stream().forget_the_gone() == 0
    await dead.leave()
    assert await rig.consumers() == [dead.consumer]


async def test_consumers_of_others_in_the_group_are_left_alone(rig: Rig) -> None:
    stream = rig.stream(claim_after=0.001)
    await stream.create()
    await rig.redis.xgroup_createconsumer(STREAM, GROUP, "somebody")
    await asyncio.sleep(0.05)
    await stream.forget_the_gone()
    assert await rig.consumers() == ["somebody"]


async def test_who_is_stopped_leaves_no_consumer_behind(rig: Rig) -> None:
    async with rig.listening() as listener:
        await rig.add("c1")
        await counted(listener, 1)
    assert await rig.consumers() == []


async def test_an_entry_that_kills_whoever_has_it_ends_as_a_dead_letter_and_takes_no_other_with_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = rig.store.gatherer.take

    async def fatal(events: list[Event]) -> list[Taken | None]:
        if any("c2" in event.customer_ids for event in events):
            raise MemoryError
        return await take(events)

    monkeypatch.setattr(rig.store.gatherer, "take", fatal)
    _, poison, _ = await rig.add("c1", "c2", "c3")
    async with rig.listening() as listener:
        await counted(listener, 3)
    assert await rig.letters() == [
        (f"{STREAM} {poison}", f"it was delivered {MOST_DELIVERIES} times, and each time it was not taken")
    ]
    assert await rig.customers() == ["c1", "c3"]
    assert await rig.pending() == 0


async def test_an_entry_that_was_deleted_while_a_dead_consumer_had_it_is_told_and_pends_no_more(rig: Rig) -> None:
    dead = rig.stream()
    await dead.create()
    (gone,) = await rig.add("c1")
    await dead.read()
    await rig.redis.xdel(STREAM, gone)
    async with rig.listening() as listener:
        await counted(listener, 1)
    assert [place for place, _ in await rig.letters()] == [f"{STREAM} {gone}"]
    assert await rig.pending() == 0


async def test_delivered_again_an_entry_counts_once(rig: Rig) -> None:
    await rig.add("c1")
    await rig.add("c2", id="e2", source="/crm")
    await rig.add("c2", id="e2", source="/crm")
    async with rig.listening() as listener:
        await counted(listener, 3)
    await rig.redis.xgroup_setid(STREAM, GROUP, "0")
    async with rig.listening() as again:
        await counted(again, 3)
    assert vars(again.counts) == {"taken": 0, "repeated": 3, "refused": 0}
    assert await rig.customers() == ["c1", "c2"]


async def test_an_entry_whose_event_id_was_used_for_another_customer_is_a_dead_letter_until_it_has_its_own(
    rig: Rig,
) -> None:
    await rig.add("c1", id="e1", source="/crm")
    (other,) = await rig.add("c2", id="e1", source="/crm")
    async with rig.listening() as listener:
        await counted(listener, 2)
    assert vars(listener.counts) == {"taken": 1, "repeated": 0, "refused": 1}
    assert await rig.customers() == ["c1"]
    assert await rig.letters() == [(f"{STREAM} {other}", REUSED)]
    assert await rig.pending() == 0

    letters = await rig.store.dead_letters.list(10)
    reader = entry_reader(make_settings("redis://x"))
    again = await take_again(rig.store.dead_letters, rig.store.gatherer, reader, letters)
    assert again == TakenAgain(0, [(letters[0][0], REUSED)])
    assert len(await rig.letters()) == 1


async def test_a_group_or_stream_that_vanished_is_made_again(rig: Rig) -> None:
    async with rig.listening() as listener:
        await rig.add("c1")
        await counted(listener, 1)
        await rig.redis.xgroup_destroy(STREAM, GROUP)
        await rig.add("c2")
        await counted(listener, 3)
        await rig.redis.delete(STREAM)
        await rig.add("c3")
        await counted(listener, 4)
    assert await rig.customers() == ["c1", "c2", "c3"]


async def test_while_redis_fails_it_waits_and_says_so_once_and_then_takes_what_it_had(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, failures = rig.store.gatherer.take, iter([RedisConnectionError(), RedisConnectionError()])

    async def failing(events: list[Event]) -> list[Taken | None]:
        if error := next(failures, None):
            raise error
        return await take(events)

    monkeypatch.setattr("worker.pipeline.listen._PAUSE", 0.01)
    monkeypatch.setattr(rig.store.gatherer, "take", failing)
    await rig.add("c1")
    async with rig.listening(rig.stream(claim_after=3600)) as listener:
        await counted(listener, 1)
    assert [type(each) for each in rig.problems] == [RedisConnectionError, type(None)]
    assert await rig.customers() == ["c1"]


async def test_listeners_side_by_side_share_the_entries_and_none_is_taken_twice(rig: Rig) -> None:
    stream = rig.stream(claim_after=3600)
    other = rig.stream(claim_after=3600)
    async with rig.listening(stream) as one, rig.listening(other) as two:
        for number in range(50):
            await rig.add(*(f"c{number}x{each}" for each in range(20)))

        async def all_of_them() -> bool:
            return one.counts.taken + two.counts.taken == 1000

        await until(all_of_them, 30)
    assert one.counts.repeated + two.counts.repeated == 0
    assert one.counts.taken
    assert two.counts.taken
    assert len(set(await rig.customers())) == 1000


async def test_what_is_done_is_deleted_from_the_stream_only_if_asked(rig: Rig) -> None:
    await rig.add("c1", "no/customer")
    async with rig.listening() as listener:
        await counted(listener, 2)
    assert await rig.redis.xlen(STREAM) == 2
    await rig.add("c3", "no/customer")
    async with rig.listening(rig.stream(delete=True)) as listener:
        await counted(listener, 2)
    assert await rig.redis.xlen(STREAM) == 2


async def test_a_key_that_is_no_stream_is_refused(rig: Rig) -> None:
    await rig.redis.set(STREAM, "x")
    with pytest.raises(NoStreamError, match=f"the key '{STREAM}' holds something else than a stream"):
        await rig.stream().create()


async def test_a_key_that_becomes_something_else_is_told_once_and_the_stream_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.listen._PAUSE", 0.001)
    with capture_logs() as logged:
        async with rig.listening() as listener:
            await rig.add("c1")
            await counted(listener, 1)
            await rig.redis.set(STREAM, "x")
            await until(lambda: bool(rig.problems), 30)
            await asyncio.sleep(0.1)  # several tries
            assert not logged
            await rig.redis.delete(STREAM)
            await until(lambda: None in rig.problems, 30)
            await rig.add("c2")
            await counted(listener, 2)
    assert [type(each) for each in rig.problems] == [NoStreamError, type(None)]
    assert [line["event"].partition(":")[0] for line in logged] == ["the stream's group was gone"]
    assert await rig.customers() == ["c1", "c2"]


async def test_a_key_that_is_no_stream_when_it_is_acknowledged_drops_nothing_that_was_in_hand(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.listen._PAUSE", 0.001)
    done = EventStream.done
    overwritten = False

    async def overwritten_before(self: EventStream, *args: Any) -> None:
        nonlocal overwritten
        if not overwritten:
            overwritten = True
            await rig.redis.rename(STREAM, "kept")
            await rig.redis.set(STREAM, "x")
        await done(self, *args)

    monkeypatch.setattr(EventStream, "done", overwritten_before)
    async with rig.listening() as listener:
        await rig.add("c1")
        await until(lambda: bool(rig.problems), 30)
        await rig.redis.rename("kept", STREAM)
        await counted(listener, 1)

        async def acknowledged() -> bool:
            return await rig.pending() == 0

        await until(acknowledged, 30)
    assert [type(each) for each in rig.problems] == [NoStreamError, type(None)]
    assert await rig.customers() == ["c1"]


async def test_what_waits_in_the_stream_can_be_told(rig: Rig) -> None:
    stream = rig.stream()
    await stream.create()
    await rig.add("c1", "c2", "c3")
    assert await stream.waiting() == 3
    await stream.read()
    assert await stream.waiting() == 0


async def test_who_has_letters_forgotten_is_noted_in_the_same_step_and_once(rig: Rig) -> None:
    await rig.add("no/customer", "no/other", "no/third")
    async with rig.listening() as listener:
        await counted(listener, 3)
    ids = [letter_id for letter_id, _ in await rig.store.dead_letters.list(10)]
    assert await rig.store.dead_letters.drop(ids[:2], "olga") == 2
    assert await rig.store.dead_letters.drop(ids[:2], "olga") == 0

    (entry,) = [each async for each in rig.store.audit.entries() if each.deed is Deed.DEAD_LETTERS_REMOVED]
    assert (entry.actor, entry.batch_id) == ("olga", None)
    assert entry.detail == {"letters": "2", "first": ids[0], "last": ids[1], "environment": "sandbox", "merchant": "m1"}
    assert [letter_id for letter_id, _ in await rig.store.dead_letters.list(10)] == ids[2:]


async def test_after_the_pattern_was_mended_letters_can_be_taken_in_again(redis_url: str, redis: Redis) -> None:
    async with open_store(make_settings(redis_url)) as store:
        rig = Rig(store, redis, id_pattern="c[0-9]+")
        await rig.add("x1", "c 2", reference="A-1")
        async with rig.listening() as listener:
            await counted(listener, 2)
        assert await rig.customers() == []

        mended = entry_reader(make_settings(redis_url))
        letters = await store.dead_letters.list(10)
        done = await take_again(store.dead_letters, store.gatherer, mended, letters)
        assert (done.taken, [reason for _, reason in done.left]) == (
            1,
            ["its customer ID is not accepted by EXPUNGE_ID_PATTERN"],
        )
        assert await rig.customers() == ["x1"]
        ((left, _),) = await store.dead_letters.list(10)
        assert left == letters[1][0]

        again = await take_again(store.dead_letters, store.gatherer, mended, letters)
        assert again.taken == 1
        assert await rig.customers() == ["x1"], "known by the entry that it was, so it counts once"
