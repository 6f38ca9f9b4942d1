"""Holds over HTTP: as ``expunge hold`` has them."""

from typing import Any

import httpx
import pytest

from tests.conftest import existing, finish, outcomes, submit
from tests.web.conftest import Client, Serve, add_token, client_of, problem
from worker.domain.audit import Deed
from worker.domain.batches import BatchState, Environment
from worker.domain.holds import Term
from worker.domain.people import Role
from worker.wiring import Store

GROUND = {"ground": "litigation 12/2026"}
CSV = {"Content-Type": "text/csv"}
PAGE = {"Accept": "text/html"}
RELEASE = "/v1/holds/release"


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


async def held_back(client: Client, store: Store, *ids: str) -> str:
    """An ended batch of customers who were on hold, and are."""
    assert (await hold(client, *ids)).status_code == 200
    content = "\n".join(["customer_id", *ids])
    made = await client.post("/v1/batches", content=content, headers=CSV, params={"again": True})
    batch: str = made.json()["batch"]
    assert (await existing(store.batches, batch)).state is BatchState.COMPLETED
    return batch


async def test_a_file_is_put_on_hold_by_its_rows_and_released(anna: Client, ben: Client) -> None:
    rows = b"id;ground;until\nc1;tax audit;2099-06-30\nc2;;\n"
    file = {"file": ("held.csv", rows, "text/csv")}
    sent = await anna.post("/v1/holds", files=file, data={"column": "id", "ground": "litigation", "until": ""})
    assert sent.json()["on_hold"] == 2, sent.text
    listed = {each["customer_id"]: each for each in (await anna.get("/v1/holds")).json()["holds"]}
    assert (listed["c1"]["ground"], listed["c1"]["until"]) == ("tax audit", "2099-06-30T23:59:59Z")
    assert (listed["c2"]["ground"], listed["c2"]["until"]) == ("litigation", None)
    unknown = await ben.post(RELEASE, content=b"id\nc9\n", headers=CSV, params={"column": "id", "source": "x.csv"})
    assert "not on hold: row 1 of x.csv" in problem(unknown, "request")
    released = await ben.post(RELEASE, content=b"id\nc2\nc1\n", headers=CSV, params={"column": "id"})
    assert released.json() == {"released": 2, "held_back": []}


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"customer_id,until\nc1,soon\n", "request", "row 1 of upload.csv: until: 'soon'"),
        (b"customer_id,ground\nc1,x\nc1,y\n", "input", "names in row 2 the customer of row 1"),
        (b"customer_id\nno spaces\n", "input", "line 2 contains a space"),
        (b"customer_id\n", "input", "has no rows"),
        (b"id\nc1\n", "input", "customer_id"),
        (b"\xff\xfec\x001\x00", "input", "UTF-16"),
    ],
)
async def test_a_wrong_file_holds_nobody(anna: Client, content: bytes, kind: str, says: str) -> None:
    response = await anna.post("/v1/holds", content=content, headers=CSV, params=GROUND)
    assert says in problem(response, kind)
    assert (await anna.get("/v1/holds")).json()["total"] == 0


async def test_a_hold_needs_a_ground_from_somewhere(anna: Client) -> None:
    for response in (
        await anna.post("/v1/holds", content=b"customer_id\nc1\n", headers=CSV),
        await anna.post("/v1/holds", json={"customer_ids": ["c1"]}),
    ):
        assert "has no ground: name one with `ground`" in problem(response, "request")


