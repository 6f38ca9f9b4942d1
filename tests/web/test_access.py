"""Who may use the API: a token or a session says who asks, and each route says what it is for."""

import pytest
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts

from tests.conftest import UPSTREAM, make_settings, submit
from tests.web.conftest import Client, Serve, add_token, client_of, problem
from tests.web.reading import until_refused
from worker.domain.batches import Environment, Target
from worker.domain.people import Role
from worker.domain.rates import Rate
from worker.web.access import COOKIE, acts_of
from worker.web.app import PUBLIC, create_app
from worker.web.inbox import is_signed
from worker.wiring import Store


def routes() -> list[RouteContext]:
    app = create_app(make_settings("redis://localhost:1", upstream_name=UPSTREAM))
    return list(iter_route_contexts(app.router.routes))


def test_there_are_routes() -> None:
    assert len(routes()) > 6


def asks_for_a_signature(route: RouteContext) -> bool:
    return hasattr(route.original_route, "dependant") and is_signed(route.dependant)


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{sorted(route.methods or [])} {route.path}")
def test_every_route_has_one_act_or_takes_only_what_is_signed_or_is_public_on_purpose(route: RouteContext) -> None:
    """Also what is no function of ours, such as a mounted folder."""
    needed = acts_of(route.dependant) if hasattr(route.original_route, "dependant") else set()
    assert len(needed) + asks_for_a_signature(route) == (0 if route.path in PUBLIC else 1)


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{sorted(route.methods or [])} {route.path}")
def test_no_route_lets_the_framework_read_its_body_before_it_is_known_who_asks(route: RouteContext) -> None:
    assert route.path in PUBLIC or route.body_field is None


ASKING = [
    (method, route.path or "")
    for route in routes()
    if route.path not in PUBLIC and not asks_for_a_signature(route)
    for method in sorted(route.methods or ())
]


@pytest.mark.parametrize(("method", "path"), ASKING)
async def test_every_route_that_is_not_public_refuses_a_stranger(stranger: Client, method: str, path: str) -> None:
    """Whatever else is wrong with the request: it is the first thing that is looked at."""
    address = path.replace("{batch_id}", "6h0sgvnab11e7")
    problem(await stranger.request(method, address), "identity")
    wrong = await stranger.request(
        method, address, content=b"{", params={"limit": "x"}, headers={"Content-Type": "application/json"}
    )
    problem(wrong, "identity")


async def test_while_nobody_has_a_token_it_says_how_the_first_is_made(stranger: Client) -> None:
    detail = problem(await stranger.get("/v1/batches"), "identity")
    assert "expunge token add NAME --role admin" in detail


async def test_without_a_token_nothing_is_shown(ada: Client, stranger: Client) -> None:
    assert (await ada.get("/v1/batches")).json() == {"batches": [], "next": None}
    response = await stranger.get("/v1/batches")
    assert "Authorization: Bearer" in problem(response, "identity")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer expunge_00000000_" + "x" * 43, "Bearer ", "Basic YWRhOmFkYQ==", "ä"])
async def test_a_wrong_token_is_refused(ada: Client, app: FastAPI, header: str) -> None:  # noqa: ARG001
    async with client_of(app) as client:
        response = await client.get("/v1/batches", headers={b"Authorization": header.encode()})
    problem(response, "identity")


async def refusals(store: Store) -> list[tuple[str | None, str, str]]:
    noted = [entry for entry in [each async for each in store.audit.entries()] if entry.deed == "refused"]
    return [(entry.actor, entry.detail["act"], entry.detail["guard"]) for entry in noted]


async def test_what_is_made_up_does_not_fill_the_audit_trail(web_store: Store, ada: Client, app: FastAPI) -> None:  # noqa: ARG001
    """Nor what is missing: only the counters of requests have it."""
    async with client_of(app) as client:
        await client.get("/v1/batches")
        for shown in (
            {"Authorization": "Bearer expunge_00000000_" + "x" * 43},
            {"Authorization": "Bearer word"},
            {"Cookie": f"{COOKIE}=word"},
        ):
            problem(await client.get("/v1/batches", headers=shown), "identity")
    assert await refusals(web_store) == []


