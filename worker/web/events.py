"""How a batch gets on, as server-sent events."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response, StreamingResponse

from worker.web.access import LookingAt
from worker.web.following import snapshot
from worker.web.problems import Kind, documented
from worker.web.state import TheWeb

router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=documented(Kind.NOT_FOUND))

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events named `batch`; the data are a batch as JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The batch has ended, and its last event was received."},
}


@router.get("/{batch_id}/events", response_class=StreamingResponse, responses=_STREAM)
async def events(
    admitted: LookingAt,
    web: TheWeb,
    last_event_id: Annotated[str | None, Header(description="The `id` of the last event that was received.")] = None,
) -> Response:
    """An event with the batch as it stands, and one whenever that changes, until it has ended."""
    if admitted.batch.ended_at is not None:
        last = await snapshot(web.store, web.settings, admitted.batch)
        if last.id == last_event_id:
            return Response(status_code=204)  # tells a browser not to ask again
    stream = web.hub.follow(admitted.batch, last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
