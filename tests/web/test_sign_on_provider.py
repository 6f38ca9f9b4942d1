"""An identity provider that is away, slow, long, or not what it should be."""

import asyncio
import gzip
from typing import Any

import pytest
from aiohttp import web as provider_web

from tests.web.conftest import Client, client_of
from tests.web.identity_provider import CLIENT_ID
from tests.web.signing_on import PAGE, SignedOn, StartSignOn, says
from worker.web import provider as provider_module
from worker.web.access import COOKIE

Capture = pytest.CaptureFixture[str]


async def refused_to_leave(browser: Client, capfd: Capture, why: str) -> None:
    answer = await browser.get("/session/provider", headers=PAGE)
    assert answer.status_code == 502
    assert "cannot be used now to sign in; try again in a moment, or sign in with a token" in says(answer)
    assert 'name="token"' in answer.text
    assert why in capfd.readouterr().out


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"issuer": "https://evil.example"}, "which is not EXPUNGE_OIDC_ISSUER"),
        ({"issuer": None}, "which is not EXPUNGE_OIDC_ISSUER"),
        ({"token_endpoint": "http://evil.example/token"}, "its token_endpoint is missing, or not https://"),
        ({"token_endpoint": "https://me:pw@evil.example/token"}, "its token_endpoint is missing"),
        ({"jwks_uri": "file:///etc/passwd"}, "its jwks_uri is missing, or not https://"),
        ({"jwks_uri": "https://[::1"}, "its jwks_uri is missing, or not https://"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "its authorization_endpoint is missing, or not https://"),
        ({"authorization_endpoint": None}, "its authorization_endpoint is missing, or not https://"),
    ],
    ids=str,
)
async def test_a_provider_that_describes_itself_wrongly_is_not_used(
    site: SignedOn, browser: Client, metadata: dict[str, Any], why: str, capfd: Capture
) -> None:
    site.idp.metadata = metadata
    await refused_to_leave(browser, capfd, why)


async def huge() -> provider_web.StreamResponse:
    return provider_web.Response(body=b"{" + b" " * (300 << 10) + b"}")


async def slow() -> provider_web.StreamResponse:
    await asyncio.sleep(30)
    return provider_web.Response()


async def elsewhere() -> provider_web.StreamResponse:
    raise provider_web.HTTPFound("http://127.0.0.1:1/")


async def html() -> provider_web.StreamResponse:
    return provider_web.Response(text="<h1>Bad gateway</h1>", status=502, content_type="text/html")


async def busy() -> provider_web.StreamResponse:
    return provider_web.json_response({"error": "temporarily_unavailable", "keys": []}, status=503)


async def packed() -> provider_web.StreamResponse:
    return provider_web.Response(
        body=gzip.compress(b"{" + b" " * 10_000_000 + b"}"), headers={"Content-Encoding": "gzip"}
    )


BROKEN = [
    (huge, "its answer is too long"),
    (slow, "it does not answer: TimeoutError"),
    (elsewhere, "it answered 302"),
    (html, "it answered 502, and no JSON object"),
    (busy, "it answered 503"),
    (packed, "it answered 200, and no JSON object"),
]


@pytest.mark.parametrize(("answer", "why"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/keys"])
async def test_a_provider_that_answers_badly_is_not_waited_for_and_can_be_tried_again(
    site: SignedOn,
    browser: Client,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    answer: Any,
    why: str,
    path: str,
) -> None:
    monkeypatch.setattr(provider_module, "_PATIENCE", 0.3)
    site.idp.answers[path] = answer
    if path.startswith("/."):
        await refused_to_leave(browser, capfd, why)
    else:
        refused = await site.sign_in(browser, "ada")
        assert refused.status_code == 502
        assert why in capfd.readouterr().out
    assert COOKIE not in browser.cookies
    site.idp.answers.clear()
    assert (await site.sign_in(browser, "ada")).status_code == 200


async def test_a_provider_that_is_away_is_said_to_be(start: StartSignOn, capfd: Capture) -> None:
    site = await start(oidc_issuer="http://127.0.0.1:1")
    async with client_of(site.app) as browser:
        await refused_to_leave(browser, capfd, "it does not answer: ClientConnectorError")


async def test_a_wrong_secret_is_for_an_admin_to_mend(site: SignedOn, browser: Client, capfd: Capture) -> None:
    site.idp.clients[CLIENT_ID] = "another"
    assert (await site.sign_in(browser, "ada")).status_code == 502
    assert "check EXPUNGE_OIDC_CLIENT_ID and EXPUNGE_OIDC_CLIENT_SECRET" in capfd.readouterr().out
