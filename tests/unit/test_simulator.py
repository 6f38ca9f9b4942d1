"""The simulator over real sockets: the endpoint as documented, each fault, the log, and a clean end."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import until
from worker.simulator import (
    PERSONAL_VALUES,
    Outage,
    Rule,
    Scenario,
    Simulator,
    SimulatorError,
    SimulatorThread,
    serve,
)

CUSTOMER = "customer_d4668153816c4c0c92c62b84fc5ada3f"
HEADERS = {"X-Merchant-Identifier-Id": "3kqrchza3j", "X-Type": "sandbox"}
ENVELOPE = {"request_id", "request_time", "success", "status_code", "status_text"}
CUSTOMER_FIELDS = {
    "customer_id",
    "org_id",
    "type",
    "description",
    "webhook_url",
    "metadata",
    "is_active",
    "is_wallet_ready",
    "organization_reference_id",
    "is_gca_enabled",
    "gca_activation_status",
    "gca_activated_at",
    "is_sender_validation_enabled",
    "payin_sender_id_list",
    "company_domain",
    "individual",
    "created_by",
    "created_at",
    "updated_at",
}
PERSON_FIELDS = {
    "first_name",
    "last_name",
    "dob",
    "email",
    "nationality",
    "address_country",
    "address_state",
    "address_city",
    "address_line1",
    "address_line2",
    "address_zip_code",
    "country_of_residence",
    "phone_number",
    "phone_country_code",
    "phone_number_e164",
    "identification_type",
    "identification_custom_type",
    "identification_value",
}

Start = Callable[..., Awaitable[tuple[Simulator, httpx.AsyncClient]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a simulator with some rules and a client of it; both are closed at the end."""
    running: list[tuple[Simulator, httpx.AsyncClient]] = []

    async def begin(*rules: Rule, log: Path | None = None, prefix: str = "", **scenario: Any) -> Any:
        simulator = Simulator(Scenario(rules=rules, **scenario), prefix=prefix, log=log)
        client = httpx.AsyncClient(base_url=await simulator.start(), headers=HEADERS, timeout=5, trust_env=False)
        running.append((simulator, client))
        return simulator, client

    yield begin
    for simulator, client in running:
        await client.aclose()
        await simulator.stop()


def path(customer_id: str = CUSTOMER) -> str:
    return f"/customer/customer/{customer_id}"


