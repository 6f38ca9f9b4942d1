"""The application: its routes, and what becomes of an error in any of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from worker.domain.errors import ExpungeError, RefusedError
from worker.pipeline.trail import Trail
from worker.settings import Settings
from worker.store.connection import readable_errors
from worker.web import access, audit, batches, counters, downloads, events, health, holds, session, submitting
from worker.web.counting import Metrics
from worker.web.description import describe_api
from worker.web.following import Hub
from worker.web.keeping import KeptFiles
from worker.web.limits import Limits
from worker.web.pages import routes
from worker.web.pages.charts import Charts
from worker.web.pages.rendering import FILES, Static, error_page
from worker.web.problems import Kind, Problem, in_words, problem_of, problem_of_http
from worker.web.shell import Shell
from worker.web.state import Web
from worker.wiring import open_store, redis_url

PUBLIC = frozenset({"/healthz", "/readyz", "/session", "/session/end", "/v1/openapi.json", "/", "/static"})
"""What asks nobody who they are. Every other route has an act, or a test fails."""


def create_app(settings: Settings) -> FastAPI:
    """The application for one merchant, environment and upstream; its lifespan opens the store."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_store(settings) as store, Hub(store, settings) as hub:
            metrics.followers.set_function(lambda: hub.followers)
            trail = Trail(store.audit, settings.target)
            with closing(KeptFiles(settings.max_upload)) as kept:
                limits, charts = Limits(settings.web_rate_limit), Charts(store.finished)
                app.state.web = Web(settings, store, limits, trail, hub, metrics, kept, charts)
                yield

    app = FastAPI(
        title="Expunge",
        version=version("expunge"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Shell, largest=_largest(settings.max_upload), metrics=metrics, answer=_answer)],
        generate_unique_id_function=lambda route: route.name,
    )
    for part in (health, session, submitting, batches, downloads, events, holds, audit, counters):
        app.include_router(part.router)
    app.include_router(routes.router)
    app.mount("/static", Static(directory=FILES))
    _translate_errors(app, redis_url(settings))
    describe_api(app)
    return app


def _largest(max_upload: int) -> dict[str, int]:
    """The largest file in bytes of the paths that take one."""
    return {
        "/new": max_upload,
        "/v1/batches": max_upload,
        "/v1/plans": max_upload,
        "/v1/holds": holds.LARGEST,
        "/v1/holds/release": holds.LARGEST,
        "/holds/file": holds.LARGEST,
    }


def _translate_errors(app: FastAPI, url: str) -> None:
    async def translate(request: Request, error: Exception) -> Response:
        if isinstance(error, RefusedError):
            await access.note(request, error)
        return _answer(request, _translated(error, url, access.concerned(request)))

    for kind in (ExpungeError, RedisError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, translate)


def _answer(request: Request, problem: Problem) -> Response:
    """A page for a browser, else problem details."""
    return error_page(request, problem) if _wants_page(request) else problem.response()


def _translated(error: Exception, url: str, members: dict[str, str]) -> Problem:
    match error:
        case ExpungeError():
            return problem_of(error, **members)
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
    named = "; ".join(in_words(each["loc"], each["msg"]) for each in error.errors()[:5])
    return Problem(Kind.REQUEST, f"{named}: `/v1/openapi.json` says what is taken", errors=wrong[:20])
