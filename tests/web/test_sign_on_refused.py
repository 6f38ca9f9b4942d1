"""Tokens, codes and states that must not let anybody in, each broken by the provider or by another browser."""

import asyncio
import base64
import hmac
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.web.conftest import ORIGIN, Client, client_of
from tests.web.identity_provider import CLIENT_ID, IdentityProvider
from tests.web.signing_on import BACK, SignedOn, refused_and_noted, says
from worker.store import keys
from worker.web.access import COOKIE
from worker.web.single_sign_on import TRIP


def now() -> int:
    return int(time.time())


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "invalid claim: nonce"),
        ({"nonce": None}, "missing claim: nonce"),
        ({"nonce": ""}, "invalid claim: nonce"),
        ({"iss": "https://evil.example"}, "invalid claim: iss"),
        ({"iss": None}, "missing claim: iss"),
        ({"aud": "another"}, "invalid claim: aud"),
        ({"aud": None}, "missing claim: aud"),
        ({"aud": ["another"]}, "invalid claim: aud"),
        ({"aud": [CLIENT_ID, "another"]}, "missing claim: azp"),
        ({"aud": [CLIENT_ID, "another"], "azp": "another"}, "invalid claim: azp"),
        ({"azp": "another"}, "invalid claim: azp"),
        ({"exp": now() - 90}, "expired token: exp"),
        ({"exp": None}, "missing claim: exp"),
        ({"exp": "tomorrow"}, "invalid claim: exp"),
        ({"iat": now() + 900}, "invalid claim: iat"),
        ({"iat": None}, "missing claim: iat"),
        ({"nbf": now() + 900}, "invalid claim: nbf"),
        ({"sub": None}, "missing claim: sub"),
        ({"sub": ""}, "invalid claim: sub"),
        ({"sub": 7}, "invalid claim: sub"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_token_that_says_the_wrong_thing_lets_nobody_in(
    site: SignedOn, browser: Client, claims: dict[str, Any], why: str
) -> None:
    site.idp.claims = claims
    answer = await site.sign_in(browser, "ada")
    assert answer.status_code == 401
    assert f"({why}); sign in again" in says(answer)
    await refused_and_noted(site, browser, "identity")


async def test_a_token_for_several_is_taken_if_it_was_made_for_us(site: SignedOn, browser: Client) -> None:
    site.idp.claims = {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert (await site.sign_in(browser, "ada")).status_code == 200


NONE = b'{"alg":"none"}'


def by_another_key(idp: IdentityProvider, claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": idp.key.kid}, claims, RSAKey.generate_key(2048))


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def unsigned(idp: IdentityProvider, claims: dict[str, Any]) -> str:
    return f"{encoded(NONE)}.{idp.signed(claims).split('.')[1]}."


def by_the_public_key(idp: IdentityProvider, claims: dict[str, Any]) -> str:
    """What a checker that believes the header would verify with the public key as a shared secret."""
    head = encoded(json.dumps({"alg": "HS256", "kid": idp.key.kid}).encode())
    signed = f"{head}.{idp.signed(claims).split('.')[1]}"
    return f"{signed}.{encoded(hmac.digest(idp.key.as_pem(private=False), signed.encode(), 'sha256'))}"


def altered(idp: IdentityProvider, claims: dict[str, Any]) -> str:
    head, _, signature = idp.signed(claims).split(".")
    claims["realm_access"] = {"roles": ["ex-admin"]}
    return ".".join([head, idp.signed(claims).split(".")[1], signature])


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (by_another_key, "bad signature"),
        (altered, "bad signature"),
        (unsigned, "unsupported algorithm"),
        (by_the_public_key, "unsupported algorithm"),
        (lambda *_: "no.token", "decode error"),
        (lambda *_: "", "decode error"),
        (lambda *_: "a" * 150_000, "exceeded size"),
    ],
    ids=["another key", "altered", "none", "HS256", "no token", "empty", "long"],
)
async def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    site: SignedOn, browser: Client, forge: Callable[[IdentityProvider, dict[str, Any]], str], why: str
) -> None:
    site.idp.id_token = lambda claims: forge(site.idp, claims)
    answer = await site.sign_in(browser, "vera")
    assert answer.status_code == 401
    assert f"({why})" in says(answer)
    await refused_and_noted(site, browser, "identity")


async def test_a_code_that_the_provider_refuses_lets_nobody_in(site: SignedOn, browser: Client) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    answer = await browser.get(re.sub("code=[^&]+", "code=another", address), headers=BACK)
    assert answer.status_code == 401
    assert "(the code does not count)" in says(answer)
    await refused_and_noted(site, browser, "identity")


