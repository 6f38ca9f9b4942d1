"""Signing in by an identity provider: the whole way over real HTTP, names, roles, and the end of sessions."""

import asyncio
import re
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import submit
from tests.web.conftest import ORIGIN, Client, add_token, client_of, problem
from tests.web.identity_provider import CLIENT_SECRET, IdentityProvider
from tests.web.reading import until_refused
from tests.web.signing_on import BACK, PAGE, SignedOn, StartSignOn, refused_and_noted, says
from worker.domain.identities import RoleRule
from worker.domain.people import Role
from worker.domain.rates import Rate
from worker.store import keys
from worker.web.access import COOKIE
from worker.web.single_sign_on import TRIP


async def test_somebody_with_a_role_signs_in_and_out(site: SignedOn, browser: Client) -> None:
    page = await browser.get("/", headers=PAGE)
    assert f"Sign in with {urlsplit(site.idp.url).netloc}" in page.text
    answer = await site.sign_in(browser, "anna")
    assert answer.status_code == 200, answer.text
    assert "signed in as anna, submitter" in answer.text
    assert '<meta http-equiv="refresh" content="0; url=/batches">' in answer.text
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookies = answer.headers.get_list("set-cookie")
    session = next(each for each in cookies if each.startswith(f"{COOKIE}="))
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(session.split("; "))
    assert any(each.startswith(f'{TRIP}=""') and "Max-Age=0" in each for each in cookies)
    assert "anna, submitter" in (await browser.get("/batches", headers=PAGE)).text
    word = browser.cookies[COOKIE]
    assert (await browser.post("/session/end", headers={"Origin": ORIGIN})).status_code == 303
    problem(await browser.get("/v1/batches", headers={"Cookie": f"{COOKIE}={word}"}), "identity")


async def test_the_trip_is_bound_to_the_browser_by_a_cookie_of_its_own(browser: Client) -> None:
    answer = await browser.get("/session/provider", headers=PAGE)
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-expunge-trip=")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=600"} <= set(cookie.split("; "))
    sent = parse_qs(urlsplit(answer.headers["location"]).query)
    assert sent["redirect_uri"] == [f"{ORIGIN}/session/provider/return"]
    assert sent["code_challenge_method"] == ["S256"]
    word = browser.cookies[TRIP]
    assert word not in answer.headers["location"]


@pytest.mark.parametrize("host", ["evil.example", "expunge.test:8443"])
async def test_the_host_header_does_not_say_where_the_provider_sends_back_to(browser: Client, host: str) -> None:
    answer = await browser.get("/session/provider", headers={**PAGE, "Host": host, "X-Forwarded-Host": host})
    assert parse_qs(urlsplit(answer.headers["location"]).query)["redirect_uri"] == [f"{ORIGIN}/session/provider/return"]


async def test_a_sign_in_is_in_the_trail(site: SignedOn, browser: Client) -> None:
    await site.sign_in(browser, "ben")
    (entry,) = await site.trail()
    assert (entry.actor, entry.deed, entry.detail) == ("ben", "signed_in", {"role": "approver"})