async def exchange(url: str, request: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def test_a_customer_is_deleted_once_with_the_documented_reply_and_then_is_not_found(start: Start) -> None:
    simulator, client = await start()
    first = await client.delete(path())
    assert (first.status_code, first.headers["content-type"]) == (200, "application/json; charset=utf-8")
    reply = first.json()
    assert (reply["status"], reply["message"], set(reply)) == (True, "OK", {"status", "message", "data"})
    data = reply["data"]
    assert set(data) == ENVELOPE | {"data"}
    assert re.fullmatch("[0-9a-f]{32}", data["request_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["request_time"])
    assert (data["success"], data["status_code"], data["status_text"]) == (True, 200, "OK")
    assert set(data["data"]) == CUSTOMER_FIELDS
    assert set(data["data"]["individual"]) == PERSON_FIELDS
    assert (data["data"]["customer_id"], data["data"]["is_active"]) == (CUSTOMER, False)
    assert all(value in first.text for value in PERSONAL_VALUES)
    assert "Gautama" not in first.text

    second = await client.delete(path())
    assert second.status_code == 404
    missing = second.json()
    assert (missing["status"], missing["message"]) == (False, "Customer not found")
    assert set(missing["data"]) == ENVELOPE
    assert missing["data"]["request_id"] != data["request_id"]
    assert (missing["data"]["success"], missing["data"]["status_text"]) == (False, "NOT_FOUND")
    assert [entry.executed for entry in simulator.log] == [True, False]


async def test_only_listed_customers_exist_if_a_list_is_given(start: Start) -> None:
    _, client = await start(customers=["known"])
    assert (await client.delete(path("known"))).status_code == 200
    assert (await client.delete(path("other"))).status_code == 404


@pytest.mark.parametrize(
    ("name", "value"), [("X-Merchant-Identifier-Id", ""), ("X-Type", ""), ("X-Type", "Sandbox"), ("X-Type", "live")]
)
async def test_a_request_without_its_headers_is_refused_and_deletes_nobody(start: Start, name: str, value: str) -> None:
    simulator, client = await start()
    reply = await client.delete(path(), headers={name: value})
    assert (reply.status_code, reply.json()["status"]) == (400, False)
    assert [(entry.status, entry.executed) for entry in simulator.log] == [(400, False)]


@pytest.mark.parametrize(
    "target",
    [
        "/customer/customer/",
        "/customer/customer/..",
        "/customer/customer/a/b",
        "/customer/customer/a?x=1",
        "/customer/customer/%2e",
        "/customer/customer/" + "a" * 129,
        "/customer/customer",
        "/",
        "/customers/customer/a",
    ],
)
async def test_a_delete_of_anything_but_one_customer_gets_a_page_and_is_logged_as_sent(target: str) -> None:
    simulator = Simulator(Scenario())
    url = await simulator.start()
    request = f"DELETE {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    reply = await exchange(url, request)
    await simulator.stop()
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"text/html" in reply
    assert [(entry.id, entry.executed, entry.status) for entry in simulator.log] == [(target, False, 404)]


async def test_other_methods_and_paths_are_answered_as_by_a_proxy_and_not_logged(start: Start) -> None:
    simulator, client = await start()
    refused = await client.get(path())
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE")
    page = await client.post("/elsewhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert simulator.log == []


async def test_everything_is_under_the_prefix(start: Start) -> None:
    simulator, client = await start(prefix="/api/v1/")
    assert client.base_url.path == "/api/v1/"
    assert (await client.delete(path())).status_code == 200
    assert (await client.get("/_simulator/stats")).json()["requests"] == 1
    assert simulator.log[0].id == CUSTOMER


STATUS_FAULTS: list[tuple[Rule, int, bool]] = [
    (Rule(fault="status", status=418), 418, False),
    (Rule(fault="status", status=201), 201, True),
    (Rule(fault="status", status=204), 204, True),
    (Rule(fault="status", status=504, executed=True), 504, True),
    (Rule(fault="status", status=200, executed=False), 200, False),
    (Rule(fault="rate_limited"), 429, False),
    (Rule(fault="server_error"), 503, False),
    (Rule(fault="server_error", status=500), 500, False),
    (Rule(fault="rejected"), 400, False),
    (Rule(fault="rejected", status=422), 422, False),
    (Rule(fault="deleted_with_missing_field"), 200, True),
    (Rule(fault="unreadable"), 200, True),
    (Rule(fault="unreadable", executed=False), 200, False),
    (Rule(fault="absent"), 404, False),
    (Rule(fault="still_active"), 200, False),
    (Rule(fault="accepted"), 202, False),
    (Rule(fault="other_customer"), 200, False),
    (Rule(fault="redirect"), 302, False),
    (Rule(fault="not_the_api"), 404, False),
    (Rule(fault="unauthorized"), 401, False),
    (Rule(fault="forbidden"), 403, False),
    (Rule(fault="latency", latency="1ms"), 200, True),
]


@pytest.mark.parametrize(("rule", "status", "executed"), STATUS_FAULTS)
async def test_a_fault_answers_its_status_and_deletes_only_if_it_says_so(
    start: Start, rule: Rule, status: int, executed: bool
) -> None:
    simulator, client = await start(rule)
    reply = await client.delete(path())
    assert reply.status_code == status
    entry = simulator.log[0]
    assert (entry.status, entry.executed, entry.fault) == (status, executed, rule.fault)
    simulator.use(Scenario())
    assert (await client.delete(path())).status_code == (404 if executed else 200)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(fault="rate_limited"), "1"),
        (Rule(fault="rate_limited", retry_after=7), "7"),
        (Rule(fault="server_error"), None),
        (Rule(fault="server_error", retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), "Wed, 21 Oct 2026 07:28:00 GMT"),
        (Rule(fault="status", status=429), None),
        (Rule(fault="status", status=429, retry_after="soon"), "soon"),
    ],
)
async def test_retry_after_is_said_as_the_rule_says_it(start: Start, rule: Rule, expected: str | None) -> None:
    _, client = await start(rule)
    assert (await client.delete(path())).headers.get("retry-after") == expected


@pytest.mark.parametrize("names", [["tax_id", "dob"], "tax_id", []])
async def test_missing_field_comes_in_both_documented_shapes(start: Start, names: list[str] | str) -> None:
    _, client = await start(
        Rule(fault="rejected", ids="r_schema", missing_field=names, shape="schema"),
        Rule(fault="rejected", ids="r_example", missing_field=names, shape="example"),
        Rule(fault="deleted_with_missing_field", ids="d_schema", missing_field=names, shape="schema"),
        Rule(fault="deleted_with_missing_field", ids="d_example", missing_field=names, shape="example"),
    )
    for outcome, status in (("r", 400), ("d", 200)):
        by_schema = await client.delete(path(f"{outcome}_schema"))
        by_example = await client.delete(path(f"{outcome}_example"))
        assert (by_schema.status_code, by_example.status_code) == (status, status)
        assert by_schema.json()["data"]["missing_field"] == names
        assert by_schema.json()["data"]["is_wallet_ready"] is False
        assert by_example.json()["data"]["data"]["missing_field"] == names
        assert by_example.json()["data"]["data"]["customer_id"] == f"{outcome}_example"
        assert "missing_field" not in by_example.json()["data"]


async def test_missing_field_is_reported_only_when_something_was_deleted(start: Start) -> None:
    _, client = await start(Rule(fault="deleted_with_missing_field"))
    assert (await client.delete(path())).json()["data"]["missing_field"] == ["tax_id"]
    assert (await client.delete(path())).status_code == 404


async def test_the_other_replies_say_what_they_should(start: Start) -> None:
    _, client = await start(
        Rule(fault="still_active", ids="active"),
        Rule(fault="other_customer", ids="swapped"),
        Rule(fault="redirect", ids="moved"),
        Rule(fault="redirect", ids="far", status=308, location="https://example.org/"),
        Rule(fault="unreadable", ids="html"),
        Rule(fault="unreadable", ids="cut", shape="truncated"),
        Rule(fault="not_the_api", ids="proxy"),
        Rule(fault="status", ids="own", status=200, body='{"id": "{customer_id}", "request": "{request_id}"}'),
    )
    ids = ["active", "swapped", "moved", "far", "html", "cut", "proxy", "own"]
    replies = {i: await client.delete(path(i)) for i in ids}
    assert replies["active"].json()["data"]["data"]["is_active"] is True
    assert replies["swapped"].json()["data"]["data"]["customer_id"] != "swapped"
    assert replies["moved"].headers["location"] == "moved_moved"
    assert (replies["far"].status_code, replies["far"].headers["location"]) == (308, "https://example.org/")
    assert replies["html"].text.startswith("<html>")
    assert replies["cut"].text.startswith('{"status":true')
    with pytest.raises(json.JSONDecodeError):
        replies["cut"].json()
    assert replies["proxy"].headers["content-type"].startswith("text/html")
    assert replies["own"].json()["id"] == "own"
    assert len(replies["own"].json()["request"]) == 32


@pytest.mark.parametrize(("fault", "executed"), [("timeout_before", False), ("timeout_after", True)])
async def test_a_hang_answers_nothing_and_ends_when_the_client_leaves(start: Start, fault: str, executed: bool) -> None:
    simulator, client = await start(Rule(fault=fault))
    before = asyncio.all_tasks()
    with pytest.raises(httpx.ReadTimeout):
        await client.delete(path(), timeout=httpx.Timeout(5.0, read=0.5))
    assert [(e.status, e.executed, e.fault) for e in simulator.log] == [(None, executed, fault)]
    await until(lambda: simulator.stats()["in_flight"] == 0, 20)
    await until(lambda: asyncio.all_tasks() <= before, 20)


async def test_a_hang_ends_when_the_simulator_stops_and_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    simulator = Simulator(
        Scenario(rules=[Rule(fault="timeout_before", ids="hang*"), Rule(fault="latency", latency=60)])
    )
    url = await simulator.start()
    async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=30, trust_env=False) as client:
        calls = [asyncio.create_task(client.delete(path(i))) for i in ("hang_1", "hang_2", "slow")]
        await until(lambda: simulator.stats()["in_flight"] == 3, 20)
        await asyncio.wait_for(simulator.stop(), 5)
        ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [isinstance(error, httpx.TransportError) for error in ended] == [True] * 3
    assert simulator.stats()["in_flight"] == 0
    await until(lambda: asyncio.all_tasks() <= before, 20)


