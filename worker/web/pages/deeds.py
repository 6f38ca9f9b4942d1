"""What somebody asks of a batch; what cannot be undone is asked once more on a page of its own."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from worker.domain.batches import Batch, BatchState
from worker.domain.brakes import Despite
from worker.domain.people import Act
from worker.pipeline import retry as retrying
from worker.web import batches as api
from worker.web.access import Admitted, on_batch
from worker.web.pages.rendering import page
from worker.web.state import TheWeb

router = APIRouter(prefix="/batches/{batch_id}")
Approving = Annotated[Admitted, Depends(on_batch(Act.APPROVE))]
Cancelling = Annotated[Admitted, Depends(on_batch(Act.CANCEL))]
Pausing = Annotated[Admitted, Depends(on_batch(Act.PAUSE))]
Resuming = Annotated[Admitted, Depends(on_batch(Act.RESUME))]
Retrying = Annotated[Admitted, Depends(on_batch(Act.SUBMIT))]


@router.get("/approve")
async def ask_to_approve(request: Request, admitted: Approving, web: TheWeb) -> Response:
    """Who submitted what, before it may run; nothing to ask if somebody was faster."""
    if admitted.batch.state is not BatchState.AWAITING_APPROVAL:
        return _back(admitted.batch)
    plan = await api.show_plan(admitted, web)
    return page(request, "approve.html", admitted.person, batch=admitted.batch, plan=plan)


@router.post("/approve")
async def approve(admitted: Approving, web: TheWeb, sha256: Annotated[str, Form(max_length=80)] = "") -> Response:
    """Let it run."""
    await api.approve(admitted, web, sha256.strip() or None)
    return _back(admitted.batch)


@router.post("/pause")
async def pause(admitted: Pausing, web: TheWeb) -> Response:
    """Send nothing more for now."""
    await api.pause(admitted, web)
    return _back(admitted.batch)


@router.post("/resume")
async def resume(admitted: Resuming, web: TheWeb, despite: Annotated[Despite | None, Form()] = None) -> Response:
    """Go on."""
    await api.resume(admitted, web, despite)
    return _back(admitted.batch)


@router.get("/cancel")
async def ask_to_cancel(request: Request, admitted: Cancelling) -> Response:
    """What it means, before it is done; nothing to ask of a batch that has ended."""
    if admitted.batch.ended_at is not None:
        return _back(admitted.batch)
    return page(request, "cancel.html", admitted.person, batch=admitted.batch)


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
async def retry(admitted: Retrying, web: TheWeb, confirm: Annotated[str, Form(max_length=40)] = "") -> Response:
    """Make a new batch of what may end otherwise."""
    made = await api.retry(admitted, web, confirm.strip() or None)
    return RedirectResponse(made.headers["Location"].removeprefix("/v1"), 303)


def _back(batch: Batch) -> Response:
    return RedirectResponse(f"/batches/{batch.id}", 303)
