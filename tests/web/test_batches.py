"""How batches stand, what is asked of them, and what is written about them."""

import csv
import hashlib
import io
import json
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import DELETED, INVALID, TARGET, claimed, existing, finish, submit, written
from tests.web.conftest import As, Client, problem
from worker.domain.batches import BatchState, Environment, Lane, StateReason, Target
from worker.domain.outcomes import Reason
from worker.domain.people import Role
from worker.domain.records import Result
from worker.reports import formats
from worker.reports.as_json import batch_json, status_json
from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.writing import stream_report
from worker.web.bodies import BatchBody, StatusBody
from worker.wiring import Store

FAILED = Result(Reason.SERVER_ERROR, http_status=503, attempts=5)


async def test_a_batch_has_the_keys_of_the_command_line(ada: Client, web_store: Store) -> None:
    batch = await existing(web_store.batches, (await submit(web_store.batches, ["c1"])).batch_id)
    found = (await ada.get(f"/v1/batches/{batch.id}")).json()
    assert set(found) == set(status_json(batch, 0, 1.0, time.time())) == set(StatusBody.model_fields)
    assert found["workers"] == 0
    listed = (await ada.get("/v1/batches")).json()["batches"]
    assert listed == [batch_json(batch)]
    assert set(listed[0]) == set(BatchBody.model_fields)


async def test_every_batch_is_on_one_page(ada: Client, web_store: Store) -> None:
    made = []
    for number in range(7):
        made.append((await submit(web_store.batches, [f"c{number}"])).batch_id)
        await submit(web_store.batches, ["c"], target=Target(Environment.SANDBOX, "m2"))
    pages, after = [], None
    while True:
        page = (await ada.get("/v1/batches", params={"limit": 3} | ({"after": after} if after else {}))).json()
        pages.append([batch["batch"] for batch in page["batches"]])
        if (after := page["next"]) is None:
            break
        await submit(web_store.batches, ["c"])  # what is new changes no page behind it
    assert [found for page in pages for found in page] == made[::-1]
    assert [len(page) for page in pages] == [3, 3, 1]


async def test_batches_can_be_chosen(ada: Client, web_store: Store) -> None:
    urgent = (await submit(web_store.batches, ["c1"], lane=Lane.URGENT, submitted_by="anna")).batch_id
    ended = (await submit(web_store.batches, ["c1"], known={0: INVALID})).batch_id

    async def chosen(**query: str) -> list[str]:
        return [batch["batch"] for batch in (await ada.get("/v1/batches", params=query)).json()["batches"]]

    assert await chosen(lane="urgent") == [urgent]
    assert await chosen(submitted_by="anna", state="running") == [urgent]
    assert await chosen(state="completed") == [ended]
    assert await chosen(state="paused") == []


@pytest.mark.parametrize("query", [{"after": "x"}, {"limit": "0"}, {"limit": "201"}, {"state": "asleep"}])
async def test_a_page_that_cannot_be_is_refused(ada: Client, query: dict[str, str]) -> None:
    problem(await ada.get("/v1/batches", params=query), "request")


