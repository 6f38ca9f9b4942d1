"""Shards partition a batch: every row is in exactly one of them, and in order (SPEC 4, promise 1)."""

from itertools import chain

from hypothesis import example, given
from hypothesis import strategies as st

from worker.domain.batches import Description, Environment, Target


def description(rows: int, shard_size: int) -> Description:
    return Description(
        target=Target(Environment.SANDBOX, "m1"),
        source="customers.csv",
        sha256="0" * 64,
        rows=rows,
        shard_size=shard_size,
        id_column="customer_id",
        columns=("customer_id",),
    )


@given(rows=st.integers(1, 2_000), shard_size=st.integers(1, 500))
@example(rows=1, shard_size=1)
@example(rows=500, shard_size=500)
@example(rows=501, shard_size=500)
@example(rows=499, shard_size=500)
def test_every_row_is_in_exactly_one_shard_in_the_order_of_the_input(rows: int, shard_size: int) -> None:
    batch = description(rows, shard_size)
    shards = [batch.rows_of(shard) for shard in range(batch.shards)]
    assert list(chain.from_iterable(shards)) == list(range(1, rows + 1))
    assert all(len(shard) == shard_size for shard in shards[:-1])
    assert 1 <= len(shards[-1]) <= shard_size


@given(rows=st.integers(1, 10**9), shard_size=st.integers(1, 500), data=st.data())
def test_shards_of_any_batch_meet_without_gap_or_overlap(rows: int, shard_size: int, data: st.DataObject) -> None:
    batch = description(rows, shard_size)
    assert batch.rows_of(0).start == 1
    assert batch.rows_of(batch.shards - 1).stop == rows + 1
    shard = data.draw(st.integers(0, batch.shards - 1))
    assert len(batch.rows_of(shard)) > 0
    if shard > 0:
        assert batch.rows_of(shard).start == batch.rows_of(shard - 1).stop


@given(rows=st.integers(1, 10**9), shard_size=st.integers(1, 500), data=st.data())
def test_a_rows_shard_and_offset_follow_from_its_number(rows: int, shard_size: int, data: st.DataObject) -> None:
    """As the store looks it up: outcomes are kept by shard and by offset in it."""
    row = data.draw(st.integers(1, rows))
    shard, offset = divmod(row - 1, shard_size)
    assert description(rows, shard_size).rows_of(shard)[offset] == row
