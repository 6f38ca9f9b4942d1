"""Everything that the API answers but success: problem details (RFC 9457) with types that stay (docs/api.md)."""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from worker.domain.errors import (
    ExpungeError,
    FormatError,
    Guard,
    InputError,
    RefusedError,
    RoomError,
    StoreError,
    UnreachableError,
)
from worker.domain.events import BadEventError
from worker.web.bodies import ProblemBody

MEDIA_TYPE = "application/problem+json"
_OPTION = re.compile(r"\bexpunge [a-z][^;]*|(?<![\w-])--([a-z][a-z-]*)")
"""An option of the command line, which is a field of the same name here; a whole command stays as it is."""
_COMMANDS = (
    (re.compile(r"`expunge retry`"), "`POST /v1/batches/{batch_id}/retry`"),
    (re.compile(r"\bexpunge resume (\w+)"), r"`POST /v1/batches/\1/resume` without `despite`"),
    (re.compile(r"`expunge plan` prints"), "`POST /v1/plans` gives"),
    (re.compile(r"`expunge batches`"), "`GET /v1/batches`"),
    (re.compile(r"raise its maxmemory, then try again"), "tell whoever runs Expunge, and try again"),
)
"""Commands are addresses here; whoever asks may have no command line, nor the server."""
_SERVER = re.compile(r"\bRedis at \S+")
"""Whose address is for the log alone."""
_AWAY = "the results store cannot be used now; send it again later, and tell whoever runs Expunge if it stays so"

_NO_ROOM = "there is no room now to make the report; take csv, or tell whoever runs Expunge if it stays so"


class _Row(NamedTuple):
    word: str
    status: int
    title: str


class Kind(Enum):
    """What kinds of problems there are: a word that stays, the HTTP status, and what it is whatever the case.

    The first ones are the guards, by their own words.
    """

    CONFIRMATION = _Row("confirmation", 409, "What is confirmed is not what would be deleted")
    SIZE = _Row("size", 413, "The batch has too many rows")
    REPEAT = _Row("repeat", 409, "The file was submitted before")
    REFERENCE = _Row("reference", 409, "The reference names another batch")
    IDENTITY = _Row("identity", 401, "It is not known who asks")
    ROLE = _Row("role", 403, "The act is not for this role")
    APPROVAL = _Row("approval", 403, "Somebody else must approve")
    HOLD = _Row("hold", 409, "Another hold stands")
    BRAKE = _Row("brake", 409, "A brake holds the batch")
    STATE = _Row("state", 409, "The batch's state does not allow it")
    RULE = _Row("rule", 409, "A guard refused")
    INPUT = _Row("input", 422, "The file cannot be taken")
    EVENT = _Row("event", 400, "The event can never be taken")
    EVENT_REUSED = _Row("event_reused", 409, "The event's ID was used for another event")
    SIGNATURE = _Row("signature", 401, "The signature does not count")
    REQUEST = _Row("request", 422, "The request cannot be understood")
    FORMAT = _Row("format", 422, "The report cannot be had in this format")
    NOT_FOUND = _Row("not_found", 404, "There is no such thing")
    METHOD = _Row("method", 405, "The method is not for this address")
    MEDIA_TYPE = _Row("media_type", 415, "The content is of no type that is taken")
    TOO_LARGE = _Row("too_large", 413, "The content is too large")
    TIMEOUT = _Row("timeout", 408, "The content does not come")
    CROSS_SITE = _Row("cross_site", 403, "The request comes from another site")
    RATE_LIMIT = _Row("rate_limit", 429, "Too many requests")
    KEY_IN_USE = _Row("key_in_use", 409, "The request with this key is still in work")
    KEY_REUSED = _Row("key_reused", 422, "The key was used for another request")
    PROVIDER = _Row("provider", 502, "The identity provider cannot be used")
    UNAVAILABLE = _Row("unavailable", 503, "It is not possible at the moment")
    INTERNAL = _Row("internal", 500, "An internal error")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value.status

    @property
    def title(self) -> str:
        """What it is, whatever the case."""
        return self.value.title

    @property
    def type(self) -> str:
        """The problem's type, a URI."""
        return f"urn:expunge:problem:{self.value.word}"


