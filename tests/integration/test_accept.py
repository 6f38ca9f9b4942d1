"""A file becomes a batch: each of its rows is a record, in its order, or nothing of it is stored."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.conftest import TARGET, all_keys, existing, lines, outcomes
from worker.domain.batches import BatchState, Description, Environment, Target
from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError, RefusedError
from worker.domain.outcomes import Outcome, Reason
from worker.domain.people import NO_APPROVAL
from worker.domain.rules import Rules
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept, describe
from worker.store.loading import Accepted
from worker.store.packing import unpack_kept
from worker.wiring import Store

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(content: str) -> Path:
        path = tmp_path / "customers.csv"
        path.write_text(content)
        return path

    return to


def opened(path: Path) -> CsvFile:
    return CsvFile.open(path, rule=IdRule.of())


def described(file: CsvFile, shard_size: int = 3, reference: str | None = None, target: Target = TARGET) -> Description:
    return describe(file.inspect(), Rules(target, shard_size, NO_APPROVAL), reference=reference)


async def submitted(
    store: Store,
    path: Path,
    shard_size: int = 3,
    reference: str | None = None,
    target: Target = TARGET,
    *,
    again: bool = False,
) -> Accepted:
    with opened(path) as file:
        return await accept(
            store.batches, store.holds, file, described(file, shard_size, reference, target), again=again
        )


def file_of(count: int, prefix: str = "c") -> str:
    return "customer_id\n" + "".join(f"{prefix}{number}\n" for number in range(count))


async def test_every_row_is_a_record_and_what_is_known_of_it_is_written_at_once(store: Store, write: Write) -> None:
    """Promise 1, and SPEC 8: invalid IDs and duplicates are skipped, the latter with their first row."""
    path = write("customer_id,name\nc1,a\nc/2,b\nc3,c\nc1,d\n,e\nc1,f\nc4,g\n")
    accepted = await submitted(store, path)
    batch = await existing(store.batches, accepted.batch_id)
    assert batch.state is BatchState.RUNNING
    assert (batch.description.rows, batch.description.source) == (7, "customers.csv")
    assert batch.tally.pending == 3
    assert batch.tally.reasons == {Reason.INVALID_ID: 2, Reason.DUPLICATE: 2}
    found = [
        (line.row, line.customer_id, line.result.reason if line.result else None, line.result and line.result.first_row)
        for line in await lines(store.batches, accepted.batch_id)
    ]
    assert found == [
        (1, "c1", None, None),
        (2, "c/2", Reason.INVALID_ID, None),
        (3, "c3", None, None),
        (4, "c1", Reason.DUPLICATE, 1),
        (5, "", Reason.INVALID_ID, None),
        (6, "c1", Reason.DUPLICATE, 1),
        (7, "c4", None, None),
    ]


@pytest.mark.parametrize(
    ("rows", "most", "shard_size"),
    [(1, 1, 1), (1, 500, 10), (7, 3, 3), (10, 3, 3), (100, 250, 13), (250, 1, 1), (251, 250, 32), (2001, 250, 250)],
)
async def test_shards_hold_the_rows_in_their_order_and_a_small_batch_has_several(
    store: Store, write: Write, rows: int, most: int, shard_size: int
) -> None:
    accepted = await submitted(store, write(file_of(rows)), most)
    batch = await existing(store.batches, accepted.batch_id)
    assert (batch.description.rows, batch.description.shard_size) == (rows, shard_size)
    assert [line.customer_id for line in await lines(store.batches, accepted.batch_id)] == [
        f"c{number}" for number in range(rows)
    ]


async def test_a_file_with_nothing_to_send_is_completed_when_it_is_accepted(store: Store, write: Write) -> None:
    accepted = await submitted(store, write("customer_id\nc/1\nc/2\n"))
    batch = await existing(store.batches, accepted.batch_id)
    assert (batch.state, batch.tally[Outcome.SKIPPED]) == (BatchState.COMPLETED, 2)


@pytest.mark.parametrize(
    "becomes",
    [
        file_of(9) + "c9\n",
        file_of(8),
        file_of(9).replace("c8", "x8"),
        file_of(9).replace("c8", '"c8'),
        "",
    ],
)
async def test_a_file_that_changed_since_it_was_checked_leaves_nothing(
    store: Store, write: Write, becomes: str
) -> None:
    """Nobody looked at what would be deleted; what was stored of it up to there is removed."""
    with opened(write(file_of(9))) as file:
        description = described(file, 2)
        write(becomes)
        with pytest.raises(InputError):
            await accept(store.batches, store.holds, file, description)
    assert await all_keys(store.redis) == []


async def test_a_submission_that_is_broken_off_leaves_nothing(store: Store, write: Write) -> None:
    with opened(write(file_of(20_000))) as file:
        work = asyncio.create_task(accept(store.batches, store.holds, file, described(file, 10)))
        async with asyncio.timeout(10):
            while not await all_keys(store.redis):  # noqa: ASYNC110 - nothing tells us when
                await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert await all_keys(store.redis) == []


async def test_the_same_file_names_the_batch_that_it_is_and_stores_nothing(store: Store, write: Write) -> None:
    path = write(file_of(9))
    first = await submitted(store, path)
    before = await all_keys(store.redis)
    assert await submitted(store, path) == Accepted(first.batch_id, "file")
    assert await submitted(store, path, shard_size=5) == Accepted(first.batch_id, "file")
    assert await all_keys(store.redis) == before


async def test_the_same_file_is_taken_again_when_asked_for(store: Store, write: Write) -> None:
    path = write(file_of(9))
    first = await submitted(store, path)
    second = await submitted(store, path, again=True)
    assert second.known_by is None
    assert second.batch_id != first.batch_id
    assert await submitted(store, path) == Accepted(second.batch_id, "file")


async def test_the_same_file_for_another_target_is_another_batch(store: Store, write: Write) -> None:
    path = write(file_of(9))
    first = await submitted(store, path, reference="R1")
    for target in (Target(Environment.SANDBOX, "m2"), Target(Environment.PRODUCTION, "m1")):
        other = await submitted(store, path, reference="R1", target=target)
        assert other.known_by is None
        assert other.batch_id != first.batch_id
        assert (await existing(store.batches, other.batch_id)).description.target == target


@pytest.mark.parametrize("again", [False, True])
async def test_a_reference_with_the_same_content_is_the_batch_that_exists(
    store: Store, write: Write, again: bool
) -> None:
    path = write(file_of(9))
    first = await submitted(store, path, reference="R1")
    second = await submitted(store, path, reference="R1", again=again)
    assert second.batch_id == first.batch_id
    assert second.known_by is not None
    assert list(await store.batches.active(TARGET)) == [first.batch_id]


@pytest.mark.parametrize("again", [False, True])
async def test_a_reference_with_other_content_is_refused_and_stores_nothing(
    store: Store, write: Write, again: bool
) -> None:
    first = await submitted(store, write(file_of(9)), reference="R1")
    before = await all_keys(store.redis)
    with pytest.raises(RefusedError, match=f"'R1' names batch {first.batch_id}"):
        await submitted(store, write(file_of(8)), reference="R1", again=again)
    assert await all_keys(store.redis) == before


async def test_a_reference_with_other_content_is_refused_also_if_that_was_accepted_before(
    store: Store, write: Write
) -> None:
    await submitted(store, write(file_of(9)), reference="R1")
    await submitted(store, write(file_of(8)), reference="R2")
    with pytest.raises(RefusedError, match="'R1' names batch"):
        await submitted(store, write(file_of(8)), reference="R1")


async def test_a_reference_names_its_own_batch_also_if_the_file_became_another_one_since(
    store: Store, write: Write
) -> None:
    path = write(file_of(9))
    first = await submitted(store, path, reference="R1")
    second = await submitted(store, path, reference="R2", again=True)
    assert (await submitted(store, path, reference="R1")).batch_id == first.batch_id
    assert (await submitted(store, path, reference="R2")).batch_id == second.batch_id


async def test_of_two_submissions_under_one_reference_at_once_one_becomes_a_batch(store: Store, write: Write) -> None:
    path = write(file_of(50))
    accepted = await asyncio.gather(*(submitted(store, path, 5, "R1") for _ in range(5)))
    assert len({one.batch_id for one in accepted}) == 1
    assert [one.known_by for one in accepted].count(None) == 1
    assert set((await outcomes(store.batches, accepted[0].batch_id)).values()) == {None}


async def test_kept_columns_stand_in_the_order_of_the_file_and_others_are_not_stored(
    store: Store, write: Write
) -> None:
    """SPEC 9: the store keeps the ID column and those that are named, and no personal column unasked."""
    path = write("case,customer_id,name,note\nA1,c1,Ada,\nA2,c/2,Bob,x\nA3,c3,Cy,y\nA4,c4,Di,z\n")
    with opened(path) as file:
        description = replace(described(file), kept=("note", "case"))
        accepted = await accept(store.batches, store.holds, file, description)

    batch = await existing(store.batches, accepted.batch_id)
    assert batch.description.stored_columns == ("case", "customer_id", "note")
    assert [(line.customer_id, list(line.cells)) for line in await lines(store.batches, batch.id)] == [
        ("c1", ["A1", "c1", ""]),
        ("c/2", ["A2", "c/2", "x"]),
        ("c3", ["A3", "c3", "y"]),
        ("c4", ["A4", "c4", "z"]),
    ]
    for name in await all_keys(store.redis, f"expunge:{{{batch.id}}}:kept"):
        assert await store.redis.ttl(name) == -1, "it counts: it expires with the batch only"
        packed = cast("list[bytes]", await store.redis.hvals(name))
        assert "Ada" not in str([unpack_kept(shard) for shard in packed])


async def test_kept_cells_of_a_submission_that_fails_are_gone(store: Store, write: Write) -> None:
    path = write("customer_id,case\n" + "".join(f"c{number},A\n" for number in range(10)))
    with opened(path) as file:
        description = replace(described(file), kept=("case",))
        path.write_text(path.read_text().replace("c9", "x9"))
        with pytest.raises(InputError, match="changed"):
            await accept(store.batches, store.holds, file, description)
    assert await all_keys(store.redis, "expunge:{*") == []
