"""Events of other systems (SPEC 8): CloudEvents 1.0, signed by Standard Webhooks; no person asks here.

Binary mode is the weaker one: of its headers only ``webhook-id`` is signed, so that must be the event's ID. Source and
type of a message that somebody caught could be changed within the five minutes in which its signature counts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.dependencies.models import Dependant
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from worker.domain import references
from worker.domain.events import REUSED, BadEventError, Event
from worker.intake.cloud_events import BATCHED, STRUCTURED, CloudEventReader
from worker.intake.plain_event import is_json
from worker.web.bodies import EventsBody
from worker.web.problems import Kind, Problem, documented
from worker.web.signatures import HEADERS, ID, unsigned
from worker.web.state import TheWeb, web_of
from worker.web.uploads import media_type

router = APIRouter(prefix="/v1/events", tags=["events"])
LARGEST = 512 << 10
"""Bytes of a body."""
MOST = 1_000
"""Events in a body."""
_NOT_SET = "no events are taken over HTTP here: set EXPUNGE_EVENT_SECRETS and EXPUNGE_EVENT_TYPES, then start again"

Read = Callable[[CloudEventReader, Headers, bytes], list[Event]]


@dataclass(frozen=True, slots=True)
class Message:
    """A body that somebody with a secret has sent, and how its events are read."""

    headers: Headers
    body: bytes
    read: Read

    async def events(self, reader: CloudEventReader) -> list[Event]:
        """Its events, beside other requests; raises ``BadEventError``, or ``Problem`` for an ID that is not signed."""
        found = await asyncio.to_thread(self.read, reader, self.headers, self.body)
        if len(found) > MOST:
            raise BadEventError(f"the body has {len(found):,} events; at most {MOST:,} can be in one")
        return found


async def signed_message(request: Request) -> Message:
    """A dependency: what was sent and signed. Nothing of the body is read before the headers give it a chance."""
    web, headers = web_of(request), request.headers
    if not web.signatures:
        raise Problem(Kind.NOT_FOUND, _NOT_SET)
    try:
        web.signatures.refuse_unsigned(headers)
        read = _mode(headers)
        body = await request.body()
        web.signatures.check(headers, body)
    except Problem as problem:
        if problem.kind is Kind.SIGNATURE:
            await web.limits.count_stranger(request.client.host if request.client else "")
        raise
    return Message(headers, body, read)


def is_signed(dependant: Dependant) -> bool:
    """Whether a route takes only what is signed, in place of an act that is for some people."""
    return dependant.call is signed_message or any(map(is_signed, dependant.dependencies))


def _mode(headers: Headers) -> Read:
    """How the events are read; raises ``Problem`` for what is none of the three modes."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(Kind.MEDIA_TYPE, "send the events as they were signed: unpacked, without Content-Encoding")
    kind = media_type(headers)
    if kind == STRUCTURED:
        return lambda reader, _, body: [reader.structured(body)]
    if kind == BATCHED:
        return lambda reader, _, body: reader.batched(body)
    if (not kind or is_json(kind)) and any(name.startswith("ce-") for name in headers):
        return _binary
    raise Problem(
        Kind.MEDIA_TYPE, f"send {STRUCTURED}, {BATCHED}, or the data as application/json under headers such as ce-type"
    )


def _binary(reader: CloudEventReader, headers: Headers, body: bytes) -> list[Event]:
    event = reader.binary(headers, body)
    if event.id not in (headers[ID], unquote(headers[ID])):
        raise unsigned(f"{ID}, which is signed, must be the same as ce-id, which is not")
    return [event]


_EVENT = {
    "specversion": "1.0",
    "id": "17",
    "source": "/crm",
    "type": "com.example.account.closed",
    "reference": "CRM 4711",
    "data": {"customer_id": "customer_1f0e"},
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        name: {"type": "string"} for name in ("specversion", "id", "source", "type", "reference", "due", "lane")
    },
}
_DESCRIBED: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": name in HEADERS, "description": about, "schema": {"type": "string"}}
        for name, about in {
            HEADERS[0]: "Names the message; in binary mode the same as `ce-id`.",
            HEADERS[1]: "Seconds since 1970, not more than five minutes from now.",
            HEADERS[2]: "`v1,` and the HMAC-SHA256 of ID, time stamp and body, by Standard Webhooks.",
            "ce-specversion": "In binary mode: `1.0`; likewise `ce-id`, `ce-source`, `ce-type` and the others.",
        }.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            STRUCTURED: {"schema": _SCHEMA, "example": _EVENT},
            BATCHED: {"schema": {"type": "array", "items": _SCHEMA, "maxItems": MOST}, "example": [_EVENT]},
            "application/json": {"schema": {"type": "object"}, "example": _EVENT["data"]},
        },
    },
}


@router.post(
    "",
    status_code=202,
    response_model=EventsBody,
    openapi_extra=_DESCRIBED,
    responses=documented(
        *(Kind.EVENT, Kind.EVENT_REUSED, Kind.SIGNATURE, Kind.NOT_FOUND, Kind.MEDIA_TYPE),
        anywhere=(Kind.CROSS_SITE, Kind.TOO_LARGE, Kind.RATE_LIMIT, Kind.UNAVAILABLE),
    ),
)
async def take_events(message: Annotated[Message, Depends(signed_message)], web: TheWeb) -> Response:
    """Take CloudEvents that ask for deletions: one in binary or structured mode, or several, all or none of them.

    When this is answered, they are stored. An event that comes again counts once, and is answered as the first time;
    with other customers it is refused, and the others of its body are stored. After a 503 send it again.
    """
    events = await message.events(web.reader)
    taken = await web.store.gatherer.take(events)
    counted = [each for each in taken if each]
    web.metrics.count_events(len(counted), sum(each.known for each in counted))
    if len(counted) < len(taken):
        raise _reused([number for number, each in enumerate(taken, 1) if each is None], len(taken))
    answers = [
        {"source": event.source, "id": event.id, "reference": references.of_events(each.gathering_id)}
        for event, each in zip(events, counted, strict=True)
    ]
    return JSONResponse({"events": answers}, 202)


def _reused(numbers: list[int], of: int) -> Problem:
    if of == 1:
        return Problem(Kind.EVENT_REUSED, REUSED)
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return Problem(Kind.EVENT_REUSED, f"event {numbers[0]}{more}: {REUSED}; all others are stored", events=numbers)
