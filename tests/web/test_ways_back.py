"""Who signs in is led to the page that they asked for, and never to another site."""

import html
import re

import pytest
from fastapi import FastAPI

from tests.web.conftest import Client, add_token, client_of
from tests.web.signing_on import BACK, PAGE, SignedOn
from worker.domain.people import Role
from worker.web.ways_back import HOME, way_back

DEEP = "/batches?state=paused&submitted_by=anna"
ELSEWHERE = [
    *("//evil.example", "///evil.example", "https://evil.example/", "evil.example", "javascript:alert(1)", ""),
    *(
        "/\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/batches//evil.example",
        " /batches",
    ),
    *("/.//evil.example", "/batches\r\nSet-Cookie: a=b", "/batches\x00", "/ä", "/" + "x" * 1_000, "/", "/session/end"),
]


def hidden(text: str) -> str:
    found = re.search(r'name="to" value="([^"]*)"', text)
    assert found, text
    return html.unescape(found[1])


@pytest.mark.parametrize(
    "text", ["/batches/6h0sgvnab11e7", DEEP, "/audit?batch=x&before=1-2", "/new/a?column=a%2F%2Fb"]
)
def test_a_page_of_this_server_is_a_way_back(text: str) -> None:
    assert way_back(text) == text


@pytest.mark.parametrize("text", ELSEWHERE)
def test_nothing_else_is(text: str) -> None:
    assert way_back(text) == HOME


async def begin(client: Client, app: FastAPI, to: str, token: str = "") -> str:
    token = token or await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    answer = await client.post("/session", data={"token": token, "to": to}, headers=PAGE)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def test_a_deep_link_is_followed_after_signing_in(app: FastAPI, ada: Client, stranger: Client) -> None:  # noqa: ARG001
    refused = await stranger.get(DEEP, headers=PAGE)
    assert refused.status_code == 401
    again = await stranger.post("/session", data={"token": "wrong", "to": hidden(refused.text)}, headers=PAGE)
    assert (again.status_code, hidden(again.text)) == (401, DEEP), "a slip in the token does not lose it"
    assert await begin(stranger, app, hidden(again.text)) == DEEP


@pytest.mark.parametrize("text", ELSEWHERE)
async def test_signing_in_leads_to_no_other_site(app: FastAPI, ada: Client, text: str) -> None:  # noqa: ARG001
    async with client_of(app) as client:
        assert await begin(client, app, text) == HOME


@pytest.mark.parametrize(
    ("referer", "to"),
    [
        ("https://expunge.test/batches/6h0sgvnab11e7", "/batches/6h0sgvnab11e7"),
        ("https://evil.example/batches/6h0sgvnab11e7", HOME),
        ("https://expunge.test//evil.example", HOME),
        ("https://[", HOME),
        ("", HOME),
    ],
)
async def test_who_was_signed_out_meanwhile_comes_back_to_the_page_whose_form_they_sent(
    ada: Client,  # noqa: ARG001
    stranger: Client,
    referer: str,
    to: str,
) -> None:
    headers = PAGE | {"Referer": referer}
    refused = await stranger.post("/batches/6h0sgvnab11e7/pause", headers=headers)
    assert (refused.status_code, hidden(refused.text)) == (401, to)


async def test_by_the_provider_too(site: SignedOn, browser: Client) -> None:
    door = (await browser.get(DEEP, headers=PAGE)).text
    found = re.search(r'href="(/session/provider[^"]*)"', door)
    assert found
    away = await browser.get(html.unescape(found[1]), headers=PAGE)
    came = await browser.get(site.idp.decide(away.headers["location"], "anna"), headers=BACK)
    assert came.status_code == 200
    assert f'content="0; url={html.escape(DEEP)}"' in came.text
    assert f'href="{html.escape(DEEP)}"' in came.text


async def test_who_is_denied_by_the_provider_may_try_again_from_there(site: SignedOn, browser: Client) -> None:
    away = await browser.get("/session/provider", params={"to": DEEP}, headers=PAGE)
    came = await browser.get(site.idp.decide(away.headers["location"], "nobody"), headers=BACK)
    assert (came.status_code, hidden(came.text)) == (403, DEEP)


@pytest.mark.parametrize("text", ELSEWHERE)
async def test_the_provider_leads_to_no_other_site(site: SignedOn, browser: Client, text: str) -> None:
    away = await browser.get("/session/provider", params={"to": text}, headers=PAGE)
    came = await browser.get(site.idp.decide(away.headers["location"], "anna"), headers=BACK)
    assert f'content="0; url={HOME}"' in came.text


async def test_what_the_provider_sent_along_is_in_no_form(site: SignedOn, browser: Client) -> None:  # noqa: ARG001
    came = await browser.get("/session/provider/return?state=x&code=secret", headers=BACK)
    assert (came.status_code, hidden(came.text)) == (401, HOME)
    assert "secret" not in came.text
