"""A file that is sent becomes a batch, once, under the guards of the command line; a bad one is refused in a line."""

import asyncio
import errno
import gzip
import io
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.conftest import DELETED, claimed, lines, outcomes, written
from tests.web.conftest import Client, Serve, add_token, client_of, problem
from worker.domain.audit import Deed
from worker.domain.batches import Environment
from worker.domain.holds import Term
from worker.domain.people import ApprovalRule, Role
from worker.web.bodies import BatchBody
from worker.web.uploads import file_name
from worker.wiring import Store

CSV = b"customer_id\nc1\nc2\nc1\nno spaces\n"
RAW = {"Content-Type": "text/csv"}


async def send(client: Client, content: bytes = CSV, path: str = "/v1/batches", **query: Any) -> httpx.Response:
    return await client.post(path, content=content, headers=RAW, params=query)


def form(content: bytes = CSV, name: str = "customers.csv") -> dict[str, Any]:
    return {"file": (name, io.BytesIO(content), "text/csv")}


async def test_a_raw_file_becomes_a_batch(anna: Client, web_store: Store) -> None:
    response = await send(anna, source="May.csv", reference="r1", lane="urgent", due="2099-12-24")
    assert response.status_code == 202, response.text
    batch = response.json()
    assert response.headers["location"] == f"/v1/batches/{batch['batch']}"
    assert (batch["source"], batch["reference"], batch["lane"]) == ("May.csv", "r1", "urgent")
    assert (batch["rows"], batch["submitted_by"], batch["due"]) == (4, "anna", "2099-12-24T23:59:59Z")
    found = await outcomes(web_store.batches, batch["batch"])
    assert found == {"c1": "duplicate", "c2": None, "no spaces": "invalid_id"}
    assert set(batch) == set(BatchBody.model_fields)


async def test_a_form_becomes_a_batch_and_its_fields_count_like_the_query(anna: Client) -> None:
    content = b"name;id\nx;c1\n"
    response = await anna.post(
        "/v1/batches", files=form(content, "a/b\\c.csv"), data={"column": "id", "lane": "urgent"}
    )
    assert response.status_code == 202, response.text
    assert (response.json()["source"], response.json()["lane"]) == ("c.csv", "urgent")


async def test_columns_that_are_kept_are_in_the_report_and_no_other_is(anna: Client) -> None:
    content = b"case,customer_id,name\nA1,c1,Ada\n"
    made = await send(anna, content, keep="case, customer_id")
    report = await anna.get(f"{made.headers['location']}/report")
    assert report.text.splitlines()[0].startswith("case,customer_id,expunge_row,")
    assert report.text.splitlines()[1].startswith("A1,c1,1,pending,")
    refused = await send(anna, content, keep="case,nome")
    assert "has no column 'nome' to keep" in problem(refused, "input")


def test_a_file_s_name_is_one_line_without_folders() -> None:
    assert file_name("/home/anna/May\r\n\x1b[31m.csv") == "May[31m.csv"
    assert file_name("C:\\May\u202e.csv") == "May.csv"
    assert file_name("\n") == "upload.csv"
    assert len(file_name("x" * 1000)) == 200


@pytest.mark.parametrize("kind", ["application/gzip", "text/csv"])
async def test_a_packed_file_is_unpacked_whatever_it_is_called(anna: Client, kind: str) -> None:
    response = await anna.post("/v1/batches", content=gzip.compress(CSV), headers={"Content-Type": kind})
    assert response.json()["rows"] == 4


async def test_the_same_file_twice_is_refused_and_noted_with_its_batch(anna: Client, web_store: Store) -> None:
    first = (await send(anna)).json()["batch"]
    refused = await send(anna)
    assert f"batch {first} (running); `again` submits it once more" in problem(refused, "repeat")
    assert refused.json()["batch"] == first
    assert (await send(anna, again=True)).status_code == 202
    noted = [entry async for entry in web_store.audit.entries() if entry.deed is Deed.REFUSED]
    assert [(entry.actor, entry.batch_id, entry.detail["guard"]) for entry in noted] == [("anna", first, "repeat")]


@pytest.mark.parametrize("taken", ["events-6h0sgvnab11e7", "held-back-0123456789abcdef", "a\nb"])
async def test_a_reference_of_expunge_s_own_batches_is_nobody_s_to_give(anna: Client, taken: str) -> None:
    """Else events of that gathering would wait for ever, and be answered with somebody else's batch."""
    assert "choose another" in problem(await send(anna, reference=taken), "request")