async def test_no_secret_of_the_way_is_kept_or_shown(
    site: SignedOn, browser: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [await site.leave(browser), browser.cookies[TRIP]]
    trips = await dump(site)
    assert browser.cookies[TRIP] not in trips
    answer = await browser.get(site.idp.decide(before[0], "anna"), headers=BACK)
    site.idp.id_token = lambda claims: site.idp.signed(claims)[:-9] + "A" * 9
    refused = await site.sign_in(browser, "ben")
    assert (answer.status_code, refused.status_code) == (200, 401)
    kept, said = await dump(site), capfd.readouterr()
    everything = kept + said.out + said.err + answer.text + refused.text
    for secret in (*site.idp.tokens, CLIENT_SECRET, *before[1:], *browser.cookies.values()):
        assert secret not in everything
    assert not [key async for key in site.store.redis.scan_iter(keys.TRIP + "*")]


async def dump(site: SignedOn) -> str:
    """All that Redis has."""
    found = [f"{key}" for key in await site.store.redis.keys("*")]
    for key in await site.store.redis.keys("*"):
        match await site.store.redis.type(key):
            case b"string":
                found.append(str(await site.store.redis.get(key)))
            case b"hash":
                found.append(str(await site.store.redis.hgetall(key)))
            case b"stream":
                found.append(str(await site.store.redis.xrange(key)))
    return "\n".join(found)


async def test_a_session_ends_after_twelve_hours_by_itself(site: SignedOn, browser: Client) -> None:
    await site.sign_in(browser, "vera")
    (key,) = [key async for key in site.store.redis.scan_iter(keys.SESSION + "*")]
    assert 43_100 < await site.store.redis.ttl(key) <= 43_200


async def test_a_client_without_a_secret_proves_itself_by_pkce_alone(start: StartSignOn, idp: IdentityProvider) -> None:
    idp.clients["public"] = None
    site = await start(oidc_client_id="public", oidc_client_secret=None)
    async with client_of(site.app) as browser:
        assert (await site.sign_in(browser, "anna")).status_code == 200


async def test_a_provider_that_wants_the_secret_in_the_form_gets_it_there(site: SignedOn, browser: Client) -> None:
    site.idp.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    assert (await site.sign_in(browser, "anna")).status_code == 200


async def test_new_keys_of_the_provider_are_fetched_once(site: SignedOn, browser: Client) -> None:
    assert (await site.sign_in(browser, "anna")).status_code == 200
    site.idp.rotate()
    assert (await site.sign_in(browser, "anna")).status_code == 200
    assert site.idp.asked.count("/keys") == 2
    site.idp.id_token = lambda claims: site.idp.signed(claims, kid="no such key")
    assert (await site.sign_in(browser, "anna")).status_code == 401
    assert site.idp.asked.count("/keys") == 3


# --- names and roles ---


async def test_by_default_somebody_is_called_by_their_subject(start: StartSignOn, idp: IdentityProvider) -> None:
    site = await start(oidc_name_claim="sub")
    async with client_of(site.app) as browser:
        assert f"signed in as {idp.people['anna']['sub']}, submitter" in (await site.sign_in(browser, "anna")).text
        idp.add("anna", "ex-submit", sub="auth0|Anna")
        assert re.search("signed in as sub-[0-9a-f]{16}, submitter", (await site.sign_in(browser, "anna")).text)


async def test_a_name_stays_one_person_s_and_a_person_keeps_their_name(site: SignedOn, browser: Client) -> None:
    """Else somebody could submit, have themselves renamed at the provider, and approve."""
    await site.sign_in(browser, "anna")
    site.idp.people["anna"] |= {"preferred_username": "zoe", "realm_access": {"roles": ["ex-approve"]}}
    assert "signed in as anna, approver" in (await site.sign_in(browser, "anna")).text
    batch = await submit(site.store.batches, ["c1"], submitted_by="anna", needs_approval=True)
    refused = await browser.post(f"/v1/batches/{batch.batch_id}/approve", headers={"Origin": ORIGIN})
    assert "was submitted by anna" in problem(refused, "approval")
    site.idp.add("another", "ex-admin", preferred_username="Anna")
    other = await site.sign_in(browser, "another")
    assert other.status_code == 401
    assert "The name anna belongs to somebody else" in says(other)


async def test_a_token_and_a_sign_in_of_the_same_name_are_one_person(site: SignedOn, browser: Client) -> None:
    await add_token(site.store.tokens, "ada", Role.ADMIN)
    async with client_of(site.app, await add_token(site.store.tokens, "ben", Role.SUBMITTER)) as program:
        batch = await submit(site.store.batches, ["c1"], submitted_by="ben", needs_approval=True)
        assert (await program.get("/v1/batches")).status_code == 200
    await site.sign_in(browser, "ben")
    refused = await browser.post(f"/v1/batches/{batch.batch_id}/approve", headers={"Origin": ORIGIN})
    assert "was submitted by ben" in problem(refused, "approval")


async def test_the_role_that_is_named_first_counts(site: SignedOn, browser: Client) -> None:
    site.idp.add("both", "ex-view", "ex-approve", "ex-submit")
    assert "signed in as both, submitter" in (await site.sign_in(browser, "both")).text


@pytest.mark.parametrize(
    "claims",
    [
        {"realm_access": None},
        {"realm_access": {"roles": ["EX-ADMIN", "ex-admin ", "admin"]}},
        {"realm_access": {"roles": "ex-admins"}},
        {"realm_access": {"roles": [["ex-admin"], {"ex-admin": 1}]}},
        {"realm_access": ["ex-admin"]},
        {"realm_access": 7},
    ],
    ids=["none", "others", "text", "nested", "list", "number"],
)
async def test_nobody_without_a_role_is_let_in(site: SignedOn, browser: Client, claims: dict[str, Any]) -> None:
    site.idp.claims = claims
    answer = await site.sign_in(browser, "ada")
    assert answer.status_code == 403
    assert says(answer).startswith("ada has no role here; ask who runs 127.0.0.1:")
    await refused_and_noted(site, browser, "role", claimed="ada")


@pytest.mark.parametrize(
    ("claim", "claims"),
    [
        ("preferred_username", {"preferred_username": None}),
        ("preferred_username", {"preferred_username": "worker"}),
        ("preferred_username", {"preferred_username": "anna\nada"}),
        ("preferred_username", {"preferred_username": "anna "}),
        ("preferred_username", {"preferred_username": "аnna"}),  # noqa: RUF001 - a Cyrillic letter, on purpose
        ("preferred_username", {"preferred_username": ["anna"]}),
        ("email", {"email": "anna@example.com"}),
        ("email", {"email": "anna@example.com", "email_verified": False}),
        ("email", {"email": "anna@example.com", "email_verified": "true"}),
    ],
)
async def test_nobody_without_a_name_that_counts_is_let_in(
    start: StartSignOn, claim: str, claims: dict[str, Any], idp: IdentityProvider
) -> None:
    site = await start(oidc_name_claim=claim)
    idp.claims = claims
    async with client_of(site.app) as browser:
        answer = await site.sign_in(browser, "anna")
        assert answer.status_code == 401
        assert f"gives you no name that can be used here (claim `{claim}`" in says(answer)
        await refused_and_noted(site, browser, "identity")


async def test_a_verified_address_of_mail_is_a_name(start: StartSignOn, idp: IdentityProvider) -> None:
    site = await start(oidc_name_claim="email")
    idp.claims = {"email": "Anna@Example.com", "email_verified": True}
    async with client_of(site.app) as browser:
        assert "signed in as anna@example.com, submitter" in (await site.sign_in(browser, "anna")).text


# --- sessions, and what else is not open ---


async def test_only_a_page_of_ours_can_send_somebody_to_the_provider(site: SignedOn, browser: Client) -> None:
    for from_where in ("cross-site", "same-site"):
        answer = await browser.get("/session/provider", headers={**PAGE, "Sec-Fetch-Site": from_where})
        assert answer.status_code == 403
    assert not [key async for key in site.store.redis.scan_iter(keys.TRIP + "*")]


async def test_the_provider_comes_back_by_get_and_what_changes_anything_stays_shut(
    site: SignedOn, browser: Client
) -> None:
    address = site.idp.decide(await site.leave(browser), "ada")
    posted = await browser.post(address, headers={**BACK, "Origin": site.idp.url})
    assert posted.status_code == 403
    assert "must come from a page of this server" in says(posted)
    assert (await browser.get(address, headers=BACK)).status_code == 200
    for path in ("/session/end", "/v1/batches", "/new"):
        problem(await browser.post(path, headers={"Sec-Fetch-Site": "cross-site"}), "cross_site")


async def test_without_tokens_nothing_is_open_to_a_stranger(browser: Client) -> None:
    assert "sign in on the page" in problem(await browser.get("/v1/batches"), "identity")
    page = await browser.get("/batches", headers=PAGE)
    assert page.status_code == 401
    assert "Sign in with" in page.text


async def test_without_a_provider_there_is_no_way_by_one(stranger: Client) -> None:
    assert "Sign in with" not in (await stranger.get("/", headers=PAGE)).text
    for path in ("/session/provider", "/session/provider/return"):
        assert (await stranger.get(path, headers=PAGE)).status_code == 404


async def test_sessions_end_when_what_decides_who_is_who_changes(start: StartSignOn) -> None:
    site = await start()
    async with client_of(site.app) as browser:
        await site.sign_in(browser, "ada")
        word = browser.cookies[COOKIE]
    narrower = {"oidc_roles": RoleRule.parse("realm_access.roles: viewer=ex-admin")}
    for others in (narrower, {"oidc_name_claim": "sub"}, {"oidc_client_id": "another"}, {"oidc_issuer": "https://x.y"}):
        another = await start(**others)
        async with client_of(another.app) as same:
            problem(await same.get("/v1/batches", headers={"Cookie": f"{COOKIE}={word}"}), "identity")
    off = await start(oidc_issuer=None)
    async with client_of(off.app) as same:
        problem(await same.get("/v1/batches", headers={"Cookie": f"{COOKIE}={word}"}), "identity")
    async with client_of(site.app) as same:
        assert (await same.get("/v1/batches", headers={"Cookie": f"{COOKIE}={word}"})).status_code == 200


async def test_an_admin_ends_somebody_s_sessions_at_once(site: SignedOn, browser: Client) -> None:
    await site.sign_in(browser, "anna")
    token = await add_token(site.store.tokens, "anna", Role.ADMIN)
    async with client_of(site.app) as by_token, client_of(site.app) as other:
        assert (await by_token.post("/session", data={"token": token})).status_code == 303
        await site.sign_in(other, "ben")
        await site.store.sessions.end_all("anna", "ada")
        for client in (browser, by_token):
            problem(await client.get("/v1/batches"), "identity")
        assert (await other.get("/v1/batches")).status_code == 200
    await asyncio.sleep(0.01)
    assert (await site.sign_in(browser, "anna")).status_code == 200
    assert (await browser.get("/v1/batches")).status_code == 200
    ended = next(entry for entry in await site.trail() if entry.deed == "signed_out")
    assert (ended.actor, ended.detail) == ("ada", {"name": "anna"})


async def test_who_tries_again_and_again_is_told_to_wait(browser: Client) -> None:
    answers = await until_refused(
        lambda: browser.get(f"/session/provider/return?state={secrets.token_hex(8)}", headers=BACK)
    )
    assert answers == [401] * (len(answers) - 1) + [429]


async def test_who_came_by_the_provider_is_limited_by_name(start: StartSignOn) -> None:
    site = await start(web_rate_limit=Rate.parse("3/h"))
    async with client_of(site.app) as one, client_of(site.app) as another, client_of(site.app) as other:
        for browser, name in ((one, "anna"), (another, "anna"), (other, "ben")):
            await site.sign_in(browser, name)
        answers = [(await browser.get("/v1/batches")).status_code for browser in (one, another, one, another, other)]
        assert answers == [200, 200, 200, 429, 200]
