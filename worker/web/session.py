"""Signing in on the page with a token: it is exchanged for a session, whose word the browser keeps in a cookie."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from worker.domain.errors import Guard, RefusedError
from worker.store.sessions import LASTS
from worker.web.access import COOKIE
from worker.web.state import web_of
from worker.web.ways_back import remember

router = APIRouter(include_in_schema=False)


@router.post("/session", status_code=303, response_class=RedirectResponse)
async def begin(
    request: Request, token: Annotated[str, Form(max_length=200)], to: Annotated[str, Form()] = ""
) -> Response:
    """Sign in with a token; the answer leads to a page of ours and sets a cookie that lasts for twelve hours."""
    web, back = web_of(request), remember(request, to)
    found = await web.store.tokens.find(token.strip())
    if found is None:
        await web.limits.count_stranger(request.client.host if request.client else "")
        raise RefusedError("the token is not known, or was revoked; an admin makes another", Guard.IDENTITY)
    answer = RedirectResponse(back, 303)
    set_session(answer, await web.store.sessions.begin(found))
    return answer


def set_session(answer: Response, word: str) -> None:
    """Have the browser keep a session's word; it sends it with nothing that another site began."""
    answer.set_cookie(COOKIE, word, max_age=LASTS, path="/", secure=True, httponly=True, samesite="strict")


@router.post("/session/end", status_code=303, response_class=RedirectResponse)
async def end(request: Request) -> Response:
    """Sign out."""
    if word := request.cookies.get(COOKIE):
        await web_of(request).store.sessions.end(word)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer
