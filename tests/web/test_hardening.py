"""What the shell and the caps promise beside what is refused: the policy, what is read, what is counted and said."""

from typing import Any

import pytest
from fastapi import FastAPI

from tests.web.conftest import ORIGIN, Client, Serve, add_token, client_of, problem
from worker.domain.people import Role
from worker.domain.rates import Rate
from worker.web.limits import Limits
from worker.web.problems import Problem

CSV = {"Content-Type": "text/csv"}


async def test_nothing_is_loaded_framed_or_sent_but_from_and_to_this_server(stranger: Client) -> None:
    headers = (await stranger.get("/")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert {policy.pop(name) for name in ("default-src", "base-uri", "frame-ancestors")} == {"'none'"}
    assert set(policy) >= {"script-src", "style-src", "img-src", "connect-src", "form-action"}
    assert set(policy.values()) == {"'self'"}
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("origin", [f"{ORIGIN}:8443", "https://expunge.test:80"])
async def test_another_port_is_another_site(stranger: Client, origin: str) -> None:
    problem(await stranger.post("/session/end", headers={"Origin": origin}), "cross_site")


async def called(app: FastAPI, path: str, headers: dict[str, str], *messages: dict[str, Any]) -> tuple[list[Any], int]:
    """A POST by ASGI itself, with these messages from its sender; what was answered, and how many were read."""
    answers, left = list[Any](), list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("expunge.test", 443), "scheme": "https", "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip
    await app(scope, receive, send)
    return answers, len(messages) - len(left)


async def test_a_body_that_is_announced_as_too_large_is_not_read(app: FastAPI) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(1 << 30)}
    answers, read = await called(app, "/session", headers, {"type": "http.request", "body": b"x", "more_body": True})
    assert (answers[0]["status"], read) == (413, 0)


async def test_who_goes_away_before_the_answer_is_counted_as_such(app: FastAPI, ada: Client) -> None:
    headers = CSV | {"Authorization": ada.headers["authorization"]}
    answers, _ = await called(app, "/v1/batches", headers, {"type": "http.disconnect"})
    assert answers == []
    text = (await ada.get("/metrics")).text
    assert 'method="POST",route="/v1/batches",status="499"} 1.0' in text


async def test_what_is_larger_than_a_form_passes_where_it_is_wanted(ada: Client) -> None:
    """Files of pages and of plans, and customers on hold: up to their own caps."""
    ids = [f"customer_{number:090d}" for number in range(20_000)]
    content = "\n".join(["customer_id", *ids]).encode()
    assert len(content) > 1 << 20
    assert (await ada.post("/v1/plans", content=content, headers=CSV)).json()["rows"] == 20_000
    kept = await ada.post("/new", files={"file": ("a.csv", content)}, headers={"Accept": "text/html"})
    assert kept.status_code == 303
    held = await ada.post("/v1/holds", json={"customer_ids": ids, "ground": "7/2026"})
    assert held.json() == {"on_hold": 20_000, "changed": 20_000, "deleted_earlier": []}
    released = await ada.post("/v1/holds/release", json={"customer_ids": ids})
    assert released.json()["released"] == 20_000


async def test_holds_have_a_cap_on_bytes_and_on_customers(ada: Client) -> None:
    headers = {"Content-Type": "application/json"}
    problem(await ada.post("/v1/holds", content=b" " * (18 << 20), headers=headers), "too_large")
    many = {"customer_ids": [f"c{number}" for number in range(100_001)], "ground": "7/2026"}
    assert "customer_ids" in problem(await ada.post("/v1/holds", json=many), "request")
    problem(await ada.post("/v1/holds", content=b"<xml/>", headers={"Content-Type": "text/xml"}), "media_type")
    assert (await ada.get("/v1/holds")).json()["total"] == 0


@pytest.mark.parametrize(
    "fields", [{"source": "x" * 5_000}, {f"field{number}": "x" for number in range(21)}], ids=["length", "number"]
)
async def test_the_fields_of_a_form_are_capped(ada: Client, fields: dict[str, str]) -> None:
    answer = await ada.post("/v1/batches", files={"file": ("a.csv", b"customer_id\nc1\n")}, data=fields)
    assert "the form cannot be read" in problem(answer, "request")


async def test_what_was_wrong_in_a_request_is_named_and_not_repeated(ada: Client) -> None:
    for path in ("/v1/batches?limit=customer_17", "/v1/batches?state=customer_17", "/v1/audit?before=customer_17"):
        answer = await ada.get(path)
        problem(answer, "request")
        assert "customer_17" not in answer.text
    answer = await ada.post("/v1/holds", json={"customer_ids": "customer_17", "ground": "x"})
    problem(answer, "request")
    assert "customer_17" not in answer.text


async def test_every_window_of_the_limit_holds(serve: Serve) -> None:
    app = await serve(web_rate_limit=Rate.parse("100/s,3/h"))
    async with client_of(app, await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)) as client:
        answers = [await client.get("/v1/batches") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] == "3600"


async def test_a_page_that_is_refused_says_when_to_come_again_as_well(serve: Serve) -> None:
    app = await serve(web_rate_limit=Rate.parse("1/h"))
    async with client_of(app, await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)) as client:
        answers = [await client.get("/batches", headers={"Accept": "text/html"}) for _ in range(2)]
    assert (answers[1].status_code, answers[1].headers["retry-after"]) == (429, "3600")
    assert "Wait a moment" in answers[1].text


async def test_strangers_have_a_limit_for_each_address_by_the_second_and_by_the_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, now = Limits(Rate.parse("1/s")), [1e9]
    monkeypatch.setattr("time.time", lambda: now[0])
    for _ in range(200):
        now[0] += 0.1
        await limits.count_stranger("192.0.2.1")
    with pytest.raises(Problem, match="at most 200 requests in 60 s"):
        await limits.count_stranger("192.0.2.1")
    await limits.count_stranger("192.0.2.2")
