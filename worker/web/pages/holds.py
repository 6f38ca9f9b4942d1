"""Customers on hold. Their IDs are in bodies only: addresses stay in the history of a browser."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse, Response

from worker.domain.errors import UsageError
from worker.domain.people import MAY, Act, Person
from worker.intake.csv_file import DEFAULT_COLUMN
from worker.pipeline.holds import Release, releasing
from worker.pipeline.naming import Customers, in_file, listed
from worker.pipeline.submission import Taken
from worker.web import holds as api
from worker.web.access import Looking, also
from worker.web.forms import form
from worker.web.holds import Adding, Releasing
from worker.web.pages.rendering import page
from worker.web.state import TheWeb, Web
from worker.web.uploads import received

router = APIRouter(prefix="/holds")
_PAGE = 50
_AT_ONCE = 1_000
_SHOWN = 200


class Named(BaseModel):
    """Whom a form is about."""

    customer_ids: str = Field(max_length=200 * _AT_ONCE)


class Holding(Named, api.HoldFields):
    """Customers to put on hold."""


class Resubmission(Named):
    """Customers to be submitted once more."""

    confirm: str = Field("", max_length=40)


TheNamed = Annotated[Named, Depends(form(Named))]


@router.get("")
async def show_holds(
    request: Request, person: Looking, web: TheWeb, offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0
) -> Response:
    """Those that stand, the longest first."""
    found = await web.store.holds.all()
    return page(
        request,
        "holds.html",
        person,
        holds=found[offset : offset + _PAGE],
        column=DEFAULT_COLUMN,
        total=len(found),
        offset=offset,
        more=offset + _PAGE if offset + _PAGE < len(found) else None,
        may_hold=person.role in MAY[Act.HOLD],
        may_release=person.role in MAY[Act.RELEASE],
    )


@router.post("")
async def add_holds(
    request: Request, person: Adding, web: TheWeb, asked: Annotated[Holding, Depends(form(Holding))]
) -> Response:
    """Put customers on hold, all or none."""
    return await _held(request, person, web, _named(asked, web), asked)


@router.post("/file")
async def add_holds_of_file(request: Request, person: Adding, web: TheWeb) -> Response:
    """Put the customers of a file on hold, all or none."""
    async with received(request, web.settings) as upload:
        fields = upload.fields(api.HoldQuery())
        with await upload.open(fields, web.settings) as csv_file:
            customers = await asyncio.to_thread(in_file, csv_file)
    return await _held(request, person, web, customers, fields)


async def _held(request: Request, person: Person, web: Web, customers: Customers, fields: api.HoldFields) -> Response:
    """Back to the holds; first to a hint, if it is too late for somebody."""
    _, gone = await api.hold(web, person, customers, fields)
    if not gone:
        return RedirectResponse("/holds", 303)
    shown: dict[str, Any] = {"gone": gone[:_SHOWN], "left": max(0, len(gone) - _SHOWN)}
    return page(request, "held.html", person, on_hold=len(customers.ids), **shown)


@router.post("/release")
async def ask_to_release(request: Request, person: Releasing, web: TheWeb, named: TheNamed) -> Response:
    """Which records the hold kept back, before it ends."""
    customers = _named(named, web)
    ending = await releasing(web.store.holds, web.store.batches, web.settings.target, customers)
    grounds = (await web.store.holds.lookup(ending.ids)).grounds
    about = [(each, grounds.get(at, "")) for at, each in enumerate(ending.ids)]
    return page(request, "release.html", person, customers=about, **_records(ending))


@router.post("/release/confirmed")
async def release(request: Request, person: Releasing, web: TheWeb, named: TheNamed) -> Response:
    """End the holds, and show what can be done about the records that they kept back."""
    ended = await api.let_go(web, person, _named(named, web), again=True)
    if not ended.held_back:
        return RedirectResponse("/holds", 303)
    customers = list(dict.fromkeys(each.customer_id for each in ended.held_back))
    return page(
        request,
        "released.html",
        person,
        customers=customers,
        needs_approval=web.settings.approval.asks(len(customers), web.settings.environment),
        **_records(ended),
    )


@router.post("/resubmit")
async def resubmit(
    request: Request, person: Releasing, web: TheWeb, asked: Annotated[Resubmission, Depends(form(Resubmission))]
) -> Response:
    """Make a batch of what was held back."""
    also(request, person, Act.SUBMIT)
    made = await api.resubmit(web, person, _named(asked, web), asked.confirm.strip() or None)
    return RedirectResponse(f"/batches/{made.batch.id}" if isinstance(made, Taken) else "/holds", 303)


def _records(ending: Release) -> dict[str, Any]:
    found = ending.held_back
    return {"held": found[:_SHOWN], "left": max(0, len(found) - _SHOWN)}


def _named(asked: Named, web: Web) -> Customers:
    return listed(_ids(asked.customer_ids), web.settings.id_rule)


def _ids(text: str) -> list[str]:
    """One a line."""
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise UsageError("there is no customer ID; write one on each line")
    if len(ids) > _AT_ONCE or any(len(each) > _LONGEST for each in ids):
        raise UsageError(f"at most {_AT_ONCE:,} IDs at once, each at most {_LONGEST} characters; nothing was done")
    return ids


_LONGEST = 200
