"""What somebody asks of a batch; what cannot be undone is asked once more on a page of its own."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse, Response

from worker.domain.batches import Batch, BatchState
from worker.domain.brakes import Despite
from worker.domain.people import Act
from worker.pipeline import retry as retrying
from worker.web import batches as api
from worker.web.access import Admitted, on_batch
from worker.web.forms import form
from worker.web.pages import views
from worker.web.pages.rendering import page
from worker.web.state import TheWeb

router = APIRouter(prefix="/batches/{batch_id}")
Approving = Annotated[Admitted, Depends(on_batch(Act.APPROVE))]
Cancelling = Annotated[Admitted, Depends(on_batch(Act.CANCEL))]
Pausing = Annotated[Admitted, Depends(on_batch(Act.PAUSE))]
Resuming = Annotated[Admitted, Depends(on_batch(Act.RESUME))]
Retrying = Annotated[Admitted, Depends(on_batch(Act.SUBMIT))]


class Seen(BaseModel):
    """Which file an approver has seen."""

    sha256: str = Field("", max_length=80)


class Ways(BaseModel):
    """What somebody answers for who goes on."""

    despite: Despite | None = None


class Confirmation(BaseModel):
    """How many records somebody means."""

    confirm: str = Field("", max_length=40)


@router.get("/approve")
async def ask_to_approve(request: Request, admitted: Approving, web: TheWeb) -> Response:
    """Who submitted what, before it may run; nothing to ask if somebody was faster."""
    if admitted.batch.state is not BatchState.AWAITING_APPROVAL:
        return _back(admitted.batch)
    plan = await api.show_plan(admitted, web)
    return page(request, "approve.html", admitted.person, batch=admitted.batch, plan=plan)


@router.post("/approve")
async def approve(admitted: Approving, web: TheWeb, seen: Annotated[Seen, Depends(form(Seen))]) -> Response:
    """Let it run."""
    await api.approve(admitted, web, seen.sha256.strip() or None)
    return _back(admitted.batch)


@router.post("/pause")
async def pause(admitted: Pausing, web: TheWeb) -> Response:
    """Send nothing more for now."""
    await api.pause(admitted, web)
    return _back(admitted.batch)


@router.post("/resume")
async def resume(admitted: Resuming, web: TheWeb, ways: Annotated[Ways, Depends(form(Ways))]) -> Response:
    """Go on."""
    await api.resume(admitted, web, ways.despite)
    return _back(admitted.batch)


@router.get("/cancel")
async def ask_to_cancel(request: Request, admitted: Cancelling) -> Response:
    """What it means, before it is done; nothing to ask of a batch that has ended."""
    person, batch = admitted
    if batch.ended_at is not None:
        return _back(batch)
    return page(request, "cancel.html", person, batch=batch, offered=views.offered(person, batch))


@router.post("/cancel")
async def cancel(admitted: Cancelling, web: TheWeb) -> Response:
    """End it for good."""
    await api.cancel(admitted, web)
    return _back(admitted.batch)


@router.get("/retry")
async def ask_to_retry(request: Request, admitted: Retrying, web: TheWeb) -> Response:
    """How many records it would send, before it does."""
    settings = web.settings
    brakes = settings.brakes(settings.environment)
    described = retrying.describe(admitted.batch, settings.shard_size, brakes, settings.approval)
    return page(request, "retry.html", admitted.person, batch=admitted.batch, described=described)


@router.post("/retry")
async def retry(
    admitted: Retrying, web: TheWeb, said: Annotated[Confirmation, Depends(form(Confirmation))]
) -> Response:
    """Make a new batch of what may end otherwise."""
    made = await api.retry(admitted, web, said.confirm.strip() or None)
    return RedirectResponse(made.headers["Location"].removeprefix("/v1"), 303)


def _back(batch: Batch) -> Response:
    return RedirectResponse(f"/batches/{batch.id}", 303)
