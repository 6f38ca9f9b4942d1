"""A batch that was purged is not there for anybody: not in lists, not on pages, not in answers that were kept."""

import httpx

from tests.conftest import all_keys, finish, submit
from tests.web.conftest import Client, problem
from worker.pipeline.purge import find, purge
from worker.store import keys
from worker.wiring import Store

IDS = ["c1", "c2", "c3"]
CSV = b"customer_id\n" + "\n".join(IDS).encode() + b"\n"
KEYED = {"Content-Type": "text/csv", "Idempotency-Key": "k1"}


async def purged(store: Store, batch_id: str) -> None:
    removable = await find(store.batches, store.purging, batch_id)
    assert removable is not None
    await purge(store.purging, removable, "ada")


async def test_a_purged_batch_is_not_found_and_in_no_list(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, IDS)).batch_id
    stays = (await submit(web_store.batches, IDS)).batch_id
    await finish(web_store.shards, batch_id, 1)
    await purged(web_store, batch_id)
    for path in ("", "/events", "/report", "/manifest"):
        problem(await ada.get(f"/v1/batches/{batch_id}{path}"), "not_found")
    for deed in ("pause", "resume", "cancel", "approve", "retry"):
        problem(await ada.post(f"/v1/batches/{batch_id}/{deed}", json={}), "not_found")
    listed = (await ada.get("/v1/batches")).json()["batches"]
    assert [batch["batch"] for batch in listed] == [stays]
    entries = (await ada.get("/v1/audit", params={"batch": batch_id})).json()["entries"]
    assert [entry["deed"] for entry in entries][-3:] == ["purged", "completed", "submitted"]


async def test_a_request_whose_batch_was_purged_is_a_new_one(ada: Client, web_store: Store) -> None:
    first = await _sent(ada)
    assert (await _sent(ada)).json() == first.json()
    batch_id = first.json()["batch"]
    await finish(web_store.shards, batch_id, 1)
    await purged(web_store, batch_id)
    assert await all_keys(web_store.redis, f"{keys.REQUEST}*") == []
    again = await _sent(ada)
    assert again.status_code == 202
    assert again.json()["batch"] != batch_id


async def _sent(client: Client) -> httpx.Response:
    return await client.post("/v1/batches", content=CSV, headers=KEYED)