_OF_GUARD = {guard: next(kind for kind in Kind if kind.value.word == guard.value) for guard in Guard}
_OF_STATUS = {404: Kind.NOT_FOUND, 405: Kind.METHOD, 413: Kind.TOO_LARGE, 415: Kind.MEDIA_TYPE}


class Problem(HTTPException):
    """What is wrong with a request, and what to do; raise it anywhere in a request."""

    def __init__(self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        """``detail`` is one sentence for a person; ``members`` are further ones for programs."""
        super().__init__(kind.status, detail, dict(headers or {}))
        self.kind = kind
        self.members = members

    def as_json(self) -> dict[str, Any]:
        """The body."""
        return {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            **self.members,
        }

    def response(self) -> Response:
        """The answer for a program."""
        return Response(orjson.dumps(self.as_json()), self.kind.status, self.headers, MEDIA_TYPE)


def problem_of(error: ExpungeError, **members: Any) -> Problem:
    """What one of our own errors is to whoever asked over HTTP, with further members for programs."""
    text = _said_here(str(error))
    match error:
        case RefusedError():
            headers = {"WWW-Authenticate": "Bearer"} if error.guard is Guard.IDENTITY else None
            return Problem(_OF_GUARD[error.guard], text, headers=headers, **members)
        case InputError():
            return Problem(Kind.INPUT, text, line=error.line, columns=list(error.columns), **members)
        case BadEventError():
            return Problem(Kind.EVENT, text, **members)
        case UnreachableError():
            return Problem(Kind.UNAVAILABLE, _AWAY, headers={"Retry-After": "5"}, **members)
        case StoreError():
            text = _SERVER.sub("the results store", text)
            return Problem(Kind.UNAVAILABLE, text, headers={"Retry-After": "5"}, **members)
        case RoomError():
            return Problem(Kind.UNAVAILABLE, _NO_ROOM, headers={"Retry-After": "5"}, **members)
        case FormatError():
            return Problem(Kind.FORMAT, text, **members)
        case _:
            return Problem(Kind.REQUEST, text, **members)


def _said_here(text: str) -> str:
    """What is said to people at a command line, in the words of the API."""
    for pattern, words in _COMMANDS:
        text = pattern.sub(words, text)
    return _OPTION.sub(lambda match: f"`{match[1].replace('-', '_')}`" if match[1] else match[0], text)


def problem_of_http(error: HTTPException) -> Problem:
    """What the framework refuses by itself."""
    if isinstance(error, Problem):
        return error
    kind = _OF_STATUS.get(error.status_code, Kind.REQUEST)
    return Problem(kind, _SAYS.get(kind, UNREADABLE), headers=error.headers)


UNREADABLE = "the form cannot be read: send one that is well-formed, with at most one file and 20 fields of 4 KiB"
_SAYS = {
    Kind.NOT_FOUND: "there is no such address: `/v1/openapi.json` has those of the API",
    Kind.METHOD: "this method is not for this address: `Allow` names those that are",
}


def in_words(place: Sequence[str | int], message: str) -> str:
    """What the framework finds wrong at a place of the request, as the beginning of a sentence."""
    where = ".".join(map(str, place)) or "the body"
    return f"{where} is wrong, {message[:1].lower()}{message[1:].replace(' after validation', '')}"


_ANYWHERE = (
    *(Kind.IDENTITY, Kind.ROLE, Kind.CROSS_SITE, Kind.TOO_LARGE, Kind.TIMEOUT, Kind.REQUEST),
    *(Kind.RATE_LIMIT, Kind.UNAVAILABLE),
)


def documented(*kinds: Kind, anywhere: tuple[Kind, ...] = _ANYWHERE) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside success, for OpenAPI: these, and what any route with an act may."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in (*anywhere, *kinds):
        titles = found.setdefault(kind.status, {"description": "", "content": _CONTENT})
        titles["description"] = f"{titles['description']}; {kind.title}".removeprefix("; ")
    return found


_CONTENT = {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}}
