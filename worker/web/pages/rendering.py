"""Templates into answers; whatever a page shows is escaped, and the environment stands on each of them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from worker.domain.people import MAY, Act, Person
from worker.reports.advice import duration
from worker.reports.columns import rfc3339
from worker.web.pages import views
from worker.web.pages.wording import on_page, sentence
from worker.web.problems import Kind, Problem
from worker.web.state import web_of
from worker.web.ways_back import asked_for

FILES = Path(__file__).parents[1] / "static"
_FOREVER = "public, max-age=31536000, immutable"
_ANEW = {"HX-Refresh": "true"}
"""Of a part of a page that was refused: the whole page is asked for, so that it does not stand still without a word."""
_HINTS: Mapping[Kind, str] = {
    Kind.INPUT: "Mend the file, and choose it again. Nothing was sent.",
    Kind.TOO_LARGE: "Split the file, or pack it with gzip, and choose it again. Nothing was sent.",
    Kind.MEDIA_TYPE: "Choose a CSV file. Nothing was sent.",
    Kind.SIZE: "Check whether this is the right export; if it is, split it. Nothing was sent.",
    Kind.CONFIRMATION: "Go back, look again, and type the number of records.",
    Kind.REPEAT: "Nothing was sent. Look at that batch first.",
    Kind.NOT_FOUND: "Check the address, or go to the list of batches.",
    Kind.ROLE: "Ask somebody who has that role, or an admin for another token. Nothing was changed.",
    Kind.APPROVAL: "Nothing was changed.",
    Kind.RATE_LIMIT: "Wait a moment, and load the page again.",
    Kind.UNAVAILABLE: "Wait a moment, and load the page again. Batches that run go on by themselves.",
}
_BEGIN_WITH_A_NAME = frozenset({Kind.INPUT, Kind.SIZE, Kind.ROLE})
"""Of a file or of a person, which is written as it is."""


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _share(per_cent: float) -> str:
    """Never 0 % of something, nor 100 % of all but something."""
    if 0 < per_cent < 1:
        return "under 1 %"
    if 99 < per_cent < 100:
        return "over 99 %"
    return f"{per_cent:.0f} %"


@cache
def _address(name: str) -> str:
    """Of a file that browsers keep until it is another."""
    digest = hashlib.sha256((FILES / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


_templates = Environment(
    loader=PackageLoader("worker.web"),
    autoescape=True,
    auto_reload=False,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(when=_when, rfc3339=rfc3339, duration=duration, share=_share, number="{:,}".format)
_templates.filters.update(inert=views.inert, on_page=on_page)
_templates.globals.update(static=_address)


def page(
    request: Request,
    template: str,
    person: Person | None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **shown: Any,
) -> Response:
    """A whole page for somebody."""
    target = web_of(request).settings.target
    text = _templates.get_template(template).render(
        person=person,
        may_submit=person is not None and person.role in MAY[Act.SUBMIT],
        environment=target.environment.value,
        merchant=target.merchant,
        upstream=target.upstream,
        path=request.url.path,
        **shown,
    )
    return HTMLResponse(text, status, headers)


def rendered(template: str, **shown: Any) -> str:
    """A part of a page, which is the same whoever looks."""
    return _templates.get_template(template).render(**shown)


def error_page(request: Request, problem: Problem) -> Response:
    """What is wrong, in a sentence, and what to do; a stranger is shown where to sign in."""
    asked = getattr(request.state, "asked", None)
    person = asked.person if asked is not None else None
    headers = {name: value for name, value in (problem.headers or {}).items() if name.lower() != "www-authenticate"}
    detail = on_page(problem.detail)
    if problem.kind not in _BEGIN_WITH_A_NAME:
        detail = sentence(detail)
    if problem.kind in (Kind.IDENTITY, Kind.PROVIDER) or (problem.kind is Kind.ROLE and person is None):
        return sign_in(request, detail, status=problem.status_code, headers=_ANEW)
    return page(
        request,
        "error.html",
        person,
        status=problem.status_code,
        headers=headers,
        title=problem.kind.title,
        detail=detail,
        hint=_HINTS.get(problem.kind, ""),
        back=_back(request, person),
    )


def _back(request: Request, person: Person | None) -> tuple[str, str] | None:
    """The address of the page that somebody came from, and what a link to it says."""
    path = request.url.path
    if person is None:
        return None
    if kept := getattr(request.state, "kept", None):
        return kept, "Look at the file again"
    if path.startswith("/new") and person.role in MAY[Act.SUBMIT]:
        return "/new", "Choose a file"
    if path.startswith("/holds"):
        return "/holds", "Go to the holds"
    return "/batches", "Go to the batches"


def sign_in(
    request: Request, detail: str = "", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The ways in: by the identity provider, if there is one, and the form that takes a token."""
    sign_on = web_of(request).settings.sign_on
    provider = sign_on.host if sign_on else ""
    shown = {"detail": detail, "provider": provider, "back": asked_for(request)}
    return page(request, "sign_in.html", None, status=status, headers=headers, **shown)


class Static(StaticFiles):
    """Our own files and those of others that we bring along; their addresses change with them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, to be kept."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = _FOREVER
        return response
