"""What the store knows of a file before it is submitted."""

import time
from dataclasses import replace

from tests.conftest import DELETED, TARGET, claimed, make_settings, submit, written
from worker.domain.batches import Environment, Target
from worker.domain.holds import Term
from worker.pipeline.plan import Known, look_up
from worker.wiring import Store, open_store

IDS = [f"c{number}" for number in range(2_500)]


async def known(store: Store, ids: list[str]) -> Known:
    return await look_up(store.batches, store.holds, store.ledger, iter(ids), TARGET, time.time())


async def test_nothing_is_known_of_a_first_file(store: Store) -> None:
    assert await known(store, IDS) == Known(0, 0, 0, 0)


async def test_who_is_on_hold_or_deleted_earlier_is_counted_once_wherever_in_the_file(store: Store) -> None:
    gone = [IDS[1], IDS[999], IDS[1000], IDS[2499]]
    batch_id = (await submit(store.batches, gone, 4)).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(claim, written(claim, dict.fromkeys(range(4), DELETED)), time.time())
    await store.holds.add([IDS[0], IDS[1000], IDS[2000], "somebody else"], Term("litigation"), replace=False)
    assert await known(store, IDS) == Known(on_hold=3, deleted_earlier=3, batches=1, largest=4)


async def test_a_file_is_compared_with_the_last_ten_batches_of_its_merchant_and_environment(store: Store) -> None:
    """Whichever the upstream."""
    await submit(store.batches, IDS[:90], 90)
    for count in (5, 40, *range(1, 9)):
        await submit(store.batches, IDS[:count], 40, target=replace(TARGET, upstream=f"upstream {count}"))
    for other in (Target(Environment.SANDBOX, "m2"), Target(Environment.PRODUCTION, TARGET.merchant)):
        await submit(store.batches, IDS[:70], 70, target=other)
    assert await known(store, []) == Known(0, 0, 10, 40)


async def test_the_ledger_and_holds_of_another_merchant_do_not_count(store: Store, redis_url: str) -> None:
    async with open_store(make_settings(redis_url, merchant_id="m2")) as elsewhere:
        await elsewhere.holds.add(IDS[:3], Term("litigation"), replace=False)
    assert await known(store, IDS[:10]) == Known(0, 0, 0, 0)
