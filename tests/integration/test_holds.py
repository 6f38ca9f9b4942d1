"""Nobody on hold is deleted: whenever the hold is placed, none of its customers is sent from then on (SPEC 6)."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from tests.conftest import (
    TARGET,
    all_keys,
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
from worker.domain.batches import Environment
from worker.domain.customer_ids import IdRule
from worker.domain.errors import RefusedError, StoreError, UsageError
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.people import NO_APPROVAL, ApprovalRule
from worker.domain.rates import Rate
from worker.domain.records import Result
from worker.domain.rules import Rules
from worker.intake.csv_file import CsvFile
from worker.outfit import Worker
from worker.pipeline.accept import accept, describe
from worker.pipeline.attempts import RetryPolicy
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.holds import (
    HeldBack,
    Release,
    deleted_earlier,
    held_back,
    place,
    release_and_resubmit,
    releasing,
    too_late,
)
from worker.pipeline.naming import listed
from worker.pipeline.notice import FLUSH_EVERY, NOTICED
from worker.pipeline.submission import Taken, check_confirmation
from worker.simulator import Rule, Scenario, SimulatorThread
from worker.store import keys
from worker.store.holds import Held, Overlaps
from worker.store.shards import Recorded, Shards
from worker.wiring import Store, open_store

LITIGATION = Term("litigation 12")
TAX = Term("tax audit")
RULES = Rules(TARGET, 10, NO_APPROVAL)
ENDING = Term(LITIGATION.ground, 4_000_000_000.0)


def ids(count: int) -> list[str]:
    return [f"c{number:03}" for number in range(count)]


async def grounds(store: Store, customer_ids: Sequence[str]) -> dict[int, str]:
    return (await store.holds.lookup(customer_ids)).grounds


async def notes(store: Store, batch_id: str) -> dict[str, str | None]:
    """The notes of finished records, by customer ID."""
    return {line.customer_id: line.result.note for line in await lines(store.batches, batch_id) if line.result}


async def until_sent(upstream: SimulatorThread, count: int) -> None:
    await until(lambda: len(upstream.log) >= count)


# --- the store of holds ---


async def test_who_is_on_hold_is_found_with_the_ground_and_nobody_else(store: Store) -> None:
    assert await store.holds.add(["a", "b"], LITIGATION, replace=False) == 2
    assert await grounds(store, ["x", "b", "y", "a"]) == {1: "litigation 12", 3: "litigation 12"}
    assert await grounds(store, []) == {}
    assert [hold.customer_id for hold in await store.holds.all()] == ["a", "b"]


async def test_an_equal_hold_may_be_placed_again_and_another_only_if_it_shall_replace(store: Store) -> None:
    await store.holds.add(["a"], LITIGATION, replace=False)
    assert await store.holds.add(["a", "b"], LITIGATION, replace=False) == 1
    refused = await store.holds.add([*"abc", *"defghij"], TAX, replace=False)
    assert refused == Overlaps(2, {0: LITIGATION, 1: LITIGATION})
    assert await grounds(store, list("abcdefghij")) == {0: "litigation 12", 1: "litigation 12"}, (
        "none of them, not some"
    )
    assert await store.holds.add(list("abc"), TAX, replace=True) == 3
    assert await grounds(store, list("abcd")) == {0: "tax audit", 1: "tax audit", 2: "tax audit"}


@pytest.mark.parametrize(("stands", "other"), [(LITIGATION, ENDING), (ENDING, LITIGATION)])
async def test_a_hold_of_another_end_is_another_whatever_its_ground(store: Store, stands: Term, other: Term) -> None:
    await store.holds.add(["a"], stands, replace=False)
    assert await store.holds.add(["a"], other, replace=False) == Overlaps(1, {0: stands})
    assert await store.holds.add(["a"], other, replace=True) == 1
    assert [hold.term for hold in await store.holds.all()] == [other]


async def test_a_hold_that_has_ended_stands_in_no_other_ones_way_and_cannot_be_released(store: Store) -> None:
    await store.holds.add(["a", "b"], Term("for now", time.time() + 0.1), replace=False)
    await asyncio.sleep(0.15)
    assert await store.holds.add(["a"], LITIGATION, replace=False) == 1
    await store.holds.add(["c"], Term("for now", time.time() + 0.1), replace=False)
    await asyncio.sleep(0.15)
    assert await store.holds.remove(["a", "c"]) == [1]
    assert [hold.customer_id for hold in await store.holds.all()] == ["a"]


async def test_an_id_that_is_released_before_its_hold_ends_rests_no_longer(store: Store) -> None:
    await store.holds.add(["a"], ENDING, replace=False)
    assert await store.holds.remove(["a"]) == []
    assert await all_keys(store.redis, "expunge:hold*") == [keys.holds_version(TARGET)]


async def test_whoever_writes_outcomes_hears_the_version_that_they_looked_up_until_there_is_a_new_hold(
    store: Store,
) -> None:
    claim = await claimed(store.shards, (await submit(store.batches, ids(3))).batch_id)
    heard = []
    for customer_id in ("a", "b"):
        await store.holds.add([customer_id], LITIGATION, replace=False)
        looked_up = (await store.holds.lookup([])).version
        recorded = await store.shards.record(claim, [], time.time())
        assert recorded.holds == looked_up
        heard.append(looked_up)
    assert heard[0] != heard[1]


async def test_releasing_somebody_who_is_not_on_hold_releases_nobody(store: Store) -> None:
    await store.holds.add(["a", "b"], LITIGATION, replace=False)
    assert await store.holds.remove(["a", "x", "b", "y"]) == [1, 3]
    assert await grounds(store, ["a", "b"]) == {0: "litigation 12", 1: "litigation 12"}
    assert await store.holds.remove(["a", "b"]) == []
    assert await grounds(store, ["a", "b"]) == {}


async def test_a_hold_ends_by_itself_and_its_id_rests_no_longer(store: Store) -> None:
    await store.holds.add(["a"], Term("for now", time.time() + 1.5), replace=False)
    await store.holds.add(["b"], Term("for now", time.time() + 1.5), replace=False)
    await store.holds.add(["b"], Term("for good"), replace=True)
    assert await grounds(store, ["a", "b"]) == {0: "for now", 1: "for good"}
    await asyncio.sleep(1.55)
    assert await grounds(store, ["a", "b"]) == {1: "for good"}
    assert [hold.customer_id for hold in await store.holds.all()] == ["b"]
    assert await store.holds.remove(["b"]) == []
    assert await all_keys(store.redis, "expunge:hold*") == [keys.holds_version(TARGET)]


@pytest.mark.parametrize("other", [{"merchant_id": "m2"}, {"environment": Environment.PRODUCTION}])
async def test_a_hold_is_of_one_merchant_and_environment(
    store: Store, redis_url: str, other: dict[str, object]
) -> None:
    await store.holds.add(["a"], LITIGATION, replace=False)
    async with open_store(make_settings(redis_url, **other)) as elsewhere:
        assert await grounds(elsewhere, ["a"]) == {}


async def test_a_hold_stands_also_for_those_who_have_another_digest_key(store: Store, redis_url: str) -> None:
    """It must not depend on two machines having the same secret: one that is overlooked deletes somebody."""
    await store.holds.add(["a"], LITIGATION, replace=False)
    async with open_store(make_settings(redis_url, digest_key="another key")) as elsewhere:
        assert await grounds(elsewhere, ["a"]) == {0: "litigation 12"}


async def test_each_may_be_on_hold_by_a_term_of_its_own_and_all_are_placed_or_none(store: Store) -> None:
    await store.holds.add(["b"], ENDING, replace=False)
    other = [LITIGATION, TAX, ENDING]
    assert await store.holds.add(["a", "b", "c"], other, replace=False) == Overlaps(1, {1: ENDING})
    assert await grounds(store, ["a", "c"]) == {}
    assert await store.holds.add(["a", "b", "c"], other, replace=True) == 3
    assert {hold.customer_id: hold.term for hold in await store.holds.all()} == {"a": LITIGATION, "b": TAX, "c": ENDING}
    assert await store.holds.add(["c", "b"], [ENDING, TAX], replace=False) == 0


async def test_whom_a_hold_comes_too_late_for_is_told_and_held_all_the_same(store: Store) -> None:
    batch_id = (await submit(store.batches, ["c0", "c1"])).batch_id
    await finish(store.shards, batch_id, 1)
    customers = listed(["x", "c1", "c0"], IdRule.of())
    assert await place(store.holds, customers, LITIGATION, replace=False) == 3
    gone = await deleted_earlier(store.ledger, customers, time.time())
    assert [(each.place, each.customer_id, each.deletion.batch_id) for each in gone] == [
        ("the 2. ID", "c1", batch_id),
        ("the 3. ID", "c0", batch_id),
    ]
    assert "2 of them were deleted before, which no hold undoes: the 2. ID (batch" in too_late(gone)


# --- at submission ---


@pytest.mark.parametrize("shard_size", [2, 6])
async def test_at_submission_who_is_on_hold_is_skipped_with_the_ground(
    store: Store, tmp_path: Path, shard_size: int
) -> None:
    await store.holds.add(["c1", "c4"], LITIGATION, replace=False)
    path = tmp_path / "customers.csv"
    path.write_text("customer_id\nc0\nc1\nbad id\nc1\nc2\nc4\n")
    with CsvFile.open(path, rule=IdRule.of()) as file:
        description = describe(file.inspect(), Rules(TARGET, shard_size, NO_APPROVAL))
        accepted = await accept(store.batches, store.holds, file, description)
    found = [(line.result.reason.text, line.result.note) if line.result else None
             for line in await lines(store.batches, accepted.batch_id)]  # fmt: skip
    held = ("on_hold", "litigation 12")
    assert found == [None, held, ("invalid_id", None), ("duplicate", None), None, held]


async def test_a_batch_of_customers_on_hold_alone_completes_at_once(store: Store, tmp_path: Path) -> None:
    await store.holds.add(["c0"], LITIGATION, replace=False)
    path = tmp_path / "customers.csv"
    path.write_text("customer_id\nc0\n")
    with CsvFile.open(path, rule=IdRule.of()) as file:
        accepted = await accept(
            store.batches, store.holds, file, describe(file.inspect(), Rules(TARGET, 2, NO_APPROVAL))
        )
    batch = await store.batches.get(accepted.batch_id)
    assert batch is not None
    assert (batch.state.value, batch.tally.all_gone) == ("completed", False)


# --- at sending ---


async def test_who_comes_on_hold_after_submission_is_not_sent(worker: Open, upstream: SimulatorThread) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(20), 20)).batch_id
    await ours.store.holds.add(ids(20)[5:9], LITIGATION, replace=False)
    await delete_shard(ours.tools, batch_id, 0)
    assert sorted(entry.id for entry in upstream.log) == ids(20)[:5] + ids(20)[9:]
    found = await outcomes(ours.store.batches, batch_id)
    assert [customer_id for customer_id in found if found[customer_id] == "on_hold"] == ids(20)[5:9]
    assert set((await notes(ours.store, batch_id)).values()) == {None, "litigation 12"}


async def test_a_customer_on_hold_reads_so_also_if_an_earlier_batch_deleted_them(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker()
    await delete_shard(ours.tools, (await submit(ours.store.batches, ids(2), 2)).batch_id, 0)
    await ours.store.holds.add(["c000"], LITIGATION, replace=False)
    batch_id = (await submit(ours.store.batches, ids(2), 2)).batch_id
    await delete_shard(ours.tools, batch_id, 0)
    assert await outcomes(ours.store.batches, batch_id) == {"c000": "on_hold", "c001": "deleted_earlier"}
    assert len(upstream.log) == 2


async def test_from_when_place_returns_nobody_on_hold_is_sent_while_the_others_go_on(
    worker: Open, upstream: SimulatorThread
) -> None:
    """A hold that is placed while the shard is in hand."""
    ours = await worker(rate_limit=Rate.parse("100/s"))
    batch_id = (await submit(ours.store.batches, ids(400), 400)).batch_id
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until_sent(upstream, 10)
    held = ids(400)[len(upstream.log) : 200]
    assert await place(ours.store.holds, listed(held, IdRule.of()), LITIGATION, replace=False) == len(held)
    placed = time.time()
    await work
    late = [entry.id for entry in upstream.log if entry.t > placed]
    assert len(late) >= 20, "the others were to go on"
    assert set(late).isdisjoint(held)
    found = await outcomes(ours.store.batches, batch_id)
    assert {found[customer_id] for customer_id in ids(400)} == {"confirmed", "on_hold"}
    assert {entry.id for entry in upstream.log} == {each for each in found if found[each] == "confirmed"}


async def test_who_waits_for_a_turn_to_be_sent_when_the_hold_comes_is_not_sent(
    worker: Open, upstream: SimulatorThread
) -> None:
    """However long that turn takes to come."""
    ours = await worker(rate_limit=Rate.parse("4/s"))
    batch_id = (await submit(ours.store.batches, ids(12), 12)).batch_id
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until_sent(upstream, 1)
    await place(ours.store.holds, listed(ids(12), IdRule.of()), LITIGATION, replace=False)
    placed = time.time()
    await work
    assert not [entry for entry in upstream.log if entry.t > placed]
    assert len(upstream.log) < 8


async def test_a_record_that_comes_on_hold_between_its_attempts_is_not_tried_again(
    worker: Open, upstream: SimulatorThread
) -> None:
    """What an attempt may have done is still said: only a record that was surely not deleted is ``skipped``."""
    upstream.use(Scenario(rules=[Rule(fault="server_error", ids="c000"), Rule(fault="reset_before", ids="c001")]))
    ours = await worker()
    slow = RetryPolicy(max_attempts=9, first=60.0)
    batch_id = (await submit(ours.store.batches, ids(3), 3)).batch_id
    work = asyncio.create_task(delete_shard(replace(ours.tools, policy=replace(slow, first=1.0)), batch_id, 0))
    await until_sent(upstream, 3)
    await place(ours.store.holds, listed(ids(3), IdRule.of()), LITIGATION, replace=False)
    seen = len(upstream.log)
    await work
    assert len(upstream.log) == seen
    assert await outcomes(ours.store.batches, batch_id) == {
        "c000": "server_error",
        "c001": "no_answer",
        "c002": "confirmed",
    }
    assert (await notes(ours.store, batch_id))["c001"] == "not sent again, since it is on hold: litigation 12"


async def test_a_record_that_a_dead_worker_may_have_sent_is_not_called_skipped(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(2), 2)).batch_id
    await claimed(ours.store.shards, batch_id)
    await expire_lease(ours.store.redis, batch_id)
    await ours.store.holds.add(["c000"], LITIGATION, replace=False)
    await delete_shard(ours.tools, batch_id, 0)
    assert (await outcomes(ours.store.batches, batch_id))["c000"] == "no_answer"
    assert [entry.id for entry in upstream.log] == ["c001"]


class _Deaf(Shards):
    """What it says is heard late, from some moment on."""

    def __init__(self, shards: Shards) -> None:
        vars(self).update(vars(shards))
        self.hears = asyncio.Event()
        self.hears.set()

    async def record(self, *args: object, **others: object) -> Recorded:
        recorded = await super().record(*args, **others)  # type: ignore[arg-type] # whatever it takes
        await self.hears.wait()
        return recorded


async def test_nothing_is_sent_by_a_worker_that_has_heard_nothing_for_a_while(
    worker: Open, upstream: SimulatorThread
) -> None:
    """However slow it is to notice a hold or a pause: its permits alone do not let it send."""
    ours = await worker(rate_limit=Rate.parse("40/s"))
    deaf = _Deaf(ours.store.shards)
    batch_id = (await submit(ours.store.batches, ids(120), 120)).batch_id
    work = asyncio.create_task(delete_shard(replace(ours.tools, shards=deaf), batch_id, 0))
    await until_sent(upstream, 40)
    deaf.hears.clear()
    await asyncio.sleep(NOTICED)
    seen = len(upstream.log)
    await asyncio.sleep(1.0)
    assert len(upstream.log) - seen <= 8, "no more than were in flight"
    deaf.hears.set()
    await work
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"confirmed"}
    assert len(upstream.log) == 120


async def test_nothing_is_sent_by_an_answer_that_took_so_long_that_somebody_may_be_on_hold_meanwhile(
    worker: Open, upstream: SimulatorThread
) -> None:
    ours = await worker(rate_limit=Rate.parse("40/s"))
    deaf = _Deaf(ours.store.shards)
    batch_id = (await submit(ours.store.batches, ids(120), 120)).batch_id
    work = asyncio.create_task(delete_shard(replace(ours.tools, shards=deaf), batch_id, 0))
    await until_sent(upstream, 10)
    deaf.hears.clear()
    await asyncio.sleep(FLUSH_EVERY)  # the next answer is on its way, and says that nobody is on hold
    await place(ours.store.holds, listed(ids(120), IdRule.of()), LITIGATION, replace=False)
    await asyncio.sleep(FLUSH_EVERY)
    seen = len(upstream.log)
    deaf.hears.set()
    deaf.hears.clear()  # that one answer, and no other
    await asyncio.sleep(2 * FLUSH_EVERY)
    deaf.hears.set()
    await work
    assert len(upstream.log) == seen < 120


async def test_a_hold_that_is_placed_while_a_shard_begins_is_noticed_however_long_that_takes(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await worker(rate_limit=Rate.parse("40/s"))
    batch_id = (await submit(ours.store.batches, ids(20), 20)).batch_id
    lookup = ours.tools.holds.lookup

    async def slow(customer_ids: Sequence[str]) -> Held:
        monkeypatch.undo()
        found = await lookup(customer_ids)
        await place(ours.store.holds, listed(ids(20), IdRule.of()), LITIGATION, replace=False)
        return found

    monkeypatch.setattr(ours.tools.holds, "lookup", slow)
    await delete_shard(ours.tools, batch_id, 0)
    assert upstream.log == []
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"on_hold"}


async def test_holds_that_cannot_be_asked_for_let_nothing_be_sent(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await worker()
    batch_id = (await submit(ours.store.batches, ids(3), 3)).batch_id

    async def away(_: object) -> None:
        raise RedisError

    monkeypatch.setattr(ours.tools.holds, "lookup", away)
    with pytest.raises(RedisError):
        await delete_shard(ours.tools, batch_id, 0)
    assert upstream.log == []
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {None}


async def test_a_new_hold_that_cannot_be_looked_up_lets_nothing_more_be_sent(
    worker: Open, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await worker(rate_limit=Rate.parse("40/s"))
    batch_id = (await submit(ours.store.batches, ids(120), 120)).batch_id
    work = asyncio.create_task(delete_shard(ours.tools, batch_id, 0))
    await until_sent(upstream, 10)

    async def away(_: object) -> None:
        raise RedisError

    monkeypatch.setattr(ours.tools.holds, "lookup", away)
    await place(ours.store.holds, listed(ids(120), IdRule.of()), LITIGATION, replace=False)
    placed = time.time()
    await asyncio.sleep(1.0)
    monkeypatch.undo()
    await work
    assert not [entry for entry in upstream.log if entry.t > placed]
    assert set((await outcomes(ours.store.batches, batch_id)).values()) == {"confirmed", "on_hold"}


# --- after release ---


async def test_releasing_finds_the_records_of_ended_batches_that_were_held_back(worker: Open) -> None:
    ours = await worker()
    await ours.store.holds.add(["c000", "c002"], LITIGATION, replace=False)
    ended = (await submit(ours.store.batches, ids(3), 3)).batch_id
    await delete_shard(ours.tools, ended, 0)
    running = (await submit(ours.store.batches, ids(4), 4)).batch_id
    claim = await claimed(ours.store.shards, running)
    await ours.store.shards.record(claim, written(claim, {0: Result(Reason.ON_HOLD)}), time.time())
    found = await held_back(ours.store.batches, TARGET, ["c000", "c001"])
    assert found == [HeldBack(ended, 1, "c000")]
    assert await held_back(ours.store.batches, replace(TARGET, merchant="m2"), ["c000"]) == []


async def held_back_once(ours: Worker) -> str:
    """An ended batch that held two customers back; they are on hold still."""
    await ours.store.holds.add(["c000", "c002"], LITIGATION, replace=False)
    batch_id = (await submit(ours.store.batches, ids(3), 3)).batch_id
    await delete_shard(ours.tools, batch_id, 0)
    return batch_id


async def resubmitted(
    store: Store, *customer_ids: str, rules: Rules = RULES, name: str | None = "ada"
) -> tuple[Release, Taken]:
    """What ``hold remove --resubmit`` does of them."""
    customers = listed(customer_ids, IdRule.of())
    ending = await releasing(store.holds, store.batches, TARGET, customers, resubmit=True)
    parts = store.batches, store.holds, store.feeder
    return ending, await release_and_resubmit(*parts, ending, rules, name, lambda made: check_confirmation(made, None))


async def test_what_was_held_back_is_resubmitted_as_a_batch_that_says_of_what(worker: Open) -> None:
    ours = await worker()
    ended = await held_back_once(ours)
    _, taken = await resubmitted(ours.store, "c002", "c000")
    batch = await existing(ours.store.batches, taken.batch.id)
    assert (batch.description.source, batch.description.submitted_by) == (f"held back in {ended}", "ada")
    assert await outcomes(ours.store.batches, batch.id) == {"c000": None, "c002": None}
    assert await ours.store.holds.all() == []


async def test_a_resubmission_that_died_behind_the_release_goes_on_when_it_is_asked_again(
    worker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await worker()
    await held_back_once(ours)

    async def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(ours.store.batches), "known", dies)
    with pytest.raises(KeyboardInterrupt):
        await resubmitted(ours.store, "c000", "c002")
    monkeypatch.undo()
    assert await ours.store.holds.all() == [], "it was to die behind the release"
    assert len(await ours.store.batches.recent(None)) == 1, "and before the batch"
    _, taken = await resubmitted(ours.store, "c000", "c002")
    assert await outcomes(ours.store.batches, taken.batch.id) == {"c000": None, "c002": None}
    _, again = await resubmitted(ours.store, "c002", "c000")
    assert (again.batch.id, again.known_by) == (taken.batch.id, "reference")
    assert len(await ours.store.batches.recent(None)) == 2


async def test_without_a_place_for_the_file_nobody_is_released(worker: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = await worker()
    await held_back_once(ours)
    monkeypatch.setattr("tempfile.tempdir", "/dev/full")
    with pytest.raises(StoreError, match="nobody was released"):
        await resubmitted(ours.store, "c000", "c002")
    assert len(await ours.store.holds.all()) == 2
    monkeypatch.undo()
    _, taken = await resubmitted(ours.store, "c000", "c002")
    assert await outcomes(ours.store.batches, taken.batch.id) == {"c000": None, "c002": None}


async def test_two_at_once_resubmit_the_same_batch(worker: Open) -> None:
    ours = await worker()
    await held_back_once(ours)
    customers = listed(["c000", "c002"], IdRule.of())
    ending = await releasing(ours.store.holds, ours.store.batches, TARGET, customers, resubmit=True)
    await ours.store.holds.remove(["c000", "c002"])
    parts = ours.store.batches, ours.store.holds, ours.store.feeder
    nobody = ending._replace(ids=[], places=[])
    both = [release_and_resubmit(*parts, nobody, RULES, None, lambda _: None) for _ in range(2)]
    first, second = await asyncio.gather(*both)
    assert first.batch.id == second.batch.id
    assert {first.known_by, second.known_by} == {None, "reference"}


async def test_what_is_held_back_anew_is_another_resubmission(worker: Open) -> None:
    ours = await worker()
    await held_back_once(ours)
    _, first = await resubmitted(ours.store, "c000", "c002")
    await ours.store.holds.add(["c000"], TAX, replace=False)
    await delete_shard(ours.tools, first.batch.id, 0)
    _, second = await resubmitted(ours.store, "c000")
    assert second.batch.id != first.batch.id
    assert await outcomes(ours.store.batches, second.batch.id) == {"c000": None}


@pytest.mark.parametrize(
    "rules",
    [
        replace(RULES, max_rows=1),
        replace(RULES, approval=ApprovalRule(above=1)),
        replace(RULES, target=replace(TARGET, environment=Environment.PRODUCTION)),
    ],
    ids=["size", "approval by nobody with a name", "no confirmation"],
)
async def test_a_guard_that_refuses_a_resubmission_lets_nobody_be_released(worker: Open, rules: Rules) -> None:
    ours = await worker()
    await held_back_once(ours)
    with pytest.raises(RefusedError):
        await resubmitted(ours.store, "c000", "c002", rules=rules, name=None)
    assert len(await ours.store.holds.all()) == 2


async def test_somebody_who_was_neither_on_hold_nor_held_back_is_a_mistake_in_a_resubmission_too(worker: Open) -> None:
    ours = await worker()
    await held_back_once(ours)
    with pytest.raises(UsageError, match=r"not on hold: the 2\. ID; nobody was released"):
        await resubmitted(ours.store, "c000", "c001")
    assert len(await ours.store.holds.all()) == 2
