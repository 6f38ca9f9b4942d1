"""The application: its routes, and what becomes of an error in any of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from worker.domain.errors import ExpungeError, RefusedError
from worker.outfit import event_reader
from worker.pipeline.duties import beside
from worker.pipeline.trail import Trail
from worker.settings import Settings
from worker.web import (
    access,
    audit,
    batches,
    counters,
    downloads,
    events,
    health,
    holds,
    inbox,
    session,
    single_sign_on,
    submitting,
)
from worker.web.counting import Metrics
from worker.web.description import describe_api
from worker.web.following import Hub
from worker.web.keeping import KeptFiles
from worker.web.limits import Limits
from worker.web.pages import routes
from worker.web.pages.charts import Charts
from worker.web.pages.fragments import Fragments
from worker.web.pages.rendering import FILES, Static, error_page
from worker.web.problems import Kind, Problem, in_words, problem_of, problem_of_http
from worker.web.provider import open_provider
from worker.web.shell import FORM, Cap, Shell
from worker.web.signatures import Signatures
from worker.web.state import Web
from worker.web.trouble import StoreTrouble
from worker.wiring import open_store, redis_url

PUBLIC = frozenset(
    {
        "/healthz",
        "/readyz",
        "/session",
        "/session/end",
        "/session/provider",
        "/session/provider/return",
        "/v1/openapi.json",
        "/",
        "/static",
    }
)
"""What asks nobody who they are. Every other route has an act, or takes only what is signed; or a test fails."""


_PARTS = (health, session, single_sign_on, submitting, batches, downloads, events, inbox, holds, audit, counters)


def create_app(settings: Settings) -> FastAPI:
    """The application for one merchant, environment and upstream; its lifespan opens the store."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(settings))
            hub = await stack.enter_async_context(Hub(store, settings))
            await stack.enter_async_context(beside(store.gatherer.close_forever()))
            sign_on = settings.sign_on
            provider = await stack.enter_async_context(open_provider(sign_on)) if sign_on else None
            kept = stack.enter_context(closing(KeptFiles(settings.max_upload)))
            metrics.followers.set_function(lambda: hub.followers)
            app.state.web = Web(
                settings,
                store,
                Limits(settings.web_rate_limit),
                Trail(store.audit, settings.target),
                hub,
                metrics,
                kept,
                Charts(store.finished),
                Fragments(),
                provider=provider,
                signatures=Signatures(secret.get_secret_value() for secret in settings.event_secrets),
                reader=event_reader(settings),
            )
            yield

    app = FastAPI(
        title="Expunge",
        version=version("expunge"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Shell, caps=_caps(settings.max_upload), metrics=metrics, answer=_answer)],
        generate_unique_id_function=lambda route: route.name,
    )
    for part in _PARTS:
        app.include_router(part.router)
    app.include_router(routes.router)
    app.mount("/static", Static(directory=FILES))
    _translate_errors(app, StoreTrouble(redis_url(settings)))
    describe_api(app)
    return app


def _caps(max_upload: int) -> dict[str, Cap]:
    """Of the paths that take more than a form, or anything but one."""
    file, list_of_holds = (Cap(most, most + FORM) for most in (max_upload, holds.LARGEST))
    return {
        "/new": file,
        "/v1/batches": file,
        "/v1/plans": file,
        "/v1/events": Cap(inbox.LARGEST, inbox.LARGEST, "send fewer events at once"),
        "/v1/holds": list_of_holds,
        "/v1/holds/release": list_of_holds,
        "/holds/file": list_of_holds,
    }


def _translate_errors(app: FastAPI, trouble: StoreTrouble) -> None:
    async def translate(request: Request, error: Exception) -> Response:
        if isinstance(error, RefusedError):
            await access.note(request, error)
        problem = _translated(error, trouble, access.concerned(request))
        if problem.kind is Kind.METHOD:
            problem.headers = {"Allow": _allowed(request) or (problem.headers or {}).get("Allow", "")}
        return _answer(request, problem)

    for kind in (ExpungeError, RedisError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, translate)


def _allowed(request: Request) -> str:
    """All methods of an address, where the framework names those of its first route; empty for a mounted folder."""
    routes = [each for each in iter_route_contexts(request.app.routes) if each.methods]
    here = [each.methods or () for each in routes if each.path_regex.match(request.scope["path"])]
    return ", ".join(sorted(set[str]().union(*here)))


def _answer(request: Request, problem: Problem) -> Response:
    """A page for a browser, else problem details."""
    return error_page(request, problem) if _wants_page(request) else problem.response()


def _translated(error: Exception, trouble: StoreTrouble, members: dict[str, str]) -> Problem:
    match error:
        case RedisError():
            return trouble.problem(error)
        case ExpungeError():
            return problem_of(error, **members)
        case RequestValidationError():
            return _not_understood(error)
        case HTTPException():
            return problem_of_http(error)
    raise error  # no handler is set for others


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", "")


def _not_understood(error: RequestValidationError) -> Problem:
    """Which parts of the request are wrong; not what they held."""
    wrong = [{"part": ".".join(map(str, each["loc"])), "problem": each["msg"]} for each in error.errors()]
    named = "; ".join(in_words(each["loc"], each["msg"]) for each in error.errors()[:5])
    return Problem(Kind.REQUEST, f"{named}: `/v1/openapi.json` says what is taken", errors=wrong[:20])