@pytest.mark.parametrize("body", [b"{", b"[]", b'"c1"', b"\xff", b"{}"])
async def test_what_is_no_list_of_customers_is_refused(anna: Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem(await anna.post("/v1/holds", content=body, headers=headers), "request")
    problem(await anna.post("/v1/holds", content=body, headers={"Content-Type": "image/png"}), "media_type")


async def test_whom_a_hold_comes_too_late_for_is_told(anna: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1", "c2"])).batch_id
    await finish(web_store.shards, batch, 1)
    (gone,) = (await hold(anna, "c2", "c3")).json()["deleted_earlier"]
    assert (gone["customer_id"], gone["batch"]) == ("c2", batch)
    data = {"customer_ids": "c1\nc4", **GROUND}
    page = await anna.post("/holds", data=data, headers=PAGE)
    assert page.status_code == 200
    assert "For 1 of them it comes too late" in page.text
    assert (await anna.get("/v1/holds")).json()["total"] == 4


async def test_what_was_held_back_is_resubmitted_and_asked_twice_it_is_the_same_batch(
    ada: Client, web_store: Store
) -> None:
    await held_back(ada, web_store, "c1", "c2")
    asked = {"customer_ids": ["c1", "c2"], "resubmit": True}
    made = await ada.post(RELEASE, json=asked)
    assert made.status_code == 202, made.text
    batch = made.json()["batch"]
    assert made.headers["location"] == f"/v1/batches/{batch}"
    assert await outcomes(web_store.batches, batch) == {"c1": None, "c2": None}
    again = await ada.post(RELEASE, content=b"customer_id\nc2\nc1\n", headers=CSV, params={"resubmit": True})
    assert (again.status_code, again.json()["batch"]) == (200, batch)


async def test_a_release_that_was_not_resubmitted_can_be_later(ada: Client, web_store: Store) -> None:
    """As it stands when a process dies between the two."""
    await held_back(ada, web_store, "c1")
    await ada.post(RELEASE, json={"customer_ids": ["c1"]})
    made = await ada.post(RELEASE, json={"customer_ids": ["c1"], "resubmit": True})
    assert await outcomes(web_store.batches, made.json()["batch"]) == {"c1": None}


async def test_to_resubmit_is_for_who_may_release_and_submit(
    ada: Client, ben: Client, anna: Client, web_store: Store
) -> None:
    await held_back(ada, web_store, "c1")
    asked = {"customer_ids": ["c1"], "resubmit": True}
    problem(await anna.post(RELEASE, json=asked), "role")
    assert "submit is for submitter or admin" in problem(await ben.post(RELEASE, json=asked), "role")
    assert "submit is for" in (await ben.post("/holds/resubmit", data={"customer_ids": "c1"}, headers=PAGE)).text
    assert (await ada.get("/v1/holds")).json()["total"] == 1
    noted = [entry async for entry in web_store.audit.entries() if entry.deed is Deed.REFUSED]
    assert [(entry.actor, entry.detail["act"]) for entry in noted].count(("ben", "submit")) == 2


async def test_a_resubmission_is_guarded_as_a_submission_and_refused_it_releases_nobody(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION, approval_in_production=True)
    store: Store = app.state.web.store
    async with client_of(app, await add_token(store.tokens, "ada", Role.ADMIN)) as client:
        await store.holds.add(["c1"], Term("tax"), replace=False)
        sent = await client.post("/v1/batches", content=b"customer_id\nc1\n", headers=CSV, params={"confirm": "1"})
        assert sent.status_code == 202, sent.text
        asked: dict[str, Any] = {"customer_ids": ["c1"], "resubmit": True}
        problem(await client.post(RELEASE, json=asked), "confirmation")
        problem(await client.post(RELEASE, json=asked | {"confirm": "2"}), "confirmation")
        assert (await client.get("/v1/holds")).json()["total"] == 1
        made = await client.post(RELEASE, json=asked | {"confirm": "1"})
        assert (made.status_code, made.json()["state"]) == (202, "awaiting_approval")


async def test_a_key_makes_a_resubmission_safe_to_repeat(ada: Client, web_store: Store) -> None:
    await held_back(ada, web_store, "c1")
    key, asked = {"Idempotency-Key": "k1"}, {"customer_ids": ["c1"], "resubmit": True}
    first = await ada.post(RELEASE, json=asked, headers=key)
    again = await ada.post(RELEASE, json=asked, headers=key)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        *(202, first.json(), first.headers["location"]),
    )
    problem(await ada.post(RELEASE, json=asked | {"customer_ids": ["c2"]}, headers=key), "key_reused")
    query, of_file = {"resubmit": True}, CSV | {"Idempotency-Key": "k3"}
    assert (await ada.post(RELEASE, content=b"customer_id\nc1\n", headers=of_file, params=query)).status_code == 200
    problem(await ada.post(RELEASE, content=b"customer_id\nc2\n", headers=of_file, params=query), "key_reused")
    await hold(ada, "c3")
    empty = {"customer_ids": ["c3"], "resubmit": True}
    for _ in range(2):
        released = await ada.post(RELEASE, json=empty, headers={"Idempotency-Key": "k2"})
        assert (released.status_code, released.json()) == (200, {"released": 1, "held_back": []})
        assert "location" not in released.headers


async def test_on_the_page_a_file_is_put_on_hold_and_what_was_held_back_is_resubmitted(
    ada: Client, web_store: Store
) -> None:
    file = {"file": ("held.csv", b"customer_id,ground\nc1,tax audit\nc2,\n")}
    placed = await ada.post("/holds/file", files=file, data={"column": "customer_id", **GROUND}, headers=PAGE)
    assert (placed.status_code, placed.headers.get("location")) == (303, "/holds"), placed.text
    made = await ada.post("/v1/batches", content=b"customer_id\nc1\nc2\n", headers=CSV)
    named = {"customer_ids": "c1\r\nc2"}
    asked = await ada.post("/holds/release", data=named, headers=PAGE)
    assert made.json()["batch"] in asked.text
    assert "tax audit" in asked.text
    for _ in range(2):  # also when somebody loads the page again
        released = await ada.post("/holds/release/confirmed", data=named, headers=PAGE)
        assert "Resubmit 2 customers" in released.text
    sent = await ada.post("/holds/resubmit", data=named, headers=PAGE)
    assert sent.status_code == 303, sent.text
    batch = sent.headers["location"].removeprefix("/batches/")
    assert await outcomes(web_store.batches, batch) == {"c1": None, "c2": None}


async def test_on_the_page_of_production_a_resubmission_is_confirmed(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION)
    store: Store = app.state.web.store
    async with client_of(app, await add_token(store.tokens, "ada", Role.ADMIN)) as client:
        await store.holds.add(["c1"], Term("tax"), replace=False)
        await client.post("/v1/batches", content=b"customer_id\nc1\n", headers=CSV, params={"confirm": "1"})
        released = await client.post("/holds/release/confirmed", data={"customer_ids": "c1"}, headers=PAGE)
        assert "Type the number of records" in released.text
        unsaid = await client.post("/holds/resubmit", data={"customer_ids": "c1"}, headers=PAGE)
        assert unsaid.status_code == 409
        said = await client.post("/holds/resubmit", data={"customer_ids": "c1", "confirm": "1"}, headers=PAGE)
        assert said.status_code == 303


async def test_an_approver_who_releases_is_told_who_can_have_them_deleted(
    ada: Client, ben: Client, web_store: Store
) -> None:
    await held_back(ada, web_store, "c1")
    released = await ben.post("/holds/release/confirmed", data={"customer_ids": "c1"}, headers=PAGE)
    assert "Resubmit" not in released.text
    assert "somebody who submits" in released.text
