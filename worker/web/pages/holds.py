"""Customers on hold. Their IDs are in bodies only: addresses stay in the history of a browser."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse, Response

from worker.domain.errors import UsageError
from worker.domain.holds import LONGEST_GROUND
from worker.domain.people import MAY, Act, Person
from worker.pipeline.holds import held_back
from worker.web import holds as api
from worker.web.access import Looking, who
from worker.web.forms import form
from worker.web.pages.rendering import page
from worker.web.state import TheWeb

router = APIRouter(prefix="/holds")
Adding = Annotated[Person, Depends(who(Act.HOLD))]
Releasing = Annotated[Person, Depends(who(Act.RELEASE))]
_PAGE = 50
_AT_ONCE = 1_000
_SHOWN = 200


class Customers(BaseModel):
    """Whom a form is about."""

    customer_ids: str = Field(max_length=200 * _AT_ONCE)


class Holding(Customers):
    """Customers to put on hold."""

    ground: str = Field(max_length=1000)
    until: str = Field("", max_length=40)
    replace: bool = False


Named = Annotated[Customers, Depends(form(Customers))]


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
        total=len(found),
        offset=offset,
        more=offset + _PAGE if offset + _PAGE < len(found) else None,
        may_hold=person.role in MAY[Act.HOLD],
        may_release=person.role in MAY[Act.RELEASE],
    )


@router.post("")
async def add_holds(person: Adding, web: TheWeb, asked: Annotated[Holding, Depends(form(Holding))]) -> Response:
    """Put customers on hold, all or none."""
    wanted = api.Holding(
        customer_ids=_ids(asked.customer_ids),
        ground=asked.ground[: LONGEST_GROUND + 1],
        until=asked.until.strip() or None,
        replace=asked.replace,
    )
    await api.add_holds(person, wanted, web)
    return RedirectResponse("/holds", 303)


@router.post("/release")
async def ask_to_release(request: Request, person: Releasing, web: TheWeb, named: Named) -> Response:
    """Which records the hold kept back, before it ends."""
    ids = _ids(named.customer_ids)
    grounds = (await web.store.holds.lookup(ids)).grounds
    if len(grounds) < len(ids):
        raise UsageError("somebody of these is not on hold; nobody was released")
    found = await held_back(web.store.batches, web.settings.target, ids)
    customers = [(each, grounds[at]) for at, each in enumerate(ids)]
    return page(
        request, "release.html", person, customers=customers, held=found[:_SHOWN], left=max(0, len(found) - _SHOWN)
    )


@router.post("/release/confirmed")
async def release(person: Releasing, web: TheWeb, named: Named) -> Response:
    """End the holds."""
    await api.release_holds(person, api.Customers(customer_ids=_ids(named.customer_ids)), web)
    return RedirectResponse("/holds", 303)


def _ids(text: str) -> list[str]:
    """One a line."""
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise UsageError("there is no customer ID; write one on each line")
    if len(ids) > _AT_ONCE or any(len(each) > _LONGEST for each in ids):
        raise UsageError(f"at most {_AT_ONCE:,} IDs at once, each at most {_LONGEST} characters; nothing was done")
    return ids


_LONGEST = 200