async def test_the_same_reference_is_the_same_batch_and_another_file_is_refused(anna: Client) -> None:
    first = await send(anna, reference="r1")
    again = await send(anna, reference="r1")
    assert (again.status_code, again.json()["batch"]) == (200, first.json()["batch"])
    problem(await send(anna, b"customer_id\nc9\n", reference="r1"), "reference")


async def test_a_viewer_and_an_approver_are_refused_before_their_file_is_read(vera: Client, ben: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"c1\n" * 1000
            await asyncio.sleep(0)

    for client in (vera, ben):
        async with asyncio.timeout(5):
            response = await client.post("/v1/batches", content=endless(), headers=RAW)
        assert "submit is for submitter or admin" in problem(response, "role")


async def test_the_same_key_and_content_get_the_same_answer(anna: Client, web_store: Store) -> None:
    headers = RAW | {"Idempotency-Key": "k1"}
    first = await anna.post("/v1/batches", content=CSV, headers=headers)
    again = await anna.post("/v1/batches", content=CSV, headers=headers)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        *(202, first.json(), first.headers["location"]),
    )
    assert len(await web_store.batches.recent(None)) == 1


async def test_the_same_key_with_other_content_is_refused(anna: Client, ada: Client) -> None:
    headers = RAW | {"Idempotency-Key": "k1"}
    await anna.post("/v1/batches", content=CSV, headers=headers)
    problem(await anna.post("/v1/batches", content=b"customer_id\nc9\n", headers=headers), "key_reused")
    problem(await anna.post("/v1/batches", content=CSV, headers=headers, params={"again": True}), "key_reused")
    other = await ada.post("/v1/batches", content=b"customer_id\nc9\n", headers=headers)
    assert other.status_code == 202, "the keys of two people have nothing to do with each other"


