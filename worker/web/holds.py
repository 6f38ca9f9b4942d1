"""Customers on hold. Their IDs are in bodies only: addresses are logged by proxies."""

import asyncio
import time
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from worker.domain.events import BadEventError
from worker.domain.holds import LONGEST_GROUND
from worker.domain.people import Act, Person
from worker.intake.plain_event import parsed
from worker.pipeline.holds import Gone, Release, deleted_earlier, place, release, release_and_resubmit, releasing
from worker.pipeline.naming import MOST, Customers, in_file, listed, terms
from worker.pipeline.submission import Taken, check_confirmation
from worker.reports.as_json import hold_json
from worker.store.requests import Answer
from worker.web.access import Looking, also, who
from worker.web.bodies import BatchBody, HeldBody, HoldsBody, ReleasedBody
from worker.web.forms import validated
from worker.web.parameters import check_apart
from worker.web.problems import Kind, documented
from worker.web.state import TheStore, TheWeb, Web
from worker.web.submitting import Key, answer_of, once
from worker.web.uploads import CONTENT, NamedFile, media_type, received

router = APIRouter(prefix="/v1/holds", tags=["holds"])
LARGEST = 16 << 20
"""Bytes of a body."""
_JSON = "application/json"
Adding = Annotated[Person, Depends(who(Act.HOLD))]
Releasing = Annotated[Person, Depends(who(Act.RELEASE))]


class Named(BaseModel):
    """Whom a request is about, if it brings no file."""

    model_config = ConfigDict(extra="forbid")

    customer_ids: list[Annotated[str, Field(max_length=200)]] = Field(
        min_length=1, max_length=MOST, examples=[["customer_1f0e"]]
    )


class HoldFields(BaseModel):
    """How customers are put on hold."""

    ground: str | None = Field(
        None,
        max_length=LONGEST_GROUND,
        description="Why. A file may say it row by row, in a column of this name.",
        examples=["litigation 12/2026"],
    )
    until: str | None = Field(
        None,
        max_length=40,
        description="Last day or moment, or +30d, +1month; else until removed. A file may say it as well.",
        examples=["2099-06-30"],
    )
    replace: bool = Field(False, description="Give holds that stand this ground and end.")


class ReleaseFields(BaseModel):
    """How customers are released."""

    resubmit: bool = Field(False, description="Make a batch of the records that were held back.")
    confirm: str | None = Field(
        None,
        max_length=40,
        description="To resubmit in production: exactly how many customers were held back, or the ID of the plan.",
    )


class HoldQuery(HoldFields, NamedFile):
    """Beside a file."""


class ReleaseQuery(ReleaseFields, NamedFile):
    """Beside a file."""


class HoldList(HoldFields, Named):
    """Customers to put on hold."""


class ReleaseList(ReleaseFields, Named):
    """Customers to release."""


Asked = TypeVar("Asked", bound=NamedFile)
Listed = TypeVar("Listed", bound=Named)


async def _asked(request: Request, web: Web, query: Asked, model: type[Listed]) -> tuple[Customers, Asked | Listed]:
    """Whom the body names, as a list or as a file, and the fields of query and body; raises as both do."""
    if media_type(request.headers) == _JSON:
        asked = await _list(request, query, model)
        return listed(asked.customer_ids, web.settings.id_rule), asked
    async with received(request, web.settings) as upload:
        fields = upload.fields(query)
        with await upload.open(fields, web.settings) as csv_file:
            return await asyncio.to_thread(in_file, csv_file), fields


async def _list(request: Request, query: NamedFile, model: type[Listed]) -> Listed:
    try:
        sent = parsed(await request.body())
    except BadEventError as error:
        raise RequestValidationError([{"loc": ("body",), "msg": str(error)}]) from None
    except (ValueError, RecursionError):
        raise RequestValidationError([{"loc": ("body",), "msg": "it is no JSON"}]) from None
    if not isinstance(sent, dict):
        return validated(model, sent)
    check_apart(query, sent, "body")
    return validated(model, query.model_dump(exclude_unset=True) | sent)


