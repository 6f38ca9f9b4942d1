"""``/metrics``: for Prometheus, with a token like everybody."""

from fastapi import APIRouter
from starlette.responses import Response

from worker.web.access import Looking
from worker.web.counting import CONTENT_TYPE
from worker.web.problems import documented
from worker.web.state import TheWeb

router = APIRouter(tags=["health"], responses=documented())


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(_: Looking, web: TheWeb) -> Response:
    """What this process counts, in Prometheus' text format."""
    return Response(web.metrics.shown(), headers={"Content-Type": CONTENT_TYPE})