async def test_a_key_in_work_is_refused_until_it_is_done(
    anna: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = RAW | {"Idempotency-Key": "k1"}
    reached, go_on, stored = asyncio.Event(), asyncio.Event(), web_store.batches.known

    async def waiting(description: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await stored(description)

    monkeypatch.setattr(web_store.batches.__class__, "known", lambda _, description: waiting(description))
    first = asyncio.create_task(anna.post("/v1/batches", content=CSV, headers=headers))
    async with asyncio.timeout(5):
        await reached.wait()
    second = await anna.post("/v1/batches", content=CSV, headers=headers)
    problem(second, "key_in_use")
    assert second.headers["retry-after"]
    go_on.set()
    assert (await first).status_code == 202


async def test_what_was_refused_may_be_tried_again_with_its_key(anna: Client, ada: Client) -> None:
    headers = RAW | {"Idempotency-Key": "k1"}
    await send(ada)
    problem(await anna.post("/v1/batches", content=CSV, headers=headers), "repeat")
    problem(await anna.post("/v1/batches", content=CSV, headers=headers), "repeat")
    again = await anna.post("/v1/batches", content=CSV, headers=headers, params={"again": True})
    assert again.status_code == 202


async def test_production_needs_a_confirmation_that_fits(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION)
    async with await admin_of(app) as client:
        refused = problem(await send(client), "confirmation")
        assert "add `confirm` 4 or `confirm` plan-" in refused
        problem(await send(client, confirm="3"), "confirmation")
        problem(await send(client, confirm="all"), "request")
        plan = (await send(client, path="/v1/plans")).json()["plan"]
        assert (await send(client, confirm=plan)).status_code == 202


async def test_whoever_submitted_cannot_approve(serve: Serve) -> None:
    app = await serve(approval_above=0)
    assert app.state.web.settings.approval == ApprovalRule(0, in_production=False)
    store: Store = app.state.web.store
    async with await admin_of(app) as ada, client_of(app, await add_token(store.tokens, "ben", Role.APPROVER)) as ben:
        batch = (await send(ada)).json()
        assert batch["state"] == "awaiting_approval"
        path = f"/v1/batches/{batch['batch']}"
        refused = await ada.post(f"{path}/approve")
        assert "somebody else must approve it" in problem(refused, "approval")
        assert refused.json()["batch"] == batch["batch"]
        problem(await ben.post(f"{path}/approve", params={"sha256": "0" * 64}), "approval")
        problem(await ben.post(f"{path}/pause"), "role")
        plan = (await ben.get(f"{path}/plan")).json()
        assert (plan["to_send"], plan["invalid"], plan["duplicates"]) == (2, 1, 1)
        approved = await ben.post(f"{path}/approve", params={"sha256": batch["sha256"].upper()})
        assert (approved.json()["state"], approved.json()["approved_by"]) == ("running", "ben")
        problem(await ben.post(f"{path}/approve"), "state")


async def admin_of(app: FastAPI) -> Client:
    return client_of(app, await add_token(app.state.web.store.tokens, "ada", Role.ADMIN))


async def test_a_plan_says_what_a_submission_would_do_and_stores_nothing(anna: Client, web_store: Store) -> None:
    gone = (await send(anna, b"customer_id\nc1\n")).json()["batch"]
    claim = await claimed(web_store.shards, gone)
    await web_store.shards.record(claim, written(claim, {0: DELETED}), 1e9)
    await web_store.holds.add(["c2"], Term("litigation"), replace=False)
    before = len([key async for key in web_store.redis.scan_iter("*")])
    response = await send(anna, b"customer_id,name\nc1,x\nc2,y\nc3,z\nc3,z\n!,z\n", "/v1/plans")
    plan = response.json()
    assert response.status_code == 200, response.text
    assert (plan["rows"], plan["valid"], plan["invalid"], plan["duplicates"]) == (5, 3, 1, 1)
    assert (plan["on_hold"], plan["deleted_earlier"], plan["to_send"]) == (1, 0, 2)
    assert plan["columns"] == ["customer_id", "name"]
    assert plan["first_rows"][0] == ["c1", "x"]
    assert plan["invalid_lines"][0]["line"] == 6
    assert len([key async for key in web_store.redis.scan_iter("*")]) == before


async def test_a_file_without_the_column_says_which_it_has(anna: Client) -> None:
    response = await send(anna, b"id,name\n1,x\n", "/v1/plans")
    assert "name one with `column`" in problem(response, "input")
    assert (response.json()["line"], response.json()["columns"]) == (1, ["id", "name"])
    assert (await send(anna, b"id,name\n1,x\n", "/v1/plans", column="id")).status_code == 200


@pytest.mark.parametrize(
    ("content", "word", "says", "line"),
    [
        (b"", "input", "is empty", None),
        (b"customer_id\n", "input", "has no rows", None),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff\xd8" * 50, "input", "is an image", None),
        ("customer_id\nc1\n".encode("utf-16"), "input", "is UTF-16 or UTF-32", None),
        (gzip.compress(b"\0" * 1_000_000), "input", "has NUL characters where its text should be", None),
        (b"customer_id\nc1\0\n", "input", "has a NUL character: export the file anew", 2),
        (b'customer_id,x\nc1,1\n"c2,2\nc3,3\n', "input", "has a quote that is never closed", 3),
        (b"PK\x03\x04" + b"x" * 99, "input", "is a workbook or a zip file", None),
        (gzip.compress(b"customer_id\nc1\n")[:-6], "input", "is cut short", None),
        (b"customer_id\nc1\n\xff\xfe\xfd\n", "input", "is not UTF-8", 3),
        (b"customer_id\n" + b"".join(b"c%d\n" % at for at in range(11)), "size", "has more than 10 rows", None),
    ],
    ids=[
        "empty",
        "no rows",
        "image",
        "UTF-16",
        "NULs",
        "NUL",
        "open quote",
        "workbook",
        "cut gzip",
        "Latin-1",
        "too many",
    ],
)
@pytest.mark.parametrize("by", ["raw", "form"])
async def test_a_bad_file_is_refused_in_one_line(
    serve: Serve, content: bytes, word: str, says: str, line: int | None, by: str
) -> None:
    app = await serve(max_batch=10)
    async with await admin_of(app) as client:
        if by == "raw":
            response = await send(client, content, source="in.csv")
        else:
            response = await client.post("/v1/batches", files=form(content, "in.csv"))
        detail = problem(response, word)
        assert detail.startswith("in.csv")
        assert says in detail
        assert response.json().get("line") == line
        assert not await app.state.web.store.batches.recent(None)


async def test_without_a_file_or_with_another_type_it_says_what_to_send(anna: Client) -> None:
    detail = problem(await anna.post("/v1/batches", content=b"x", headers={"Content-Type": "text/plain"}), "media_type")
    assert "multipart/form-data" in detail
    problem(await anna.post("/v1/batches", data={"column": "id"}), "media_type")
    for files in ({"file": ("", b"", "application/octet-stream")}, {"other": ("a.csv", CSV, "text/csv")}):
        assert "there is no file" in problem(await anna.post("/v1/batches", files=files), "request")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content, kind in ((b"nonsense", headers), (b"", {"Content-Type": "multipart/form-data"})):
        wrong = problem(await anna.post("/v1/batches", content=content, headers=kind), "request")
        assert wrong.startswith("the form cannot be read: send one that is well-formed")


@pytest.mark.parametrize("query", [{"comfirm": "3"}, {"lane": "fast"}, {"due": "soon"}, {"skip_bad_rows": "perhaps"}])
async def test_a_field_that_is_wrong_is_named(anna: Client, query: dict[str, str]) -> None:
    name = next(iter(query))
    raw = await anna.post("/v1/batches", content=CSV, headers=RAW, params=query)
    assert name in problem(raw, "request")
    if name != "due":
        assert name in problem(await anna.post("/v1/batches", files=form(), data=query), "request")


async def endless_line(sent: list[int]) -> AsyncIterator[bytes]:
    for _ in range(1600):
        sent[0] += 1 << 16
        yield b"x" * (1 << 16)


async def test_a_hundred_megabytes_of_one_line_are_refused_early(anna: Client) -> None:
    sent = [0]
    response = await anna.post("/v1/batches", content=endless_line(sent), headers=RAW, params={"source": "one.csv"})
    assert problem(response, "input") == "one.csv, line 1: is over 64 KiB: put each customer on a line of its own"
    assert response.json()["line"] == 1
    assert sent[0] < 1 << 20


async def test_so_are_they_in_a_form(anna: Client) -> None:
    sent = [0]

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        async for chunk in endless_line(sent):
            yield chunk

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = problem(await anna.post("/v1/batches", content=body(), headers=headers), "input")
    assert refused.startswith("a.csv, line 1: is over 64 KiB")
    assert sent[0] < 1 << 20


@pytest.mark.parametrize("by", ["raw", "form", "chunks"])
async def test_a_file_over_the_cap_is_not_read_to_its_end(serve: Serve, by: str) -> None:
    app, sent = await serve(max_upload=1 << 20), [0]

    async def body() -> AsyncIterator[bytes]:
        for _ in range(1000):
            sent[0] += 30_000
            yield b"c1\n" * 10_000

    async with await admin_of(app) as client:
        if by == "form":
            response = await client.post("/v1/batches", files=form(b"c1\n" * 2_000_000))
        elif by == "raw":
            response = await client.post("/v1/batches", content=b"c1\n" * 2_000_000, headers=RAW)
        else:
            response = await client.post("/v1/batches", content=body(), headers=RAW)
            assert sent[0] < 4 << 20
    problem(response, "too_large")


@pytest.mark.parametrize("by", ["raw", "form"])
async def test_a_full_disk_is_said(anna: Client, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    content = b"customer_id\n" + b"c1\n" * 1_000_000  # of a form, what is small stays in memory
    if by == "raw":
        response = await send(anna, content)
    else:
        response = await anna.post("/v1/batches", files=form(content))
    assert "No space left on device; try again later" in problem(response, "unavailable")
    assert response.json()["title"] == "It is not possible at the moment"


async def test_the_cap_is_that_of_the_file(serve: Serve) -> None:
    app = await serve(max_upload=1000)
    async with await admin_of(app) as client:
        problem(await send(client, b"customer_id\n" + b"c" * 987 + b"\n\n"), "too_large")
        problem(await client.post("/v1/batches", files=form(b"customer_id\n" + b"c" * 987 + b"\n\n")), "too_large")
        assert (await send(client, b"customer_id\n" + b"c" * 987 + b"\n")).status_code == 202


@pytest.mark.parametrize("line", [b"c1\n", b"\n", b"x" * 100 + b"\n"], ids=["rows", "empty lines", "invalid"])
async def test_a_gzip_bomb_ends_at_the_cap(serve: Serve, line: bytes) -> None:
    app = await serve(max_upload=1 << 20, max_batch=100_000_000)
    packed = gzip.compress(b"customer_id\n" + line * ((6 << 20) // len(line)), 9)
    assert len(packed) < 100_000
    async with await admin_of(app) as client:
        response = await client.post("/v1/batches", content=packed, headers={"Content-Type": "application/gzip"})
    assert "is over 4,194,304 bytes when unpacked" in problem(response, "input")


async def test_all_rows_arrive_as_they_were(anna: Client, web_store: Store) -> None:
    ids = [f"c{number}" for number in range(3_000)]
    batch = (await send(anna, "\n".join(["customer_id", *ids]).encode())).json()
    assert [line.customer_id for line in await lines(web_store.batches, batch["batch"])] == ids
