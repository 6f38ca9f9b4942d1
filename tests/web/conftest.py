"""The HTTP API in this process, and people of each role who use it."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from tests.conftest import make_settings
from tests.web.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.web.signing_on import ROLES, SignedOn, StartSignOn
from worker.domain.people import Role, make_token
from worker.settings import Settings
from worker.store.tokens import Tokens
from worker.web.app import create_app
from worker.wiring import Store

ORIGIN = "https://expunge.test"
UPSTREAM_URL = "http://127.0.0.1:1"
Client = httpx.AsyncClient
Serve = Callable[..., Awaitable[FastAPI]]
As = Callable[[str, Role], Awaitable[Client]]


@pytest.fixture
def web_settings(redis_url: str) -> Settings:
    """Of the usual process: it serves the target of the other tests."""
    return make_settings(redis_url, upstream_url=UPSTREAM_URL)


@pytest.fixture
async def serve(web_settings: Settings) -> AsyncIterator[Serve]:
    """Start the application, with other settings if asked."""
    async with AsyncExitStack() as stack:

        async def start(**others: Any) -> FastAPI:
            app = create_app(web_settings.model_copy(update=others))
            await stack.enter_async_context(app.router.lifespan_context(app))
            return app

        yield start


@pytest.fixture
async def app(serve: Serve) -> FastAPI:
    return await serve()


@pytest.fixture
def web_store(app: FastAPI) -> Store:
    """The store that the application uses."""
    store: Store = app.state.web.store
    return store


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[Client]:
    """Somebody without a token."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def as_(app: FastAPI, web_store: Store) -> AsyncIterator[As]:
    """A client that shows a token of this name and role."""
    async with AsyncExitStack() as stack:

        async def make(name: str, role: Role) -> Client:
            token = await add_token(web_store.tokens, name, role)
            client = client_of(app, token)
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
async def ada(as_: As) -> Client:
    """An admin."""
    return await as_("ada", Role.ADMIN)


@pytest.fixture
async def anna(ada: Client, as_: As) -> Client:  # noqa: ARG001 - the first token is an admin's
    """A submitter."""
    return await as_("anna", Role.SUBMITTER)


@pytest.fixture
async def ben(ada: Client, as_: As) -> Client:  # noqa: ARG001
    """An approver."""
    return await as_("ben", Role.APPROVER)


@pytest.fixture
async def vera(ada: Client, as_: As) -> Client:  # noqa: ARG001
    """A viewer."""
    return await as_("vera", Role.VIEWER)


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    """A provider that knows one of each role, and somebody without."""
    provider = IdentityProvider()
    provider.add("ada", "ex-admin")
    provider.add("anna", "ex-submit")
    provider.add("ben", "ex-approve")
    provider.add("vera", "ex-view")
    provider.add("nobody")
    async with provider.running():
        yield provider


@pytest.fixture
async def start(serve: Serve, idp: IdentityProvider) -> StartSignOn:
    async def begin(**others: Any) -> SignedOn:
        given = {
            "oidc_issuer": idp.url,
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": SecretStr(CLIENT_SECRET),
            "oidc_roles": ROLES,
            "oidc_name_claim": "preferred_username",
            "web_url": ORIGIN,
        }
        return SignedOn(await serve(**(given | others)), idp)

    return begin


@pytest.fixture
async def site(start: StartSignOn) -> SignedOn:
    return await start()


@pytest.fixture
async def browser(site: SignedOn) -> AsyncIterator[Client]:
    async with client_of(site.app) as client:
        yield client


def client_of(app: FastAPI, token: str | None = None) -> Client:
    """A client of an application in this process; not a browser."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=headers)


async def add_token(tokens: Tokens, name: str, role: Role) -> str:
    """A new token of somebody; the first must be an admin's."""
    text = make_token(secrets.token_hex(4), secrets.token_urlsafe(32))
    await tokens.add(text, name, role, actor="ada" if await tokens.exist() else None)
    return text


def problem(response: httpx.Response, word: str) -> str:
    """The detail of an answer that must be this problem."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert (body["type"], body["status"]) == (f"urn:expunge:problem:{word}", response.status_code), body
    detail: str = body["detail"]
    return detail
