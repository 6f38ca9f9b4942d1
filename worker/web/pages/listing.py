"""The batches, page by page."""

import time
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from worker.domain.batches import BatchState, Lane
from worker.pipeline import listing
from worker.web.access import Looking
from worker.web.batches import place_of
from worker.web.pages.rendering import page
from worker.web.pages.views import row_of
from worker.web.problems import Kind, Problem
from worker.web.state import TheWeb

router = APIRouter()
_PAGE = 25


class Filter(BaseModel):
    """What somebody looks for; as the form sends it, where an empty field is none."""

    model_config = ConfigDict(extra="forbid")

    state: str = ""
    lane: str = ""
    submitted_by: str = ""
    after: str | None = None

    @property
    def query(self) -> dict[str, str]:
        """What of it says something."""
        return {name: str(value) for name, value in self.model_dump(exclude={"after"}).items() if value}


Word = TypeVar("Word", BatchState, Lane)


def _one_of(words: type[Word], field: str, text: str) -> Word | None:
    """What was chosen; raises ``Problem`` for what cannot be chosen."""
    try:
        return words(text) if text else None
    except ValueError:
        raise Problem(Kind.REQUEST, f"there is no {field} '{text[:40]}': choose one of the list") from None


@router.get("/batches")
async def show_batches(request: Request, person: Looking, web: TheWeb, wanted: Annotated[Filter, Query()]) -> Response:
    """The newest batches, of those that are looked for."""
    state, lane = _one_of(BatchState, "state", wanted.state), _one_of(Lane, "lane", wanted.lane)
    looked_for = listing.Wanted(web.settings.target, state, lane, wanted.submitted_by.strip() or None)
    found, place = await listing.page(web.store.batches, looked_for, place_of(wanted.after), _PAGE)
    now, rate = time.time(), web.settings.rate_limit.sustained
    more = urlencode(wanted.query | {"after": f"{place.at}-{place.batch_id}"}) if place else ""
    return page(
        request,
        "batches.html",
        person,
        rows=[row_of(batch, rate, now) for batch in found],
        wanted=wanted,
        states=list(BatchState)[1:],
        lanes=list(Lane),
        more=more,
    )
