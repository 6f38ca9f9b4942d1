"""Who asks: a token, or a session; and whether what they ask for is theirs to ask.

A route is for whoever may do its act: it takes ``who(act)``, or ``on_batch(act)`` where it concerns one batch.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from fastapi import Depends, Path, Request
from fastapi.dependencies.models import Dependant

from worker.domain.batch_ids import is_batch_id
from worker.domain.batches import Batch
from worker.domain.errors import Guard, RefusedError
from worker.domain.people import MAY, Act, Known, Person, Reach
from worker.pipeline.admission import FIRST_TOKEN, note_refusal
from worker.settings import Settings
from worker.web.parameters import check_known
from worker.web.problems import Kind, Problem
from worker.web.state import Web, web_of
from worker.wiring import Store

COOKIE = "__Host-expunge"
_SIGN_IN = "show a token: `Authorization: Bearer expunge_...`, or sign in on the page; an admin makes it"
BatchId = Annotated[str, Path(description="ID of the batch", examples=["6h0sgvnab11e7"])]


@dataclass(slots=True)
class Asked:
    """What a request asks for, as far as it is known; a refusal is noted with it."""

    act: Act
    person: Person | None = None
    batch_id: str | None = None
    exists: bool = False
    """Whether there is such a batch."""
    issued: bool = False
    """Whether a token or a session was shown that is not made up, good or not."""
    claimed: str | None = None
    """What the identity provider calls somebody who is not admitted yet."""


class Admitted(NamedTuple):
    """Somebody who may do it, and the batch that it concerns."""

    person: Person
    batch: Batch


Who = Callable[[Request], Awaitable[Person]]


def who(act: Act) -> Who:
    """A dependency: the person who asks, if the act is theirs whichever batch it concerns, else a refusal."""

    async def admitted(request: Request) -> Person:
        return await _admitted(request, act)

    admitted.act = act  # type: ignore[attr-defined]
    return admitted


def on_batch(act: Act) -> Callable[[Request, str], Awaitable[Admitted]]:
    """A dependency: the person who asks, and the batch that the address names, if the act on it is theirs."""

    async def admitted(request: Request, batch_id: BatchId) -> Admitted:
        person = await _admitted(request, act, batch_id)
        batch = await batch_of(web_of(request).store, web_of(request).settings, batch_id)
        concerns(request, batch)
        person.check(act, batch)
        return Admitted(person, batch)

    admitted.act = act  # type: ignore[attr-defined]
    return admitted


async def batch_of(store: Store, settings: Settings, batch_id: str) -> Batch:
    """The batch, if it is of this process's merchant, environment and upstream; else there is none."""
    batch = await store.batches.get(batch_id) if is_batch_id(batch_id) else None
    if batch is None or batch.description.target != settings.target:
        raise Problem(Kind.NOT_FOUND, "there is no such batch here; it may have expired")
    return batch


def concerns(request: Request, batch: Batch) -> None:
    """Say which batch a request turns out to concern."""
    request.state.asked.batch_id, request.state.asked.exists = batch.id, True


def also(request: Request, person: Person, act: Act) -> None:
    """Refuse who may not do this as well, whichever batch it concerns."""
    request.state.asked.act = act
    person.check(act)


async def identified(request: Request) -> Person | None:
    """Who asks, whatever they may do; ``None`` for somebody who shows nothing, or nothing that counts."""
    known = await _known(request, web_of(request).store)
    return known.person if known is not None else None


async def _admitted(request: Request, act: Act, batch_id: str | None = None) -> Person:
    web, asked = web_of(request), Asked(act, batch_id=batch_id)
    request.state.asked = asked
    known = await _known(request, web.store)
    if known is None:
        await web.limits.count_stranger(request.client.host if request.client else "")
        asked.issued = await _issued(request, web.store)
        raise await _unknown(request, web)
    asked.person = person = known.person
    await web.limits.count(known.counted_as)
    if MAY[act].get(person.role, Reach.ANY) is Reach.ANY:
        person.check(act)
    check_known(request)
    return person


def acts_of(dependant: Dependant) -> set[Act]:
    """What a route is for; empty if it asks nobody who they are."""
    act: Act | None = getattr(dependant.call, "act", None)
    own = {act} if act else set()
    return own.union(*map(acts_of, dependant.dependencies))


def shown(request: Request) -> bool:
    """Whether somebody tries to show who they are."""
    return "authorization" in request.headers or COOKIE in request.cookies


async def _known(request: Request, store: Store) -> Known | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme:
        token = await store.tokens.find(text.strip()) if scheme.lower() == "bearer" else None
        return Known.by(token) if token is not None else None
    word = request.cookies.get(COOKIE)
    return await store.sessions.find(word) if word else None


async def _issued(request: Request, store: Store) -> bool:
    """Whether what is shown is, or was, somebody's: what is made up would fill the audit trail."""
    _, _, text = request.headers.get("authorization", "").partition(" ")
    if text:
        return await store.tokens.issued(text.strip())
    return await store.sessions.begun(request.cookies.get(COOKIE, ""))


async def _unknown(request: Request, web: Web) -> RefusedError:
    if web.provider is not None and "authorization" not in request.headers:
        ended = "you are not signed in any more; " if COOKIE in request.cookies else ""
        return RefusedError(f"{ended}{_SIGN_IN}", Guard.IDENTITY)
    if not await web.store.tokens.exist():
        return RefusedError(
            f"nobody has a token yet; whoever runs Expunge makes the first: {FIRST_TOKEN}", Guard.IDENTITY
        )
    wrong = "the token is not known, or was revoked; " if shown(request) else ""
    return RefusedError(f"{wrong}{_SIGN_IN}", Guard.IDENTITY)


def concerned(request: Request) -> dict[str, str]:
    """Which batch a refusal concerns, for programs: one that exists, here or for another upstream."""
    asked: Asked | None = getattr(request.state, "asked", None)
    return {"batch": asked.batch_id} if asked is not None and asked.batch_id and asked.exists else {}


async def note(request: Request, refusal: RefusedError) -> None:
    """Note in the audit trail what was refused; not that somebody came without anything, or with a token made up."""
    asked: Asked | None = getattr(request.state, "asked", None)
    if asked is None or (asked.person is None and not asked.issued):
        return
    store = web_of(request).store
    await note_refusal(
        store.audit,
        store.batches,
        refusal,
        asked.act,
        web_of(request).settings.target,
        person=asked.person,
        claimed=asked.claimed,
        batch_id=asked.batch_id,
    )


Looking = Annotated[Person, Depends(who(Act.LOOK))]
"""Anybody with a token."""
LookingAt = Annotated[Admitted, Depends(on_batch(Act.LOOK))]
"""The same, and the batch of the path's ``batch_id``."""
