"""A session of the page: how its cookie is set, how long it lasts, and what ends it."""

from http.cookies import SimpleCookie

import httpx
from fastapi import FastAPI

from tests.conftest import all_keys
from tests.web.conftest import Client, add_token, client_of, problem
from worker.domain.people import Role
from worker.store.tokens import Tokens
from worker.web.access import COOKIE
from worker.wiring import Store

TWELVE_HOURS = 12 * 3600
WRONG = "expunge_00000000_" + "x" * 43


async def test_the_cookie_is_of_this_host_alone_and_lasts_twelve_hours(
    app: FastAPI,
    ada: Client,  # noqa: ARG001 - the first token is an admin's
    web_store: Store,
) -> None:
    token = await add_token(web_store.tokens, "vera", Role.VIEWER)
    async with client_of(app) as page:
        begun = await page.post("/session", data={"token": token})
    (name, cookie), *others = SimpleCookie(begun.headers["set-cookie"]).items()
    assert (name, others) == ("__Host-expunge", [])
    assert cookie["max-age"] == str(TWELVE_HOURS)
    assert cookie["domain"] == ""
    (key,) = await all_keys(web_store.redis, "expunge:session:*")
    assert TWELVE_HOURS - 60 < await web_store.redis.ttl(key) <= TWELVE_HOURS
    kept = f"{key} {await web_store.redis.get(key)!r}"
    assert cookie.value not in kept, "whoever reads the store cannot use it"
    assert token not in kept


async def test_who_signs_out_has_no_cookie_any_more(stranger: Client) -> None:
    ended = await stranger.post("/session/end", headers={"Origin": "https://expunge.test"})
    cookie = SimpleCookie(ended.headers["set-cookie"])["__Host-expunge"]
    assert (cookie.value, cookie["max-age"]) == ("", "0")
    assert cookie["secure"]
    assert cookie["path"] == "/"


async def test_a_session_is_over_with_its_token_even_if_another_has_its_id(
    app: FastAPI,
    ada: Client,  # noqa: ARG001
    web_store: Store,
) -> None:
    tokens: Tokens = web_store.tokens
    token = await add_token(tokens, "vera", Role.VIEWER)
    async with client_of(app) as page:
        await page.post("/session", data={"token": token})
        await tokens.revoke(token.split("_")[1], "ada")
        await tokens.add(token[:-1] + ("A" if token[-1] != "A" else "B"), "otto", Role.ADMIN, actor="ada")
        problem(await page.get("/v1/batches"), "identity")


async def test_a_wrong_token_is_not_mended_by_a_session(app: FastAPI, ada: Client, web_store: Store) -> None:  # noqa: ARG001
    token = await add_token(web_store.tokens, "vera", Role.VIEWER)
    async with client_of(app) as page:
        await page.post("/session", data={"token": token})
        assert (await page.get("/v1/batches")).status_code == 200
        problem(await page.get("/v1/batches", headers={"Authorization": f"Bearer {WRONG}"}), "identity")
        problem(await page.get("/v1/batches", headers={"Authorization": f"Basic {token}"}), "identity")


async def test_tokens_cannot_be_guessed_at_the_door(stranger: Client) -> None:
    answers = list[httpx.Response]()
    while len(answers) < 250 and (not answers or answers[-1].status_code != 429):
        answers.append(await stranger.post("/session", data={"token": WRONG}))
    assert [answer.status_code for answer in answers] == [401] * (len(answers) - 1) + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert COOKIE not in stranger.cookies


async def test_the_door_leads_to_the_batches_once_somebody_is_signed_in(ada: Client, stranger: Client) -> None:
    assert "Your token" in (await stranger.get("/")).text
    entered = await ada.get("/")
    assert (entered.status_code, entered.headers["location"]) == (303, "/batches")
