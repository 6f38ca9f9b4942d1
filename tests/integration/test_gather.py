"""Events of other systems gather, each once, and become batches like any other (SPEC 8)."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisAway
from structlog.testing import capture_logs

from tests.conftest import all_keys, existing, lifetimes, lines, make_settings
from worker.cli import doctor
from worker.domain import references
from worker.domain.batches import Batch, BatchState, Lane
from worker.domain.events import Event
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.people import EVENTS
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept, describe
from worker.pipeline.duties import beside
from worker.pipeline.gather import COLUMNS
from worker.store import keys
from worker.store.gatherings import Taken
from worker.wiring import Store, open_store

DAY = 86_400
QUICK = 1e-6  # seconds: every gathering is due at once


def event(number: int, *customers: str, source: str = "/crm", **others: Any) -> Event:
    return Event(source, f"e{number}", customers or (f"c{number}",), **others)


async def batches(store: Store) -> list[Batch]:
    """All there are, oldest first."""
    return [await existing(store.batches, batch.id) for batch in reversed(await store.batches.recent(None))]


async def taken(store: Store, *events: Event) -> list[Taken]:
    """What became of events of which none is refused."""
    answers = [answer for answer in await store.gatherer.take(events) if answer]
    assert len(answers) == len(events)
    return answers


async def customers_of(store: Store, batch: Batch) -> list[str]:
    return [line.customer_id for line in await lines(store.batches, batch.id)]


async def test_an_event_counts_once_however_often_it_comes_and_is_answered_the_same(store: Store) -> None:
    first = await taken(store, event(1), event(2), event(1))
    again = await taken(store, event(2), event(1))
    other = await taken(store, event(1, source="/shop"))

    assert [each.known for each in first] == [False, False, True]
    assert [each.known for each in again] == [True, True]
    assert {each.gathering_id for each in [*first, *again, *other]} == {first[0].gathering_id}
    assert not other[0].known, "the same ID of another source is another event"


@pytest.mark.parametrize("others", [("c3",), ("c1",), ("c1", "c2", "c3"), ("c2c1",), ("c1", "c1")])
async def test_an_id_that_was_used_for_other_customers_is_refused_and_those_are_not_lost_silently(
    store: Store, others: tuple[str, ...]
) -> None:
    """It would else count as the event that was taken, and its customers would stay."""
    await taken(store, event(1, "c1", "c2"))
    answers = await store.gatherer.take([event(2), event(1, *others), event(3), event(1, *others)])
    assert [None if each is None else each.known for each in answers] == [False, None, False, None]
    assert await store.gatherer.take([event(1, *others)]) == [None]
    (again,) = await taken(store, event(1, "c2", "c1", "c2", reference="said later", lane=Lane.URGENT))
    assert again.known, "the same customers, however they are said"


async def test_of_two_events_with_one_id_in_one_call_the_first_counts(store: Store) -> None:
    first, second = await store.gatherer.take([event(1, "c1"), event(1, "c2")])
    assert first is not None
    assert not first.known
    assert second is None


async def test_an_event_that_is_asked_for_again_is_written_again_so_that_replicas_are_waited_for(store: Store) -> None:
    """Its first answer may have been that too few replicas have it (docs/decisions/0010)."""
    await store.gatherer.take([event(1)])
    before = (await store.redis.info("persistence"))["rdb_changes_since_last_save"]
    await store.gatherer.take([event(1)])
    assert (await store.redis.info("persistence"))["rdb_changes_since_last_save"] > before


async def test_events_become_a_batch_with_their_reference_and_due_in_the_report(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        due = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
        later = datetime(2027, 2, 1, tzinfo=UTC)
        asked = [event(1, "c1", "c2", reference="A-1", due=later), event(2, "c3", due=due), event(3, "c1")]
        first, *_ = await taken(store, *asked)
        await store.gatherer.close_due()

        (batch,) = await batches(store)
        description = batch.description
        assert description.reference == references.of_events(first.gathering_id)
        assert (description.rows, description.submitted_by, description.due) == (4, EVENTS, due.timestamp())
        assert batch.tally.reasons == {Reason.DUPLICATE: 1}

        found = await lines(store.batches, batch.id)
        assert description.stored_columns == COLUMNS
        assert [list(line.cells) for line in found] == [
            ["c1", "A-1", "2027-02-01T00:00:00Z", "/crm", "e1"],
            ["c2", "A-1", "2027-02-01T00:00:00Z", "/crm", "e1"],
            ["c3", "", "2027-01-02T03:04:05Z", "/crm", "e2"],
            ["c1", "", "", "/crm", "e3"],
        ]
        assert await all_keys(store.redis, f"{keys.GATHERING}*") == []


async def test_a_rolling_batch_closes_by_size_and_the_next_event_opens_another(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_size=3, event_batch_age=3600)) as store:
        await store.gatherer.take([event(1), event(2)])
        await store.gatherer.close_due()
        assert await batches(store) == [], "it is neither full nor old"

        await store.gatherer.take([event(3, "c3", "c4"), event(5)])
        await store.gatherer.close_due()

        made = await batches(store)
        assert sorted([await customers_of(store, batch) for batch in made]) == [["c1", "c2"], ["c3", "c4", "c5"]]


async def test_no_gathering_ever_has_more_records_than_one_may_have(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_size=3, event_batch_age=QUICK)) as store:
        await store.gatherer.take([event(number) for number in range(10)])
        await store.gatherer.close_due()
        assert sorted(batch.description.rows for batch in await batches(store)) == [1, 3, 3, 3]


async def test_what_no_longer_fits_into_a_gathering_goes_into_the_next_and_nothing_is_lost(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_size=3, event_batch_age=QUICK)) as store:
        await store.gatherer.take([event(1), event(2)])
        await store.gatherer.take([event(3), event(4), event(5)])
        await store.gatherer.close_due()
        made = await batches(store)
        assert sorted([await customers_of(store, batch) for batch in made]) == [["c1", "c2", "c3"], ["c4", "c5"]]


async def test_lanes_gather_apart_and_never_more_than_one_is_open_for_each(store: Store) -> None:
    for number in range(20):
        await store.gatherer.take([event(number, lane=Lane.URGENT if number % 2 else Lane.BULK)])
    open_ones = await all_keys(store.redis, "expunge:gathering-open:*")
    assert [name.rpartition(":")[2] for name in open_ones] == ["bulk", "urgent"]
    assert await store.redis.zcard(keys.gatherings(make_settings("redis://x").target)) == 2


async def test_the_batch_has_the_lane_of_its_events(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        await store.gatherer.take([event(1), event(2, lane=Lane.URGENT)])
        await store.gatherer.close_due()
        made = {batch.description.lane: await customers_of(store, batch) for batch in await batches(store)}
        assert made == {Lane.URGENT: ["c2"], Lane.BULK: ["c1"]}


async def test_a_rolling_batch_is_no_larger_than_any_may_be(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_age=QUICK, max_batch=2)) as store:
        await store.gatherer.take([event(number) for number in range(3)])
        await store.gatherer.close_due()
        assert sorted(batch.description.rows for batch in await batches(store)) == [1, 2]


async def test_a_batch_of_events_is_guarded_as_any_other(redis_url: str) -> None:
    settings = make_settings(redis_url, event_batch_age=QUICK, approval_above=0, canary=20)
    async with open_store(settings) as store:
        await store.holds.add(["c2"], Term("a lawsuit"), replace=False)
        await store.gatherer.take([event(1), event(2)])
        await store.gatherer.close_due()

        (batch,) = await batches(store)
        assert batch.state is BatchState.AWAITING_APPROVAL
        assert batch.description.needs_approval
        assert batch.description.brakes.canary == 20
        assert batch.tally.reasons == {Reason.ON_HOLD: 1}


async def test_whoever_makes_the_batch_may_die_at_any_step_and_it_is_made_once(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies after the batch counts, before the gathering is forgotten; then another one comes."""
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        await store.gatherer.take([event(1), event(2)])

        async def die(*_: object) -> None:
            raise RuntimeError("dead")

        with monkeypatch.context() as dying:
            dying.setattr("worker.store.gatherings.Gatherings.remove", die)
            with pytest.raises(RuntimeError):
                await store.gatherer.close_due()
        assert len(await batches(store)) == 1

        due = keys.gatherings(make_settings(redis_url).target)
        (claimed,) = [str(raw, "ascii") for raw in cast("list[bytes]", await redis.zrange(due, 0, -1))]
        await redis.zadd(due, {claimed: 1})  # a minute later
        await store.gatherer.close_due()

        assert [await customers_of(store, batch) for batch in await batches(store)] == [["c1", "c2"]]
        assert await redis.zcard(due) == 0


