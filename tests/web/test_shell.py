"""What holds for every request and answer, whichever route it is for."""

import logging

import pytest
from fastapi import FastAPI
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.web.conftest import ORIGIN, Client, Serve, client_of, problem
from worker.web.access import COOKIE


@pytest.mark.parametrize("path", ["/healthz", "/v1/batches", "/nowhere"])
async def test_every_answer_has_the_headers_of_the_shell(stranger: Client, path: str) -> None:
    headers = (await stranger.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": ORIGIN}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site", "Origin": ORIGIN}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": ORIGIN}, True),
        ({"Origin": "https://evil.test"}, False),
        ({"Origin": "https://expunge.test.evil.test"}, False),
        ({"Origin": "null"}, False),
        ({}, True),
        ({"Cookie": f"{COOKIE}=word"}, False),
        ({"Cookie": f"{COOKIE}=word", "Authorization": "Bearer x"}, True),
        ({"Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
async def test_what_changes_something_must_not_come_from_another_site(
    stranger: Client, headers: dict[str, str], *, passes: bool
) -> None:
    response = await stranger.post("/session/end", headers=headers)
    if passes:
        assert response.status_code == 303
    else:
        problem(response, "cross_site")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
async def test_so_it_is_for_every_method_that_is_not_safe(stranger: Client, method: str) -> None:
    problem(await stranger.request(method, "/v1/batches", headers={"Sec-Fetch-Site": "cross-site"}), "cross_site")


async def test_a_form_without_end_is_cut_off(stranger: Client) -> None:
    problem(await stranger.post("/session", data={"token": "x" * (1 << 21)}), "too_large")


@pytest.mark.parametrize(
    ("path", "size", "headers", "status"),
    [
        ("/holds", 1 << 21, {}, 413),
        ("/holds", 1, {"Sec-Fetch-Site": "cross-site"}, 403),
        ("/v1/holds", 1, {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_what_the_shell_refuses_is_a_page_for_a_browser_and_a_problem_for_the_api(
    ada: Client, path: str, size: int, headers: dict[str, str], status: int
) -> None:
    response = await ada.post(path, data={"ground": "x" * size}, headers=headers | {"Accept": "text/html"})
    assert response.status_code == status
    is_page = response.headers["content-type"].startswith("text/html")
    assert is_page is not path.startswith("/v1/")
    assert "unsafe" not in response.headers["content-security-policy"]


async def test_an_unforeseen_error_tells_nothing_but_where(
    serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    app: FastAPI = await serve()

    @app.get("/fails")
    async def fails() -> None:
        raise KeyError("customer_17")

    async with client_of(app) as client:
        response = await client.get("/fails")
    problem(response, "internal")
    shown = response.text + "".join(capsys.readouterr()) + caplog.text
    assert "customer_17" not in shown
    assert "fails:" in shown
    assert logging.getLogger("uvicorn.access").handlers == []


@pytest.mark.parametrize("error", [RedisConnectionError("redis://user:password@host"), TimeoutError()])
async def test_while_redis_is_away_it_is_not_ready_but_alive(
    app: FastAPI, stranger: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def away() -> None:
        raise error

    monkeypatch.setattr(app.state.web.store.redis, "ping", away)
    response = await stranger.get("/readyz")
    assert "password" not in problem(response, "unavailable")
    assert response.headers["retry-after"] == "5"
    assert (await stranger.get("/healthz")).json() == {"ok": True}


@pytest.mark.parametrize(
    ("method", "path", "content", "detail"),
    [
        ("GET", "/v1/nowhere", b"", "there is no such address: `/v1/openapi.json` has those of the API"),
        ("PUT", "/v1/batches", b"", "this method is not for this address: `Allow` names those that are"),
        ("POST", "/v1/holds", b"{", "body is wrong, it is no JSON: `/v1/openapi.json` says what is taken"),
        ("POST", "/v1/holds", b"[]", "the body is wrong, input should be a valid dictionary or instance of HoldList"),
        (
            *("POST", "/v1/holds", b'{"customer_ids": []}'),
            "customer_ids is wrong, list should have at least 1 item, not 0: `/v1/openapi.json` says what is taken",
        ),
    ],
)
async def test_what_the_framework_refuses_is_a_sentence_that_says_what_to_do(
    ada: Client, method: str, path: str, content: bytes, detail: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await ada.request(method, path, content=content, headers=headers)
    found = problem(response, response.json()["type"].rpartition(":")[2])
    assert found.startswith(detail)
    assert response.status_code != 405 or response.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/batches", "GET, POST"),
        ("PUT", "/v1/holds", "GET, POST"),
        ("GET", "/v1/holds/release", "POST"),
        ("POST", "/v1/batches/6h0sgvnab11e7", "GET"),
        ("DELETE", "/batches/6h0sgvnab11e7/cancel", "GET, POST"),
        ("POST", "/readyz", "GET, HEAD"),
        ("POST", "/static/expunge.css", "GET, HEAD"),
    ],
)
async def test_allow_names_every_method_of_an_address(ada: Client, method: str, path: str, allowed: str) -> None:
    response = await ada.request(method, path)
    problem(response, "method")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_may_ask_by_head(stranger: Client, path: str) -> None:
    assert (await stranger.head(path)).status_code == 200
