"""Whether the process lives, and whether it can work: for whoever supervises it, so without a token.

Some probes ask by HEAD; whoever serves leaves the body out.
"""

import asyncio

from fastapi import APIRouter, Request

from worker.domain.errors import StoreError
from worker.web.bodies import HealthBody
from worker.web.problems import Kind, documented
from worker.web.state import web_of

_PATIENCE = 2.0  # seconds

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=HealthBody)
async def healthz() -> dict[str, bool]:
    """The process answers."""
    return {"ok": True}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=HealthBody, responses=documented(Kind.UNAVAILABLE, anywhere=()))
async def readyz(request: Request) -> dict[str, bool]:
    """Redis answers as well."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await web_of(request).store.redis.ping()
    except TimeoutError:
        raise StoreError("Redis does not answer") from None
    return {"ok": True}