def _described(model: type[Named]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": CONTENT | {_JSON: {"schema": model.model_json_schema()}}}}


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
    responses=documented(Kind.HOLD, Kind.MEDIA_TYPE, Kind.INPUT, Kind.SIZE),
    openapi_extra=_described(HoldList),
)
async def add_holds(
    request: Request, person: Adding, web: TheWeb, query: Annotated[HoldQuery, Query()]
) -> dict[str, Any]:
    """Put customers on hold, all or none; when this is answered, none of them is sent any more."""
    customers, fields = await _asked(request, web, query, HoldList)
    changed, gone = await hold(web, person, customers, fields)
    too_late = [each.as_json() for each in gone]
    return {"on_hold": len(customers.ids), "changed": changed, "deleted_earlier": too_late}


async def hold(web: Web, person: Person, customers: Customers, fields: HoldFields) -> tuple[int, list[Gone]]:
    """Put them on hold; how many holds are new or changed, and whom they come too late for."""
    by = terms(customers, fields.ground, fields.until)
    changed = await place(web.store.holds, customers, by, replace=fields.replace, actor=person.name)
    return changed, await deleted_earlier(web.store.ledger, customers, time.time())


@router.post(
    "/release",
    response_model=ReleasedBody | BatchBody,
    responses={
        **documented(
            *(Kind.MEDIA_TYPE, Kind.INPUT, Kind.SIZE, Kind.CONFIRMATION, Kind.REFERENCE),
            *(Kind.KEY_IN_USE, Kind.KEY_REUSED),
        ),
        200: {"description": "Released; or, to resubmit, the batch that was made of these records before."},
        202: {"model": BatchBody, "description": "Released, and this batch was made of what was held back."},
    },
    openapi_extra=_described(ReleaseList),
)
async def release_holds(
    request: Request,
    person: Releasing,
    web: TheWeb,
    query: Annotated[ReleaseQuery, Query()],
    idempotency_key: Key = None,
) -> Response:
    """Release customers from hold, all or none, and list the records of ended batches that it held back.

    To resubmit, it is answered as a submission is; sent again, it goes on where it stopped.
    """
    customers, fields = await _asked(request, web, query, ReleaseList)
    if not fields.resubmit:
        return JSONResponse(released_json(await let_go(web, person, customers)))
    also(request, person, Act.SUBMIT)

    async def make() -> Answer:
        taken = await resubmit(web, person, customers, fields.confirm)
        return answer_of(taken) if isinstance(taken, Taken) else Answer(200, "", released_json(taken))

    return await once(web, person, idempotency_key, (["release", customers.ids], fields), make)


def released_json(ended: Release) -> dict[str, Any]:
    """What became of a release."""
    return {"released": len(ended.ids), "held_back": [each.as_json() for each in ended.held_back]}


async def let_go(web: Web, person: Person, customers: Customers, *, again: bool = False) -> Release:
    """End their holds; ``again``, it may be that they were released before."""
    store = web.store
    ending = await releasing(store.holds, store.batches, web.settings.target, customers, resubmit=again)
    await release(store.holds, ending, person.name)
    return ending


async def resubmit(web: Web, person: Person, customers: Customers, confirm: str | None) -> Taken | Release:
    """End their holds and make a batch of what was held back, by the rules of a submission; raises as these do.

    Only the release, if nothing was held back.
    """
    store, rules = web.store, web.settings.rules
    ending = await releasing(store.holds, store.batches, rules.target, customers, resubmit=True)
    if not ending.held_back:
        await release(store.holds, ending, person.name)
        return ending
    return await release_and_resubmit(
        *(store.batches, store.holds, store.feeder),
        ending,
        rules,
        person.name,
        lambda described: check_confirmation(described, confirm),
    )