async def test_whoever_comes_late_to_a_gathering_makes_no_batch_of_what_is_left(redis_url: str) -> None:
    """It was given out again since its maker was slow, and that one has just removed the first half of it."""
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        await store.gatherer.take([event(1)])
        await store.gatherer.take([event(2)])
        (lines_key,) = await all_keys(store.redis, f"{keys.GATHERING}*:lines")
        await store.redis.lpop(lines_key)
        await store.gatherer.close_due()
        assert await batches(store) == []


async def test_what_is_claimed_is_given_to_nobody_else_meanwhile_and_takes_no_more_events(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        (first,) = await taken(store, event(1))
        gatherings = store.gatherer.gatherings
        claimed = await gatherings.claim()
        assert claimed is not None
        assert claimed.id == first.gathering_id
        assert await gatherings.claim() is None

        (second,) = await taken(store, event(2))
        assert second.gathering_id != claimed.id


async def test_doctor_finds_events_that_are_no_batch_long_after_they_should_be(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(redis_url, event_batch_age=QUICK)

    async def found() -> list[str]:
        return [text async for good, text in doctor._redis(settings) if "should be a batch" in text and not good]

    async with open_store(settings) as store:
        await store.gatherer.take([event(1)])
        gathering = await store.gatherer.gatherings.claim()  # which puts off the next try, and is no excuse
        assert gathering is not None
        assert await found() == []
        monkeypatch.setattr(doctor, "_OVERDUE", 0.01)
        await asyncio.sleep(0.02)
        (told,) = await found()
        assert "must run" in told
        async with open_store(settings.model_copy(update={"event_batch_age": 3600.0})) as patient:
            assert await patient.gatherer.gatherings.overdue() == 0, "it may gather for an hour"
        await store.gatherer.gatherings.remove(gathering)
        assert await found() == []


async def test_events_become_a_batch_though_a_file_of_the_same_rows_was_taken_before(
    redis_url: str, tmp_path: Path
) -> None:
    """That batch may have been cancelled, and the customers of the events with it."""
    settings = make_settings(redis_url, event_batch_age=QUICK)
    rules, path = settings.rules, tmp_path / "same.csv"
    async with open_store(settings) as store:
        path.write_bytes(f"{','.join(COLUMNS)}\r\nc1,,,/crm,e1\r\n".encode())
        with CsvFile.open(path, rule=rules.ids) as file:
            before = await accept(store.batches, store.holds, file, describe(file.inspect(), rules, keep=COLUMNS))
        await store.gatherer.take([event(1)])
        await store.gatherer.close_due()
        file_batch, rolling = await batches(store)
        assert file_batch.id == before.batch_id
        assert rolling.description.sha256 == file_batch.description.sha256
        assert await customers_of(store, rolling) == ["c1"]


async def test_events_are_remembered_as_long_as_the_ledger(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, ledger_days=365)) as store:
        await store.gatherer.take([event(1)])
        seen = await all_keys(store.redis, f"{keys.SEEN}*")
        (left,) = (await lifetimes(store.redis, seen)).values()
        assert 365 * DAY <= left <= 2 * 365 * DAY


async def test_what_is_remembered_of_an_event_does_not_show_it(store: Store) -> None:
    await store.gatherer.take([event(1, source="/secret-source")])
    for name in await all_keys(store.redis, f"{keys.SEEN}*"):
        content = await store.redis.hgetall(name.encode("utf-8", "surrogateescape"))
        assert b"secret" not in repr(content).encode()


async def test_kept_cells_expire_with_their_batch(redis_url: str) -> None:
    async with open_store(make_settings(redis_url, event_batch_age=QUICK)) as store:
        await store.holds.add(["c1"], Term("a lawsuit"), replace=False)
        await store.gatherer.take([event(1)])  # on hold, so that the batch ends at once
        await store.gatherer.close_due()
        (batch,) = await batches(store)
        assert batch.state is BatchState.COMPLETED
        left = await lifetimes(store.redis, [keys.of_batch(batch.id, "kept")])
        assert 0 < left[keys.of_batch(batch.id, "kept")] <= 30 * DAY


async def test_an_outage_of_redis_is_told_once_and_the_next_one_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.gather.EVERY", 0.001)
    asked, enough = 0, asyncio.Event()

    async def close_due() -> None:
        nonlocal asked
        asked += 1
        if asked == 10:
            enough.set()
        if asked != 5 and asked < 10:
            raise RedisAway("away")

    monkeypatch.setattr(store.gatherer, "close_due", close_due)
    with capture_logs() as told:
        async with beside(store.gatherer.close_forever()):
            await enough.wait()
    assert [line["event"] for line in told] == ["waits for Redis", "goes on"] * 2
    assert {line["duty"] for line in told} == {"gathering of events"}
