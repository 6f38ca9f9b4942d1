"""The audit trail, newest first."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from worker.web import audit as api
from worker.web.access import Looking
from worker.web.pages.rendering import page
from worker.web.state import TheWeb

router = APIRouter()
_PAGE = 50


@router.get("/audit")
async def show_audit(
    request: Request,
    person: Looking,
    web: TheWeb,
    batch: Annotated[str, Query(max_length=13)] = "",
    before: Annotated[str | None, Query(max_length=30)] = None,
) -> Response:
    """Who did what, of one batch if asked."""
    found = await api.show_audit(person, web, batch or None, before, _PAGE)
    more = urlencode({"batch": batch, "before": found["next"]}) if found["next"] else ""
    return page(request, "audit.html", person, entries=found["entries"], batch=batch, more=more)
