"""The application: its routes, and what becomes of an error in any of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from worker.domain.errors import ExpungeError, RefusedError
from worker.settings import Settings
from worker.store.connection import readable_errors
from worker.web import access, batches, health, session
from worker.web.limits import Limits
from worker.web.problems import Kind, Problem, problem_of, problem_of_http
from worker.web.shell import Shell
from worker.web.state import Web
from worker.wiring import open_store, redis_url

PUBLIC = frozenset({"/healthz", "/readyz", "/session", "/session/end", "/v1/openapi.json"})
"""What asks nobody who they are. Every other route has an act, or a test fails."""
UPLOADS = frozenset({"/v1/batches", "/v1/plans", "/v1/holds"})
"""What takes a file."""
ErrorPage: TypeAlias = Callable[[Request, Problem], Response]


def create_app(settings: Settings) -> FastAPI:
    """The application for one merchant, environment and upstream; its lifespan opens the store."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_store(settings) as store:
            app.state.web = Web(settings, store, Limits(settings.web_rate_limit))
            yield

    app = FastAPI(
        title="Expunge",
        version=version("expunge"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Shell, uploads=UPLOADS, max_upload=settings.max_upload)],
    )
    app.state.error_page = None
    for part in (health, session, batches):
        app.include_router(part.router)
    _translate_errors(app, redis_url(settings))
    return app


def _translate_errors(app: FastAPI, url: str) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, RefusedError):
            await access.note(request, error)
        problem = _translated(error, url)
        page: ErrorPage | None = request.app.state.error_page
        return page(request, problem) if page is not None and _wants_page(request) else problem.response()

    for kind in (ExpungeError, RedisError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def _translated(error: Exception, url: str) -> Problem:
    match error:
        case ExpungeError():
            return problem_of(error)
        case RequestValidationError():
            return _not_understood(error)
        case HTTPException():
            return problem_of_http(error)
    try:
        with readable_errors(url):
            raise error
    except ExpungeError as readable:
        return problem_of(readable)


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", "")


def _not_understood(error: RequestValidationError) -> Problem:
    """Which parts of the request are wrong; not what they held."""
    wrong = [{"part": ".".join(map(str, each["loc"])), "problem": each["msg"]} for each in error.errors()]
    named = "; ".join(f"{each['part']}: {each['problem']}" for each in wrong[:5])
    return Problem(Kind.REQUEST, named, errors=wrong[:20])