async def test_a_wrong_secret_and_what_was_revoked_are_noted(web_store: Store, ada: Client, app: FastAPI) -> None:
    token = await add_token(web_store.tokens, "vera", Role.VIEWER)
    mine = ada.headers["Authorization"]
    async with client_of(app) as client:
        assert (await client.post("/session", data={"token": token})).status_code == 303
        await web_store.tokens.revoke(token.split("_")[1], "ada")
        for shown in ({"Authorization": mine[:-9] + "x" * 9}, {"Authorization": f"Bearer {token}"}, {}):
            problem(await client.get("/v1/batches", headers=shown), "identity")
    assert await refusals(web_store) == [(None, "look", "identity")] * 3


async def test_a_revoked_token_is_refused_and_so_is_its_session(web_store: Store, app: FastAPI, ada: Client) -> None:  # noqa: ARG001
    token = await add_token(web_store.tokens, "vera", Role.VIEWER)
    async with client_of(app) as page, client_of(app, token) as program:
        assert (await page.post("/session", data={"token": token})).status_code == 303
        assert (await page.get("/v1/batches")).status_code == 200
        await web_store.tokens.revoke(token.split("_")[1], "ada")
        problem(await page.get("/v1/batches"), "identity")
        problem(await program.get("/v1/batches"), "identity")


async def test_a_session_lasts_until_it_is_ended(web_store: Store, app: FastAPI, ada: Client) -> None:  # noqa: ARG001
    token = await add_token(web_store.tokens, "vera", Role.VIEWER)
    async with client_of(app) as page:
        begun = await page.post("/session", data={"token": f" {token}\n"})
        assert begun.headers["location"] == "/batches"
        cookie = begun.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert token not in cookie
        assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        word = page.cookies[COOKIE]
        ended = await page.post("/session/end", headers={"Origin": "https://expunge.test"})
        assert ended.status_code == 303
        problem(await page.get("/v1/batches", headers={"Cookie": f"{COOKIE}={word}"}), "identity")


async def test_no_session_begins_with_a_wrong_token(ada: Client, stranger: Client) -> None:  # noqa: ARG001
    response = await stranger.post("/session", data={"token": "expunge_00000000_" + "x" * 43})
    problem(response, "identity")
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "other",
    [
        Target(Environment.SANDBOX, "m2", "0" * 12),
        Target(Environment.PRODUCTION, "m1", "0" * 12),
        Target(Environment.SANDBOX, "m1", "0" * 12),
    ],
    ids=["merchant", "environment", "upstream"],
)
async def test_another_target_s_batch_is_not_there(ada: Client, web_store: Store, other: Target) -> None:
    mine = await submit(web_store.batches, ["c1"])
    theirs = await submit(web_store.batches, ["c1"], target=other)
    assert (await ada.get(f"/v1/batches/{mine.batch_id}")).json()["batch"] == mine.batch_id
    problem(await ada.get(f"/v1/batches/{theirs.batch_id}"), "not_found")
    assert [batch["batch"] for batch in (await ada.get("/v1/batches")).json()["batches"]] == [mine.batch_id]


async def test_somebody_who_asks_too_often_is_told_to_wait(serve: Serve) -> None:
    app = await serve(web_rate_limit=Rate.parse("3/h"))
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    other = await add_token(app.state.web.store.tokens, "bea", Role.ADMIN)
    async with client_of(app, token) as client, client_of(app, other) as another:
        answers = [await client.get("/v1/batches") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["retry-after"] == "3600"
        assert (await another.get("/v1/batches")).status_code == 200


async def test_an_address_without_a_token_is_limited_as_well(stranger: Client) -> None:
    answers = await until_refused(lambda: stranger.get("/v1/batches"))
    assert answers == [401] * (len(answers) - 1) + [429]
