"""The way in."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from worker.web.access import identified
from worker.web.pages.rendering import sign_in

router = APIRouter()


@router.get("/")
async def enter(request: Request) -> Response:
    """The batches, for somebody who is signed in; else the form that takes a token."""
    return sign_in(request) if await identified(request) is None else RedirectResponse("/batches", 303)