@pytest.mark.parametrize(("fault", "executed"), [("reset_before", False), ("reset_after", True)])
@pytest.mark.parametrize("latency", ["0ms", "10ms"])
def test_a_reset_answers_nothing_and_breaks_the_connection(fault: str, executed: bool, latency: str) -> None:
    with SimulatorThread(Scenario(rules=[Rule(fault=fault, times=1)], latency=latency)) as simulator:
        host, port = simulator.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
            connection.sendall(f"DELETE {path()} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
            with pytest.raises(ConnectionResetError):
                connection.recv(1000)
        assert [(e.status, e.executed, e.fault) for e in simulator.log] == [(None, executed, fault)]
        again = httpx.delete(simulator.url + path(), headers=HEADERS, trust_env=False)
        assert again.status_code == (404 if executed else 200)


async def test_a_reset_of_one_connection_spares_the_others(start: Start) -> None:
    simulator, client = await start(Rule(fault="reset_before", ids="bad*"), latency="5ms")
    ids = [f"{kind}_{n}" for n in range(20) for kind in ("bad", "good")]
    ended = await asyncio.gather(*(client.delete(path(i)) for i in ids), return_exceptions=True)
    for customer_id, result in zip(ids, ended, strict=True):
        if customer_id.startswith("bad"):
            assert isinstance(result, httpx.TransportError)
        else:
            assert isinstance(result, httpx.Response)
            assert result.status_code == 200
    assert simulator.stats()["executed"] == 20


async def test_a_rule_with_times_lets_later_requests_of_an_id_through(start: Start) -> None:
    simulator, client = await start(Rule(fault="server_error", times=2))
    assert [(await client.delete(path())).status_code for _ in range(4)] == [503, 503, 200, 404]
    assert (await client.delete(path("other"))).status_code == 503
    assert [entry.attempt for entry in simulator.log] == [1, 2, 3, 4, 1]


async def test_what_arrives_above_the_rate_limit_gets_429_with_retry_after(start: Start) -> None:
    simulator, client = await start(rate_limit="5/s", retry_after=3)
    replies = await asyncio.gather(*(client.delete(path(f"c{n}")) for n in range(8)))
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(refused) == 3
    assert {reply.headers["retry-after"] for reply in refused} == {"3"}
    assert {entry.fault for entry in simulator.log if entry.status == 429} == {"rate_limit"}
    assert simulator.stats()["executed"] == 5


async def test_an_outage_ends_by_itself(start: Start) -> None:
    _, client = await start(outages=[Outage(fault="server_error", seconds=0.2)])
    assert (await client.delete(path())).status_code == 503
    await asyncio.sleep(0.25)
    assert (await client.delete(path())).status_code == 200


async def test_latency_delays_the_reply_but_not_the_deletion(start: Start) -> None:
    simulator, client = await start(latency="200ms")
    began = time.perf_counter()
    call = asyncio.create_task(client.delete(path()))
    await until(lambda: len(simulator.log) == 1, 20)
    assert (simulator.log[0].executed, simulator.stats()["in_flight"]) == (True, 1)
    assert (await call).status_code == 200
    assert time.perf_counter() - began >= 0.2


async def test_each_delete_is_logged_in_memory_over_http_and_in_the_file(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    simulator, client = await start(Rule(fault="absent", ids="gone"), log=log)
    before = time.time()
    await client.delete(path(), headers={"Idempotency-Key": "k1"})
    await client.delete(path("gone"), headers={"X-Type": "production"})
    lines = (await client.get("/_simulator/log")).text.splitlines()
    entries = [json.loads(line) for line in lines]
    assert before - 1 < entries[0].pop("t") <= entries[1].pop("t") < time.time() + 1
    common = {"attempt": 1, "merchant": "3kqrchza3j"}
    assert entries == [
        {
            **common,
            "id": CUSTOMER,
            "executed": True,
            "status": 200,
            "fault": None,
            "idempotency_key": "k1",
            "type": "sandbox",
        },
        {
            **common,
            "id": "gone",
            "executed": False,
            "status": 404,
            "fault": "absent",
            "idempotency_key": None,
            "type": "production",
        },
    ]
    await until(lambda: log.read_text().splitlines() == lines, 20)
    await client.delete(path())
    await simulator.stop()
    assert len(log.read_text().splitlines()) == 3


async def test_stats_count_what_was_done(start: Start) -> None:
    _, client = await start(Rule(fault="reset_before", ids="reset"))
    for customer_id in ("a", "a", "b"):
        await client.delete(path(customer_id))
    with pytest.raises(httpx.TransportError):
        await client.delete(path("reset"))
    stats = (await client.get("/_simulator/stats")).json()
    assert 1 <= stats.pop("peak_per_second") <= 4
    assert stats == {
        "requests": 4,
        "executed": 2,
        "by_status": {"200": 2, "404": 1, "no_reply": 1},
        "in_flight": 0,
    }


async def test_a_port_in_use_is_one_clear_line(start: Start, tmp_path: Path) -> None:
    _, client = await start()
    port = client.base_url.port
    other = Simulator(Scenario(), log=tmp_path / "log")
    with pytest.raises(SimulatorError, match=f"^port {port} on 127.0.0.1 is in use; choose another"):
        await other.start(port=port or 0)
    with pytest.raises(SimulatorError, match=f"^port {port} on 127.0.0.1 is in use"):
        SimulatorThread(Scenario(), port=port or 0).start()
    await other.start()
    with pytest.raises(SimulatorError, match="runs already"):
        await other.start()
    await other.stop()


async def test_a_log_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    simulator = Simulator(Scenario(), log=tmp_path / "nowhere" / "log")
    with pytest.raises(SimulatorError, match=r"^cannot write the log .*: No such file or directory$"):
        await simulator.start()
    await simulator.stop()


def test_a_thread_that_stops_and_starts_again_is_the_same_upstream(tmp_path: Path) -> None:
    log = tmp_path / "log"
    upstream = SimulatorThread(Scenario(), log=log)
    statuses = []
    for _ in range(2):
        with upstream:
            url = upstream.url
            statuses.append(httpx.delete(url + path(), headers=HEADERS, trust_env=False).status_code)
        with pytest.raises(httpx.ConnectError):
            httpx.delete(url + path(), headers=HEADERS, trust_env=False)
    assert statuses == [200, 404]
    assert [entry.status for entry in upstream.log] == statuses
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == statuses
    assert upstream.stats()["requests"] == 2


def test_serve_runs_until_told_to_stop() -> None:
    stop, ready, urls = threading.Event(), threading.Event(), list[str]()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    thread = threading.Thread(
        target=serve, args=(Scenario(), "127.0.0.1", 0, None), kwargs={"ready": on_ready, "stop": stop}
    )
    thread.start()
    assert ready.wait(5)
    assert httpx.delete(urls[0] + path(), headers=HEADERS, trust_env=False).status_code == 200
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "worker.simulator", *options]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_its_url_first_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    options = ["--log", str(log), "--latency", "1ms", "--rate-limit", "100/s", "--rule", "timeout_after:ids=hang"]
    with subprocess.Popen(command(*options), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.delete(url + path(), headers=HEADERS, trust_env=False).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            httpx.delete(url + path("hang"), headers=HEADERS, timeout=0.1, trust_env=False)
        os.kill(process.pid, number)
        assert process.wait(5) == 0
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == [CUSTOMER, "hang"]


def test_the_command_refuses_a_wrong_rule_in_one_line() -> None:
    ended = subprocess.run(command("--rule", "foo"), capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("simulator: rule 'foo': unknown fault 'foo'; known: ")
    assert ended.stderr.count("\n") == 1
