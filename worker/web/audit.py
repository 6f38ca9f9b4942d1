"""The audit trail."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query

from worker.reports.as_json import entry_json
from worker.web.access import Looking
from worker.web.bodies import AuditBody
from worker.web.problems import Kind, Problem, documented
from worker.web.state import TheWeb

router = APIRouter(prefix="/v1", tags=["audit"], responses=documented())
_POSITION = re.compile(r"[0-9]{1,15}-[0-9]{1,6}")


@router.get("/audit", response_model=AuditBody)
async def show_audit(
    _: Looking,
    web: TheWeb,
    batch: Annotated[str | None, Query(max_length=13, description="Only of this batch.")] = None,
    before: Annotated[str | None, Query(max_length=30, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> dict[str, Any]:
    """Who did what, and what was refused, newest first: of this merchant and environment, and what is of none.

    A page may have fewer than `limit`, even none; there are more until `next` is null.
    """
    if before is not None and not _POSITION.fullmatch(before):
        raise Problem(Kind.REQUEST, "before: must be `next` of another page")
    entries, position = await web.trail.page(batch, before or "", limit)
    return {"entries": [entry_json(entry) for entry in entries], "next": position}
