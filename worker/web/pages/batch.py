"""One batch: how it stands, while somebody looks."""

import time
from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from worker.domain.batches import Batch, BatchState
from worker.domain.deadlines import expected_end
from worker.domain.people import Act, Person
from worker.reports.advice import why_paused
from worker.web.access import LookingAt
from worker.web.pages import views
from worker.web.pages.rendering import page, rendered
from worker.web.state import TheWeb, Web

router = APIRouter(prefix="/batches/{batch_id}")


@router.get("")
async def show_batch(request: Request, admitted: LookingAt, web: TheWeb) -> Response:
    """All of it, and what can be asked of it."""
    person, batch = admitted
    return page(
        request,
        "batch.html",
        person,
        offered=views.offered(person, batch),
        retryable=views.retryable(batch),
        own=batch.description.submitted_by == person.name,
        failed=",".join(views.FAILED),
        unprocessed=",".join(views.UNPROCESSED),
        despite=views.DESPITE,
        formats=views.extra_formats(batch.description.rows),
        **await shown(web, person, batch),
    )


@router.get("/live")
async def show_progress(admitted: LookingAt, web: TheWeb, seen: str = Query("", max_length=40)) -> Response:
    """The part of the page that changes while the batch gets on; the whole page anew when its state changes."""
    person, batch = admitted
    stage = views.stage(batch)

    async def render() -> str:
        return rendered("_live.html", **await shown(web, person, batch))

    text = await web.fragments.of((batch.id, stage, _sees_brake(person, batch)), render)
    return HTMLResponse(text, headers={"HX-Refresh": "true"} if seen not in ("", stage) else None)


def _sees_brake(person: Person, batch: Batch) -> bool:
    return batch.tripped is not None and views.may(person, Act.RESUME, batch)


async def shown(web: Web, person: Person, batch: Batch) -> dict[str, Any]:
    """What the live part shows."""
    now = time.time()
    alone = batch.goes_on and not await web.store.presence.count()
    expected = None if alone else expected_end(batch, web.settings.rate_limit.sustained, now)
    return {
        "batch": batch,
        "description": batch.description,
        "state": views.state_of(batch),
        "stage": views.stage(batch),
        "every": views.look_again(batch),
        "counts": views.counts(batch.tally),
        "segments": views.segments(batch.tally),
        "in_words": views.in_words(batch.tally),
        "groups": views.groups(batch.tally),
        "chart": await web.charts.of(batch),
        "expected": expected,
        "left": expected - now if expected is not None and batch.ended_at is None else None,
        "on_time": views.punctuality(batch, expected),
        "why_paused": why_paused(batch) if batch.state is BatchState.PAUSED else "",
        "brake_shown": _sees_brake(person, batch),
        "no_worker": alone,
        "now": now,
    }
