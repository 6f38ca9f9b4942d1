"""Holds over HTTP: as ``expunge hold`` has them."""

from typing import Any

import httpx
import pytest

from tests.conftest import outcomes
from tests.web.conftest import Client, problem
from worker.wiring import Store

GROUND = {"ground": "litigation 12/2026"}


async def hold(client: Client, *ids: str, **others: Any) -> httpx.Response:
    return await client.post("/v1/holds", json={"customer_ids": list(ids)} | GROUND | others)


async def test_who_is_held_is_listed_and_not_sent(anna: Client, vera: Client, web_store: Store) -> None:
    assert (await hold(anna, "c1", " c2", "c1", until="2099-06-30")).json() == {
        "on_hold": 2,
        "changed": 2,
        "deleted_earlier": [],
    }
    listed = (await vera.get("/v1/holds")).json()
    assert listed["total"] == 2
    assert listed["holds"][0] | {"since": ""} == {
        "customer_id": "c1", "ground": "litigation 12/2026", "since": "", "until": "2099-06-30T23:59:59Z",
    }  # fmt: skip
    assert (await vera.get("/v1/holds", params={"offset": 1, "limit": 1})).json()["holds"] == listed["holds"][1:]
    headers = {"Content-Type": "text/csv"}
    batch = (await anna.post("/v1/batches", content=b"customer_id\nc1\nc3\n", headers=headers)).json()
    assert await outcomes(web_store.batches, batch["batch"]) == {"c1": "on_hold", "c3": None}


async def test_another_hold_stands_unless_it_is_replaced(anna: Client) -> None:
    await hold(anna, "c1")
    refused = problem(await hold(anna, "c2", "c1", ground="tax audit"), "hold")
    assert "the 2. ID is on hold until removed (litigation 12/2026) already" in refused
    assert "add `replace` if" in refused
    assert (await hold(anna, "c1", ground="tax audit", replace=True)).json()["changed"] == 1


async def test_a_release_lists_what_was_held_back(anna: Client, ben: Client) -> None:
    await hold(anna, "c1", "c2")
    headers = {"Content-Type": "text/csv"}
    batch = (await anna.post("/v1/batches", content=b"customer_id\nc1\n", headers=headers)).json()
    problem(await anna.post("/v1/holds/release", json={"customer_ids": ["c1"]}), "role")
    unknown = await ben.post("/v1/holds/release", json={"customer_ids": ["c1", "c9"]})
    assert "not on hold: the 2. ID; nobody was released" in problem(unknown, "request")
    released = (await ben.post("/v1/holds/release", json={"customer_ids": ["c1", "c2"]})).json()
    held_back = [{"batch": batch["batch"], "row": 1, "customer_id": "c1"}]
    assert released == {"released": 2, "held_back": held_back}
    assert (await ben.get("/v1/holds")).json() == {"holds": [], "total": 0}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"customer_ids": ["c1", "no spaces"]} | GROUND, "the 2. ID"),
        ({"customer_ids": []} | GROUND, "customer_ids"),
        ({"customer_ids": ["c1"], "ground": " "}, "ground"),
        ({"customer_ids": ["c1"], "until": "yesterday"} | GROUND, "`until`: 'yesterday'"),
        ({"customer_ids": ["c1"], "grounds": "x"} | GROUND, "grounds"),
    ],
)
async def test_a_wrong_hold_holds_nobody(anna: Client, body: dict[str, Any], says: str) -> None:
    detail = problem(await anna.post("/v1/holds", json=body), "request")
    assert says in detail
    assert "no spaces" not in detail
    assert (await anna.get("/v1/holds")).json()["total"] == 0
