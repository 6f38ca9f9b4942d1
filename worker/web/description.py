"""The API's description (OpenAPI), with what the framework cannot know: who may use which part."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from worker.domain.people import MAY, Act
from worker.web.access import COOKIE, acts_of
from worker.web.inbox import is_signed
from worker.web.signatures import HEADERS

_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of `expunge token add`."},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": HEADERS[-1],
        "description": "Of Standard Webhooks, by a secret of EXPUNGE_EVENT_SECRETS.",
    },
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of the page, after signing in."},
}
_ABOUT = (
    "Deletes customers of a payments API in bulk, and proves what happened to each of them. "
    "Everything but success is a problem (RFC 9457)."
)


def describe_api(app: FastAPI) -> None:
    """Let the application describe itself so."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    acts, signed = dict(_acts(app)), set(_signed(app))
    for operation in (each for path in schema["paths"].values() for each in path.values()):
        if act := acts.get(operation["operationId"]):
            operation["security"] = [{"token": []}, {"session": []}]
            operation["description"] += f"\n\nFor: {', '.join(MAY[act])}."
        elif operation["operationId"] in signed:
            operation["security"] = [{"signature": []}]
    return schema


def _acts(app: FastAPI) -> Iterator[tuple[str, Act]]:
    return ((name, act) for name, dependant in _routes(app) for act in acts_of(dependant))


def _signed(app: FastAPI) -> Iterator[str]:
    return (name for name, dependant in _routes(app) if is_signed(dependant))


def _routes(app: FastAPI) -> Iterator[tuple[str, Dependant]]:
    for route in iter_route_contexts(app.routes):
        if hasattr(route.original_route, "dependant"):
            yield route.operation_id or route.name or "", route.dependant
