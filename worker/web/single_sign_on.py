"""Signing in by the identity provider: the browser goes there and comes back (OpenID Connect, authorization code).

The session's cookie is not sent with what another site began, so whoever comes back is shown a page of ours that leads
on by itself: what it leads to is begun by us.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from worker.domain.errors import Guard, RefusedError
from worker.domain.identities import SignOn
from worker.domain.people import Act, Role
from worker.store import trips
from worker.web.access import Asked
from worker.web.pages.rendering import page
from worker.web.problems import Kind, Problem
from worker.web.provider import Provider
from worker.web.session import set_session
from worker.web.state import Web, web_of
from worker.web.ways_back import remember

TRIP = "__Host-expunge-trip"
router = APIRouter(include_in_schema=False)
_Text = Annotated[str, Query(max_length=4_096)]
_QUIET = {"Referrer-Policy": "no-referrer"}
"""Of a page whose address has a code in it."""


@router.get("/session/provider", status_code=303, response_class=RedirectResponse)
async def leave(request: Request, to: _Text = "") -> Response:
    """Send a browser to the provider."""
    web, provider, back = web_of(request), _provider_of(request), remember(request, to)
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(Kind.CROSS_SITE, "a page of another site began this; sign in from the page of this server")
    await _count(request)
    word, trip = await web.store.trips.begin(back)
    answer = RedirectResponse(await provider.address(trip), 303)
    answer.set_cookie(TRIP, word, max_age=trips.LASTS, path="/", secure=True, httponly=True, samesite="lax")
    return answer


@router.get("/session/provider/return")
async def come_back(
    request: Request, state: _Text = "", code: _Text = "", error: _Text = "", iss: _Text = ""
) -> Response:
    """Sign in whom the provider sent back."""
    web, provider = web_of(request), _provider_of(request)
    trip = await web.store.trips.end(request.cookies.get(TRIP, ""), state)
    if trip is None:
        await _count(request)
        raise RefusedError(_unknown(provider.sign_on), Guard.IDENTITY)
    back = remember(request, trip.back)
    request.state.asked = asked = Asked(Act.LOOK, issued=True)
    if error or not code:
        raise RefusedError(_denied(provider.sign_on.host, error), Guard.IDENTITY)
    claims = await provider.claims(trip, code, iss)
    asked.claimed = name = _name_of(provider.sign_on, claims)
    role = provider.sign_on.roles.role_of(claims)
    if role is None:
        raise RefusedError(_no_role(provider.sign_on, name), Guard.ROLE)
    word, called = await _begun(web, provider.sign_on, claims, name, role)
    answer = page(request, "signed_in.html", None, headers=_QUIET, name=called, role=role, back=back)
    set_session(answer, word)
    answer.delete_cookie(TRIP, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _provider_of(request: Request) -> Provider:
    provider = web_of(request).provider
    if provider is None:
        raise Problem(Kind.NOT_FOUND, "nobody signs in by an identity provider here; sign in with a token")
    return provider


async def _count(request: Request) -> None:
    await web_of(request).limits.count_stranger(request.client.host if request.client else "")


async def _begun(web: Web, sign_on: SignOn, claims: Mapping[str, Any], name: str, role: Role) -> tuple[str, str]:
    """The session's word, and what they are called."""
    begun = await web.store.sessions.begin_by_provider(sign_on.subject_of(claims), sign_on.name_claim, name, role)
    if begun is None:
        raise RefusedError(
            f"the name {name} belongs to somebody else who signed in here before; ask an admin, who finds in "
            "docs/web.md what to do",
            Guard.IDENTITY,
        )
    return begun


def _name_of(sign_on: SignOn, claims: Mapping[str, Any]) -> str:
    name = sign_on.name_of(claims)
    if name is None:
        raise RefusedError(
            f"{sign_on.host} gives you no name that can be used here (claim `{sign_on.name_claim}`: 1 to 64 of a-z, "
            "0-9, '.', '_', '@', '-'; an address of mail must be verified); ask an admin",
            Guard.IDENTITY,
        )
    return name


def _unknown(sign_on: SignOn) -> str:
    return (
        f"this sign-in is not known: it took longer than {trips.LASTS // 60} minutes, was used already, or began in "
        f"another browser or not at {sign_on.web_url}; sign in again from there"
    )


def _denied(host: str, error: str) -> str:
    if error == "access_denied":
        return f"{host} says that sign-in was denied or cancelled; sign in again, or ask who runs it"
    said = f" ({error})" if re.fullmatch("[a-z_]{1,40}", error) else ""
    return f"{host} could not sign you in{said}; sign in again, or ask who runs it"


def _no_role(sign_on: SignOn, name: str) -> str:
    return f"{name} has no role here; ask who runs {sign_on.host} for one that Expunge knows, then sign in again"
