"""Customers on hold. Their IDs are in bodies only: addresses are logged by proxies."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.domain.holds import LONGEST_GROUND
from worker.domain.people import Act, Person
from worker.pipeline.holds import deleted_earlier, place, release, releasing
from worker.pipeline.naming import MOST, listed, terms
from worker.reports.as_json import hold_json
from worker.web.access import Looking, who
from worker.web.bodies import HeldBody, HoldsBody, ReleasedBody
from worker.web.problems import Kind, Problem, documented
from worker.web.state import TheStore, TheWeb

router = APIRouter(prefix="/v1/holds", tags=["holds"])
LARGEST = 16 << 20
"""Bytes of a body."""
_JSON = "application/json"


class Customers(BaseModel):
    """Whom a request is about."""

    model_config = ConfigDict(extra="forbid")

    customer_ids: list[Annotated[str, Field(max_length=200)]] = Field(
        min_length=1, max_length=MOST, examples=[["customer_1f0e"]]
    )


class Holding(Customers):
    """Customers to put on hold."""

    ground: str = Field(max_length=LONGEST_GROUND, description="Why.", examples=["litigation 12/2026"])
    until: str | None = Field(
        None,
        max_length=40,
        description="Last day or moment, or +30d, +1month; else until removed.",
        examples=["2099-06-30"],
    )
    replace: bool = Field(False, description="Give holds that stand this ground and end.")


Wanted = TypeVar("Wanted", bound=Customers)


def _body(model: type[Wanted]) -> Callable[[Request], Awaitable[Wanted]]:
    """A dependency that reads the body; the framework would read it before it is known who asks."""

    async def read(request: Request) -> Wanted:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise Problem(Kind.MEDIA_TYPE, f"send the customers as {_JSON}")
        try:
            return model.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_input=False, include_context=False)) from None

    return read


def _described(model: type[Customers]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": model.model_json_schema()}}}}


@router.get("", response_model=HoldsBody, responses=documented())
async def list_holds(
    _: Looking,
    store: TheStore,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000, description="Leave out so many.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many.")] = 1_000,
) -> dict[str, Any]:
    """Customers on hold, those first that are longest."""
    found = await store.holds.all()
    return {"holds": [hold_json(each) for each in found[offset : offset + limit]], "total": len(found)}


@router.post(
    "",
    response_model=HeldBody,
    responses=documented(Kind.HOLD, Kind.MEDIA_TYPE),
    openapi_extra=_described(Holding),
)
async def add_holds(
    person: Annotated[Person, Depends(who(Act.HOLD))],
    wanted: Annotated[Holding, Depends(_body(Holding))],
    web: TheWeb,
) -> dict[str, Any]:
    """Put customers on hold, all or none; when this is answered, none of them is sent any more."""
    customers = listed(wanted.customer_ids, web.settings.id_rule)
    by = terms(customers, wanted.ground, wanted.until)
    placed = await place(web.store.holds, customers, by, replace=wanted.replace, actor=person.name)
    gone = await deleted_earlier(web.store.ledger, customers, time.time())
    return {
        "on_hold": len(customers.ids),
        "changed": placed,
        "deleted_earlier": [each.as_json() for each in gone],
    }


@router.post(
    "/release",
    response_model=ReleasedBody,
    responses=documented(Kind.MEDIA_TYPE),
    openapi_extra=_described(Customers),
)
async def release_holds(
    person: Annotated[Person, Depends(who(Act.RELEASE))],
    wanted: Annotated[Customers, Depends(_body(Customers))],
    web: TheWeb,
) -> dict[str, Any]:
    """Release customers from hold, all or none, and list the records of ended batches that it held back."""
    store, customers = web.store, listed(wanted.customer_ids, web.settings.id_rule)
    ending = await releasing(store.holds, store.batches, web.settings.target, customers)
    await release(store.holds, ending, person.name)
    return {"released": len(ending.ids), "held_back": [each.as_json() for each in ending.held_back]}
