"""Messages of Celery producers into events (SPEC 8); of what kombu can read, JSON alone is read."""

import base64
from datetime import UTC, date, datetime
from typing import Any, Final, cast
from uuid import UUID

import orjson
from kombu.exceptions import DecodeError
from kombu.serialization import loads

from worker.domain.events import BadEventError, Event, EventRule

TASK: Final = "expunge.enqueue_customers"
SOURCE: Final = "celery"
"""Of every event that comes this way; its ID is that of the Celery task."""
_JSON: Final = "application/json"
_GOES_ON: Final = ("callbacks", "errbacks", "chain", "chord")


class CeleryReader:
    """Reads calls of ``expunge.enqueue_customers(customer_ids, reference=None, *, due=None, lane=None)``."""

    def __init__(self, rule: EventRule) -> None:
        self._rule = rule

    def message(self, raw: bytes, now: datetime) -> Event:
        """A message as kombu puts it into Redis; raises ``BadEventError``."""
        try:
            found = orjson.loads(raw)
        except ValueError:
            raise BadEventError("it is no JSON") from None
        message = _mapping(found)
        headers = _mapping(message.get("headers") or {})
        _check(headers, now)
        args, kwargs, embedded = _body(message)
        if any(_mapping(embedded or {}).get(name) for name in _GOES_ON):
            raise BadEventError("it has callbacks, or is part of a chain or chord: nothing could go on after it")
        return self.call(headers.get("id"), args, kwargs)

    def task_of(self, raw: bytes) -> str | None:
        """The ID of a message's task, for one that may be wrong otherwise; ``None`` as with ``shown_id``."""
        try:
            return shown_id(orjson.loads(raw)["headers"]["id"])
        except (ValueError, LookupError, TypeError):
            return None

    def call(self, task_id: Any, args: Any, kwargs: Any) -> Event:
        """A call of the task with these arguments; raises ``BadEventError``."""
        try:
            customer_ids, said = _arguments(*args, **kwargs)
        except TypeError:
            raise BadEventError(f"its arguments are not ({_SIGNATURE})") from None
        if not isinstance(customer_ids, list | tuple):
            raise BadEventError("its customer_ids are no list; a single one is a list too: ['id']")
        return self._rule.event(SOURCE, task_id, customer_ids, said)


def shown_id(task_id: Any) -> str | None:
    """A task's ID if it is one that Celery made; a sender's own may be a customer, and is not shown (SPEC 4)."""
    try:
        return str(UUID(task_id)) if isinstance(task_id, str) else None
    except ValueError:
        return None


_SIGNATURE: Final = "customer_ids, reference=None, *, due=None, lane=None"


def _arguments(
    customer_ids: Any, reference: Any = None, *, due: Any = None, lane: Any = None
) -> tuple[Any, dict[str, Any]]:
    if isinstance(due, date):  # kombu's JSON knows days and times; also of a datetime
        due = due.isoformat()
    return customer_ids, {"reference": reference, "due": due, "lane": lane}


def _mapping(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BadEventError("it is no Celery message")
    return found


def _check(headers: dict[str, Any], now: datetime) -> None:
    """Refuse what cannot be done as its sender means it."""
    if "task" not in headers:
        raise BadEventError("it is no Celery message of protocol 2; set task_protocol = 2 where it is sent")
    if headers["task"] != TASK:
        raise BadEventError(f"its task is not {TASK}")
    if headers.get("compression"):
        raise BadEventError("it is compressed; send it without compression")
    if headers.get("eta"):
        raise BadEventError("it has an eta or countdown, but an event is taken at once; send it when it is time")
    if (expires := headers.get("expires")) and _moment(expires) <= now:
        raise BadEventError("it had expired before it was read")


def _moment(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadEventError("its expires is no time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _body(message: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Positional arguments, keyword arguments, and what Celery would do after the task."""
    if message.get("content-type") != _JSON:
        raise BadEventError("its content is not application/json; pickle and YAML are never read")
    encoding = _mapping(message.get("properties") or {}).get("body_encoding")
    try:
        body = str(message.get("body")).encode()
        if encoding == "base64":
            body = base64.b64decode(body, validate=True)
        args, kwargs, embedded = cast("list[Any]", loads(body, _JSON, "utf-8", accept={_JSON}))
    except (DecodeError, ValueError, TypeError):
        raise BadEventError("its body is no JSON of positional and keyword arguments") from None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadEventError("its body is no JSON of positional and keyword arguments")
    return args, kwargs, embedded
