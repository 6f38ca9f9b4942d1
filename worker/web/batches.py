"""Batches: how they stand, and what is asked of them."""

import asyncio
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from worker.domain.batches import Batch, BatchState, Lane
from worker.domain.brakes import Despite
from worker.domain.people import Act
from worker.pipeline import control, listing
from worker.pipeline import retry as retrying
from worker.pipeline.admission import signed
from worker.pipeline.plan import batch_plan_json
from worker.pipeline.submission import check_confirmation, feed
from worker.reports.as_json import batch_json, status_json
from worker.store.batches import Place
from worker.store.shards import Presence
from worker.web.access import Admitted, Looking, LookingAt, on_batch
from worker.web.bodies import BatchBody, BatchesBody, PlanBody, StatusBody
from worker.web.problems import Kind, Problem, documented
from worker.web.state import TheWeb, Web

router = APIRouter(prefix="/v1/batches", tags=["batches"])
_CURSOR = re.compile(r"([0-9]{1,15})-([0-9a-z]{13})")
_PATIENCE = 10.0  # seconds for what is in flight when a batch is cancelled

Confirm = Annotated[
    str | None,
    Query(max_length=40, description="In production: exactly the number of records, or the ID of the plan."),
]


@router.get("", response_model=BatchesBody, responses=documented())
async def list_batches(
    _: Looking,
    web: TheWeb,
    state: Annotated[BatchState | None, Query(description="Only batches in this state.")] = None,
    lane: Annotated[Lane | None, Query(description="Only batches of this lane.")] = None,
    submitted_by: Annotated[str | None, Query(max_length=64, description="Only batches of this name.")] = None,
    reference: Annotated[str | None, Query(max_length=200, description="Only the batch of this reference.")] = None,
    after: Annotated[str | None, Query(max_length=40, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="At most so many.")] = 50,
) -> dict[str, Any]:
    """Batches, newest first. A page may have fewer than `limit`, even none; there are more until `next` is null."""
    wanted = listing.Wanted(web.settings.target, state, lane, submitted_by, reference)
    found, place = await listing.page(web.store.batches, wanted, place_of(after), limit)
    return {
        "batches": [batch_json(batch) for batch in found],
        "next": f"{place.at}-{place.batch_id}" if place else None,
    }


def place_of(cursor: str | None) -> Place | None:
    """The place that ``next`` of a page stands for; raises ``Problem`` if it is none."""
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise Problem(Kind.REQUEST, "after: must be `next` of another page")
    return Place(int(match[1]), match[2])


@router.get("/{batch_id}", response_model=StatusBody, responses=documented(Kind.NOT_FOUND))
async def show_batch(admitted: LookingAt, web: TheWeb) -> dict[str, Any]:
    """How a batch stands, and whether it gets on."""
    return await status_of(web, admitted.batch)


async def status_of(web: Web, batch: Batch) -> dict[str, Any]:
    """How a batch stands, as JSON values."""
    workers = await Presence(web.store.redis, batch.description.target).count()
    return status_json(batch, workers, web.settings.rate_limit.sustained, time.time())


@router.get("/{batch_id}/plan", response_model=PlanBody, responses=documented(Kind.NOT_FOUND))
async def show_plan(admitted: LookingAt, web: TheWeb) -> dict[str, Any]:
    """What the batch was planned to do, and what of it is still to be sent: for whoever approves it."""
    return await batch_plan_json(web.store.batches, admitted.batch, web.settings.rate_limit)


@router.post(
    "/{batch_id}/approve", response_model=BatchBody, responses=documented(Kind.NOT_FOUND, Kind.APPROVAL, Kind.STATE)
)
async def approve(
    admitted: Annotated[Admitted, Depends(on_batch(Act.APPROVE))],
    web: TheWeb,
    sha256: Annotated[
        str | None,
        Query(pattern="^[0-9a-fA-F]{64}$", description="Only if the submitted file has this SHA-256."),
    ] = None,
) -> dict[str, Any]:
    """Let a batch run that somebody else submitted, and that waits for this."""
    store, person = web.store, admitted.person
    await control.approve(store.batches, store.feeder, admitted.batch.id, person.name, sha256=sha256)
    return await _now(web, admitted.batch)


@router.post("/{batch_id}/pause", response_model=BatchBody, responses=documented(Kind.NOT_FOUND, Kind.STATE))
async def pause(admitted: Annotated[Admitted, Depends(on_batch(Act.PAUSE))], web: TheWeb) -> dict[str, Any]:
    """Stop sending; when this is answered, nothing more is sent until `resume`."""
    await control.pause(web.store.batches, admitted.batch.id, admitted.person.name)
    return await _now(web, admitted.batch)


@router.post(
    "/{batch_id}/resume", response_model=BatchBody, responses=documented(Kind.NOT_FOUND, Kind.STATE, Kind.BRAKE)
)
async def resume(
    admitted: Annotated[Admitted, Depends(on_batch(Act.RESUME))],
    web: TheWeb,
    despite: Annotated[Despite | None, Query(description="Go on although this brake holds the batch.")] = None,
) -> dict[str, Any]:
    """Go on with a paused batch."""
    store, name = web.store, admitted.person.name
    await control.resume(store.batches, store.feeder, admitted.batch.id, name, despite=despite)
    return await _now(web, admitted.batch)


@router.post(
    "/{batch_id}/cancel",
    response_model=BatchBody,
    responses={
        **documented(Kind.NOT_FOUND, Kind.STATE),
        202: {"model": BatchBody, "description": "Nothing more is sent; what is in flight has not ended yet."},
    },
)
async def cancel(admitted: Annotated[Admitted, Depends(on_batch(Act.CANCEL))], web: TheWeb) -> Response:
    """End a batch for good: nothing more is sent, and what is pending is skipped. It cannot be resumed."""
    store, status = web.store, 200
    try:
        async with asyncio.timeout(_PATIENCE):
            await control.cancel(store.batches, store.shards, admitted.batch.id, lambda _: None, admitted.person.name)
    except TimeoutError:  # the workers finish it
        status = 202
    return JSONResponse(await _now(web, admitted.batch), status)


@router.post(
    "/{batch_id}/retry",
    response_model=BatchBody,
    status_code=202,
    responses={
        **documented(Kind.NOT_FOUND, Kind.STATE, Kind.CONFIRMATION),
        200: {"model": BatchBody, "description": "It was retried before: this is that batch."},
    },
)
async def retry(
    admitted: Annotated[Admitted, Depends(on_batch(Act.SUBMIT))], web: TheWeb, confirm: Confirm = None
) -> Response:
    """Make a new batch of the records that may end otherwise. Asked twice, it is the same batch."""
    settings, store = web.settings, web.store
    described = retrying.describe(
        admitted.batch, settings.shard_size, settings.brakes(settings.environment), settings.approval
    )
    check_confirmation(described, confirm)
    description = signed(described, admitted.person.name)
    accepted = await retrying.retry(store.batches, store.holds, admitted.batch, description)
    made = await store.batches.get(accepted.batch_id)
    if made is None:
        raise Problem(Kind.NOT_FOUND, "the batch has expired")
    if accepted.known_by is None:
        await feed(store.feeder, made)
    return accepted_json(made, known=accepted.known_by is not None)


def accepted_json(batch: Batch, *, known: bool) -> Response:
    """A batch that was accepted now, or before."""
    return JSONResponse(batch_json(batch), 200 if known else 202, {"Location": f"/v1/batches/{batch.id}"})


async def _now(web: Web, batch: Batch) -> dict[str, Any]:
    return batch_json(await web.store.batches.get(batch.id) or batch)
