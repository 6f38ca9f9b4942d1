"""Under which terms a file becomes a batch, and what is said about batches and their reports."""

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.conftest import claimed, existing, submit, written
from tests.web.conftest import Client, Serve, add_token, client_of, problem
from worker.domain.batches import BatchState, Environment
from worker.domain.outcomes import Reason
from worker.domain.people import Role
from worker.domain.rates import Rate
from worker.domain.records import Result
from worker.web import batches
from worker.wiring import Store

CSV = {"Content-Type": "text/csv"}
FAILED = Result(Reason.SERVER_ERROR, http_status=503, attempts=5)


async def send(
    client: Client, content: bytes = b"customer_id\nc1\n", path: str = "/v1/batches", **query: Any
) -> httpx.Response:
    return await client.post(path, content=content, headers=CSV, params=query)


async def admin_of(app: FastAPI) -> Client:
    return client_of(app, await add_token(app.state.web.store.tokens, "ada", Role.ADMIN))


async def test_brakes_and_the_size_of_shards_are_those_that_are_set(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION, canary=7, failure_threshold=0.25, shard_size=5)
    async with await admin_of(app) as client:
        batch_id = (await send(client, confirm="1")).json()["batch"]
    description = (await existing(app.state.web.store.batches, batch_id)).description
    assert (description.brakes, description.shard_size) == (app.state.web.settings.brakes(Environment.PRODUCTION), 5)
    assert (description.brakes.canary, description.brakes.failure_threshold) == (7, 0.25)


async def test_in_production_the_first_records_run_alone_unless_it_is_said_otherwise(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION)
    async with await admin_of(app) as client:
        batch = (await send(client, confirm="1")).json()
    assert (await existing(app.state.web.store.batches, batch["batch"])).description.brakes.canary > 0


async def test_ids_are_judged_by_the_pattern_that_is_set(serve: Serve) -> None:
    app = await serve(id_pattern="cus_[0-9]+")
    async with await admin_of(app) as client:
        plan = (await send(client, b"customer_id\ncus_1\nc2\n", "/v1/plans")).json()
        assert (plan["valid"], plan["invalid"], plan["invalid_lines"][0]["line"]) == (1, 1, 3)
        assert (await send(client, b"customer_id\ncus_1\nc2\n")).json()["reasons"] == {"invalid_id": 1}


async def test_rows_that_are_no_csv_are_left_out_only_if_that_is_asked(anna: Client) -> None:
    content = b"customer_id,name\nc1,x\nc2,y,?\nc3,z\n"
    assert (await send(anna, content)).json()["line"] == 3
    taken = await send(anna, content, skip_bad_rows=True)
    assert (taken.json()["rows"], taken.json()["tally"]["skipped"]) == (3, 1)
    form = await anna.post(
        "/v1/plans", files={"file": ("a.csv", content)}, data={"skip_bad_rows": "true", "column": "customer_id"}
    )
    assert (form.json()["rows"], form.json()["to_send"]) == (3, 2)


async def test_a_plan_shows_ten_rows_and_of_each_cell_the_beginning(anna: Client) -> None:
    rows = [f"c{number},{'x' * 300}" for number in range(20)]
    plan = (await send(anna, "\n".join(["customer_id,name", *rows]).encode(), "/v1/plans")).json()
    assert plan["first_rows"] == [[f"c{number}", "x" * 200] for number in range(10)]


async def test_a_cancelled_batch_with_requests_in_flight_is_accepted_and_not_ended(
    ada: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_PATIENCE", 0.2)
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await claimed(web_store.shards, batch_id)
    answer = await ada.post(f"/v1/batches/{batch_id}/cancel")
    assert (answer.status_code, answer.json()["state"], answer.json()["ended_at"]) == (202, "cancelled", None)


async def ended(store: Store, **others: Any) -> str:
    """A batch with a record that was deleted and two that may end otherwise."""
    batch_id = (await submit(store.batches, ["c1", "c2", "c3"], **others)).batch_id
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(
        claim, written(claim, {0: Result(Reason.CONFIRMED, http_status=200), 1: FAILED, 2: FAILED}), time.time()
    )
    return batch_id


@pytest.mark.parametrize("prefix", ["", "/v1"], ids=["page", "API"])
async def test_what_is_sent_again_in_production_is_confirmed_and_approved_like_a_file(
    serve: Serve, prefix: str
) -> None:
    app = await serve(environment=Environment.PRODUCTION, approval_above=1, canary=2)
    store: Store = app.state.web.store
    batch_id = await ended(store, target=app.state.web.settings.target)
    async with await admin_of(app) as client:
        path = f"{prefix}/batches/{batch_id}/retry"

        async def again(confirm: str) -> httpx.Response:
            said = {"confirm": confirm}
            return await client.post(path, params=said if prefix else {}, data={} if prefix else said)

        assert (await client.post(path)).status_code == 409
        assert (await again("3")).status_code == 409
        assert (await existing(store.batches, batch_id)).retried_by is None
        made = await again("2")
    (new,) = [each for each in await store.batches.recent(None) if each.id != batch_id]
    assert made.status_code == (202 if prefix else 303)
    assert made.headers["location"] == f"{prefix}/batches/{new.id}"
    assert (new.state, new.description.submitted_by) == (BatchState.AWAITING_APPROVAL, "ada")
    assert new.description.brakes.canary == 2


async def test_what_is_sent_again_is_handed_to_the_workers_at_once(
    anna: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[str] = []

    async def feed(_: object, batch_id: str) -> None:
        fed.append(batch_id)

    batch_id = await ended(web_store)
    monkeypatch.setattr(web_store.feeder.__class__, "feed", feed)
    made = await anna.post(f"/v1/batches/{batch_id}/retry")
    await anna.post(f"/v1/batches/{batch_id}/retry")
    assert fed == [made.json()["batch"]]


async def test_a_batch_says_how_many_workers_it_has_and_when_it_ends_at_the_rate_that_is_set(serve: Serve) -> None:
    app = await serve(rate_limit=Rate.parse("10/s"))
    store: Store = app.state.web.store
    batch_id = (await submit(store.batches, [f"c{number}" for number in range(1000)], 500)).batch_id
    batch = await existing(store.batches, batch_id)
    await store.presence.beat("w1")
    async with await admin_of(app) as client:
        found = (await client.get(f"/v1/batches/{batch_id}")).json()
    assert found["workers"] == 1
    earliest, latest = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at + 100)) for at in (batch.created_at, time.time())
    )
    assert earliest <= found["expected_end"] <= latest


@pytest.mark.parametrize(
    ("report_format", "content_type"),
    [
        ("csv", "text/csv; charset=utf-8"),
        ("jsonl", "application/x-ndjson"),
        ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("parquet", "application/vnd.apache.parquet"),
    ],
)
async def test_a_report_is_of_its_own_type_and_never_a_page(
    vera: Client, web_store: Store, report_format: str, content_type: str
) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    answer = await vera.get(f"/v1/batches/{batch_id}/report", params={"format": report_format})
    assert answer.headers["content-type"] == content_type
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem(await vera.get(f"/v1/batches/{batch_id}/report", params={"format": "html"}), "request")


async def test_the_number_of_holds_is_that_of_all_whatever_is_shown(ada: Client) -> None:
    await ada.post("/v1/holds", json={"customer_ids": ["c1", "c2", "c3"], "ground": "7/2026"})
    listed = (await ada.get("/v1/holds", params={"limit": 1, "offset": 1})).json()
    assert (len(listed["holds"]), listed["total"]) == (1, 3)