async def test_own_batches_are_paused_resumed_and_cancelled(anna: Client, as_: As, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1", "c2"], submitted_by="anna")).batch_id
    other = await as_("otto", Role.SUBMITTER)
    for act in ("pause", "resume", "cancel"):
        response = await other.post(f"/v1/batches/{batch_id}/{act}")
        assert "only own batches" in problem(response, "role")
        assert response.json()["batch"] == batch_id
    problem(await anna.post(f"/v1/batches/{batch_id}/resume"), "state")
    for act, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert (await anna.post(f"/v1/batches/{batch_id}/{act}")).json()["state"] == state
    assert "it has ended" in problem(await anna.post(f"/v1/batches/{batch_id}/pause"), "state")
    assert (await existing(web_store.batches, batch_id)).tally.reasons == {Reason.CANCELLED: 2}


async def test_an_approver_refuses_what_awaits_approval_and_cancels_nothing_else(ben: Client, web_store: Store) -> None:
    waiting = (await submit(web_store.batches, ["c1"], submitted_by="anna", needs_approval=True)).batch_id
    page = await ben.get(f"/batches/{waiting}", headers={"Accept": "text/html"})
    assert "Refuse …" in page.text
    assert "Cancel …" not in page.text
    assert (await ben.post(f"/v1/batches/{waiting}/cancel")).json()["state"] == "cancelled"
    running = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    refused = problem(await ben.post(f"/v1/batches/{running}/cancel"), "role")
    assert "ben as approver may cancel only what awaits approval" in refused
    assert "/cancel" not in (await ben.get(f"/batches/{running}", headers={"Accept": "text/html"})).text
    own = (await submit(web_store.batches, ["c1"], submitted_by="ben", needs_approval=True)).batch_id
    problem(await ben.post(f"/v1/batches/{own}/cancel"), "approval")


async def test_a_brake_is_named_with_what_would_be_allowed(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await web_store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "tripped", "60 100 0.5 0")
    detail = problem(await ada.post(f"/v1/batches/{batch_id}/resume"), "brake")
    assert "`despite` failure_threshold" in detail
    problem(await ada.post(f"/v1/batches/{batch_id}/resume", params={"despite": "canary"}), "brake")
    resumed = await ada.post(f"/v1/batches/{batch_id}/resume", params={"despite": "failure_threshold"})
    assert resumed.json()["despite"] == ["failure_threshold"]


@pytest.mark.parametrize(
    ("act", "query"),
    [
        ("approve", {"sha265": "0"}),
        ("resume", {"dispite": "canary"}),
        ("retry", {"confrim": "1"}),
        ("pause", {"x": "1"}),
    ],
)
async def test_a_parameter_that_would_be_ignored_is_refused_and_nothing_is_done(
    ada: Client, web_store: Store, act: str, query: dict[str, str]
) -> None:
    before = await existing(web_store.batches, (await submit(web_store.batches, ["c1"])).batch_id)
    answer = await ada.post(f"/v1/batches/{before.id}/{act}", params=query)
    assert repr(next(iter(query))) in problem(answer, "request")
    assert await existing(web_store.batches, before.id) == before


async def test_a_slip_in_a_parameter_does_not_give_another_report(vera: Client, batch_id: str) -> None:
    for path in ("report", "manifest"):
        answer = await vera.get(f"/v1/batches/{batch_id}/{path}", params={"onyl": "failed"})
        assert "only" in problem(answer, "request")


async def test_what_may_end_otherwise_is_sent_again_once(anna: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1", "c2", "c3"])).batch_id
    problem(await anna.post(f"/v1/batches/{batch_id}/retry"), "state")
    claim = await claimed(web_store.shards, batch_id)
    await web_store.shards.record(claim, written(claim, {0: DELETED, 1: FAILED, 2: FAILED}), time.time())
    made = await anna.post(f"/v1/batches/{batch_id}/retry")
    assert (made.status_code, made.json()["rows"], made.json()["retry_of"]) == (202, 2, batch_id)
    assert made.json()["submitted_by"] == "anna"
    again = await anna.post(f"/v1/batches/{batch_id}/retry")
    assert (again.status_code, again.json()["batch"]) == (200, made.json()["batch"])


@pytest.fixture
async def batch_id(web_store: Store) -> str:
    """A batch with records of several outcomes, some of them pending, of more than a page."""
    ids = [f"=c{number}" if number % 7 == 0 else f"c{number}" for number in range(300)]
    batch_id = (await submit(web_store.batches, ids, 3, {0: INVALID})).batch_id
    claim = await claimed(web_store.shards, batch_id, 1)
    await web_store.shards.record(claim, written(claim, {0: DELETED, 1: FAILED}), time.time())
    return batch_id


@pytest.mark.parametrize("report_format", ReportFormat)
@pytest.mark.parametrize("only", [None, "failed", "deleted,pending"])
async def test_the_report_is_that_of_the_command_line_and_the_manifest_is_its_own(
    vera: Client, web_store: Store, batch_id: str, report_format: ReportFormat, only: str | None
) -> None:
    query = {"format": report_format.value} | ({"only": only} if only else {})
    response = await vera.get(f"/v1/batches/{batch_id}/report", params=query)
    batch, out = await existing(web_store.batches, batch_id), io.BytesIO()
    lines = [line async for page in web_store.batches.pages(batch) for line in page]
    rows = [ReportRow(line.row, (line.customer_id,), line.result, batch.id) for line in lines]
    outcomes = frozenset(row.outcome for row in rows if row.outcome.value in only.split(",")) if only else None
    report = stream_report(out, report_format, ["customer_id"], rows, only=outcomes)
    assert response.content == out.getvalue()
    attachment = f'attachment; filename="{batch_id}.report.{report_format.value}"'
    assert response.headers["content-disposition"] == attachment
    manifest = await vera.get(f"/v1/batches/{batch_id}/manifest", params=query)
    assert manifest.headers["content-disposition"] == f'attachment; filename="{batch_id}.manifest.json"'
    said = manifest.json()["report"]
    assert (said["sha256"], said["lines"]) == (report.sha256, report.lines)
    assert said["sha256"] == hashlib.sha256(response.content).hexdigest()


async def test_a_report_cannot_be_run_as_a_formula(vera: Client, batch_id: str) -> None:
    text = (await vera.get(f"/v1/batches/{batch_id}/report")).text
    cells = [row[0] for row in csv.reader(io.StringIO(text))]
    assert len(cells) == 301
    assert not [cell for cell in cells if cell.startswith("=")]


async def test_only_of_no_outcome_is_refused(vera: Client, batch_id: str) -> None:
    problem(await vera.get(f"/v1/batches/{batch_id}/report", params={"only": "gone"}), "request")


async def events_of(response: httpx.Response) -> list[dict[str, str]]:
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block.startswith("event")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]


async def test_a_batch_that_ended_has_one_event_and_is_not_asked_for_again(vera: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await finish(web_store.shards, batch_id, 1)
    response = await vera.get(f"/v1/batches/{batch_id}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    (event,) = await events_of(response)
    assert event["event"] == "batch"
    assert json.loads(event["data"])["state"] == "completed"
    again = await vera.get(f"/v1/batches/{batch_id}/events", headers={"Last-Event-ID": event["id"]})
    assert (again.status_code, again.content) == (204, b"")
    changed = await vera.get(f"/v1/batches/{batch_id}/events", headers={"Last-Event-ID": "0" * 16})
    assert len(await events_of(changed)) == 1


@pytest.mark.parametrize("path", ["", "/events", "/report", "/manifest", "/plan"])
async def test_a_batch_that_does_not_exist_is_not_there(vera: Client, path: str) -> None:
    problem(await vera.get(f"/v1/batches/6h0sgvnab11e7{path}"), "not_found")
    problem(await vera.get(f"/v1/batches/customer_1{path}"), "not_found")


async def test_two_hundred_batches_are_listed_in_few_calls(ada: Client, web_store: Store) -> None:
    for number in range(200):
        await submit(web_store.batches, [f"c{number}"], target=TARGET)
    calls: int = (await web_store.redis.info("stats"))["total_commands_processed"]
    assert len((await ada.get("/v1/batches", params={"limit": 200})).json()["batches"]) == 200
    later: int = (await web_store.redis.info("stats"))["total_commands_processed"]
    assert later - calls < 450


async def test_a_report_that_cannot_be_had_in_a_format_is_a_problem_that_says_why(
    vera: Client, batch_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = f"/v1/batches/{batch_id}/report", {"format": "xlsx"}
    monkeypatch.setattr(formats, "XLSX_ROWS", 299)
    assert "`only`" in problem(await vera.get(address, params=asked), "format")
    assert (await vera.get(address, params=asked | {"only": "failed"})).status_code == 200
    monkeypatch.setattr(formats, "XLSX_ROWS", 300)
    for module in ("reports.formats", "web.downloads"):
        monkeypatch.setattr(f"worker.{module}.XLSX_ROWS_OVER_HTTP", 299)
    assert "299 at most" in problem(await vera.get(address, params=asked), "format")
    assert (await vera.get(address, params=asked | {"only": "failed"})).status_code == 200
    assert (await vera.get(address, params={"format": "parquet"})).status_code == 200
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    for name in ("xlsx", "parquet"):
        assert f"expunge[{name}]" in problem(await vera.get(address, params={"format": name}), "format")
    assert (await vera.get(address)).status_code == 200


async def test_a_cell_that_excel_would_cut_off_is_a_problem_and_no_half_report(
    vera: Client, batch_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found while the report is made, so nothing of it may have been sent."""
    monkeypatch.setattr(formats, "_XLSX_CELL", 30)
    answer = await vera.get(f"/v1/batches/{batch_id}/report", params={"format": "xlsx"})
    assert "holds 30" in problem(answer, "format")


async def test_no_room_for_the_workbook_is_a_matter_of_the_moment(
    vera: Client, batch_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    text = problem(await vera.get(f"/v1/batches/{batch_id}/report", params={"format": "xlsx"}), "unavailable")
    assert "no room" in text
    assert str(tmp_path) not in text