async def test_a_code_that_was_made_for_another_trip_lets_nobody_in(site: SignedOn, browser: Client) -> None:
    """PKCE: whoever steals a code does not have what it was asked with."""
    stolen = site.idp.decide(await site.leave(browser), "ada")
    code = re.search("code=([^&]+)", stolen)
    async with client_of(site.app) as thief:
        own = site.idp.decide(await site.leave(thief), "nobody")
        answer = await thief.get(re.sub("code=[^&]+", code[0] if code else "", own), headers=BACK)
        assert "(the code does not count)" in says(answer)
        await refused_and_noted(site, thief, "identity")


async def test_an_answer_that_names_another_issuer_lets_nobody_in(site: SignedOn, browser: Client) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    answer = await browser.get(f"{address}&iss=https://evil.example", headers=BACK)
    assert "(it came from another provider)" in says(answer)
    await refused_and_noted(site, browser, "identity")


async def test_a_provider_that_names_itself_always_must(site: SignedOn, browser: Client) -> None:
    site.idp.metadata["authorization_response_iss_parameter_supported"] = True
    address = site.idp.decide(await site.leave(browser), "ada")
    assert (await browser.get(f"{address}&iss={site.idp.url}", headers=BACK)).status_code == 200
    assert "(it came from another provider)" in says(await site.sign_in(browser, "ada"))


async def test_somebody_who_denies_is_told_so_without_the_provider_s_words(site: SignedOn, browser: Client) -> None:
    answer = await site.sign_in(browser, None)
    assert answer.status_code == 401
    assert "says that sign-in was denied or cancelled; sign in again" in says(answer)
    assert "you denied it" not in answer.text
    await refused_and_noted(site, browser, "identity")


@pytest.mark.parametrize("error", ["server_error", "<b>x</b>", ""])
async def test_an_error_of_the_provider_lets_nobody_in(site: SignedOn, browser: Client, error: str) -> None:
    state = parse_qs(urlsplit(await site.leave(browser)).query)["state"][0]
    answer = await browser.get("/session/provider/return", params={"state": state, "error": error}, headers=BACK)
    assert "could not sign you in" in says(answer)
    assert re.findall(r"\(.*\)", says(answer)) == (["(server_error)"] if error == "server_error" else [])
    await refused_and_noted(site, browser, "identity")


# --- the state ---


async def not_known(browser: Client, address: str) -> None:
    answer = await browser.get(address, headers=BACK)
    assert answer.status_code == 401
    assert says(answer).startswith("This sign-in is not known: it took longer than 10 minutes")
    assert f"not at {ORIGIN}; sign in again from there" in says(answer)
    assert COOKIE not in browser.cookies


async def test_another_state_lets_nobody_in(site: SignedOn, browser: Client) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    await not_known(browser, re.sub("state=[^&]+", "state=another", address))
    await not_known(browser, re.sub("state=[^&]+&", "", address))
    assert "/token" not in site.idp.asked
    assert (await browser.get(address, headers=BACK)).status_code == 200, "the right one still counts"


async def test_a_state_counts_once(site: SignedOn, browser: Client) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    word = browser.cookies[TRIP]
    assert (await browser.get(address, headers=BACK)).status_code == 200
    browser.cookies.clear()
    await not_known(browser, address)
    browser.cookies.set(TRIP, word)
    await not_known(browser, address)
    assert site.idp.asked.count("/token") == 1


async def test_another_browser_s_state_lets_nobody_in_and_is_not_used_up(site: SignedOn, browser: Client) -> None:
    """Else a link could sign a victim in as the attacker, whose batches they would then submit."""
    address = site.idp.decide(await site.leave(browser), "ada")
    async with client_of(site.app) as fresh, client_of(site.app) as under_way:
        await not_known(fresh, address)
        await site.leave(under_way)
        await not_known(under_way, address)
    assert (await browser.get(address, headers=BACK)).status_code == 200


async def test_a_trip_that_takes_too_long_lets_nobody_in(site: SignedOn, browser: Client) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    (key,) = [key async for key in site.store.redis.scan_iter(keys.TRIP + "*")]
    assert 590 < await site.store.redis.ttl(key) <= 600
    await site.store.redis.pexpire(key, 1)
    await asyncio.sleep(0.05)
    await not_known(browser, address)
    assert await site.trail() == [], "anybody can make up a state"
