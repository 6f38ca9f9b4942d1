"""Browsers that go to an identity provider and come back."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI

from tests.web.identity_provider import IdentityProvider
from worker.domain.audit import Entry
from worker.domain.identities import RoleRule
from worker.web.access import COOKIE

PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
BACK = {"Accept": "text/html", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
ROLES = RoleRule.parse("realm_access.roles: admin=ex-admin; submitter=ex-submit; approver=ex-approve; viewer=ex-view")


class SignedOn:
    """The application with the provider, and browsers that go to and fro."""

    def __init__(self, app: FastAPI, idp: IdentityProvider) -> None:
        self.app, self.idp = app, idp
        self.store = app.state.web.store

    async def leave(self, browser: httpx.AsyncClient) -> str:
        """Where the browser is sent."""
        answer = await browser.get("/session/provider", headers=PAGE)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def sign_in(self, browser: httpx.AsyncClient, name: str | None) -> Any:
        """The page that somebody comes back to."""
        return await browser.get(self.idp.decide(await self.leave(browser), name), headers=BACK)

    async def trail(self) -> list[Entry]:
        return [each async for each in self.store.audit.entries()]


def says(answer: Any) -> str:
    """The one sentence of a page that refuses."""
    found = re.search(r'<p class="problem" role="alert">(.*?)</p>', answer.text, re.DOTALL)
    assert found, answer.text
    return found[1].replace("&#39;", "'")


async def refused_and_noted(site: SignedOn, browser: httpx.AsyncClient, guard: str, **more: str) -> None:
    """Nobody is signed in, and the trail says so once, and nothing of a token or code."""
    assert COOKIE not in browser.cookies
    assert (await browser.get("/v1/batches")).status_code == 401
    (entry,) = await site.trail()
    said = {"act": "look", "guard": guard, "environment": "sandbox", "merchant": "m1", **more}
    assert (entry.actor, entry.deed, entry.detail) == (None, "refused", said)


StartSignOn = Callable[..., Awaitable[SignedOn]]
