"""All pages."""

from fastapi import APIRouter

from worker.web.pages import audit, batch, deeds, entrance, holds, listing, new

router = APIRouter(include_in_schema=False)
for part in (entrance, listing, new, batch, deeds, holds, audit):
    router.include_router(part.router)
