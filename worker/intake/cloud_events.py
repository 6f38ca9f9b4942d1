"""CloudEvents 1.0 into events (SPEC 8): which count, and where in them the customers are, is set."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import jsonpath
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.plain_event import PlainEvent, PlainPath, once, plain_event, plainly

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
_REQUIRED = ("specversion", "id", "source", "type")
_FORMAT = JSONFormat()


class CloudEventReader:
    """Reads events of the types that count."""

    def __init__(self, types: frozenset[str], customers: str, rule: EventRule) -> None:
        """``customers`` is the JSONPath of the customer IDs within an event's data; it may find several."""
        self._types = types
        self._customers = PlainPath.of(customers) or jsonpath.compile(customers)
        self._path = customers
        self._rule = rule

    def structured(self, body: bytes) -> Event:
        """One event as JSON, attributes and data; raises ``BadEventError``."""
        if plain := plain_event(body):
            return self._event(plain)
        return self._read(lambda: _from_json(body))

    def binary(self, headers: Mapping[str, str], body: bytes) -> Event:
        """One event whose attributes are HTTP headers and whose data is the body; raises ``BadEventError``.

        A body that is an event itself, or several, is refused: who signed it has not signed the headers.
        """

        def parse() -> BaseCloudEvent:
            data = _parsed(body) if body else None
            if any(isinstance(each, dict) and "specversion" in each for each in _each(data)):
                raise BadEventError(f"its data is an event itself: send it as {STRUCTURED} or {BATCHED}")
            return from_binary(HTTPMessage(dict(headers), body), _FORMAT, _strict)

        return self._read(parse)

    def batched(self, body: bytes) -> list[Event]:
        """Several events as one JSON array; raises ``BadEventError``, which says which of them is wrong."""
        try:
            found = _parsed(body)
        except (ValueError, RecursionError):
            raise BadEventError("the body is no JSON") from None
        if not isinstance(found, list):
            raise BadEventError("the body is no JSON array of events")
        return [self._numbered(number, each) for number, each in enumerate(found, 1)]

    def _numbered(self, number: int, found: Any) -> Event:
        try:
            if plain := plainly(found):
                return self._event(plain)
            return self._read(lambda: _from_json(json.dumps(found).encode()))
        except BadEventError as error:
            raise BadEventError(f"event {number}: {error}") from None

    def _read(self, parse: Callable[[], BaseCloudEvent]) -> Event:
        try:
            found = parse()
        except BadEventError:
            raise
        except CloudEventValidationError as error:
            wrong = ", ".join(sorted(name for name in error.errors if name.isidentifier())[:5])
            raise BadEventError(f"it is no CloudEvent 1.0: see {wrong or 'its attributes'}") from None
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            raise BadEventError("it is no CloudEvent 1.0 as JSON") from None
        return self._event(found)

    def _event(self, found: BaseCloudEvent | PlainEvent) -> Event:
        kind = found.get_type()
        if kind not in self._types:
            shown = repr(kind) if len(kind) <= 200 else "that is too long"
            raise BadEventError(f"its type {shown} is none of EXPUNGE_EVENT_TYPES")
        data = found.get_data()
        if not isinstance(data, dict | list):
            raise BadEventError("its data is no JSON object")
        try:
            customers = self._customers.findall(data)
        except (jsonpath.JSONPathError, RecursionError):
            raise BadEventError(f"its data is nested too deep for {self._path}") from None
        if not customers:
            raise BadEventError(f"it has no customer ID at {self._path} of its data")
        said = {name: found.get_extension(name) for name in ("reference", "due", "lane")}
        return self._rule.event(found.get_source(), found.get_id(), customers, said)


def _from_json(body: bytes) -> BaseCloudEvent:
    return from_structured(HTTPMessage({}, body), _FORMAT, _strict)


def _each(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def _parsed(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=once)


def _strict(attributes: dict[str, Any], data: Any) -> BaseCloudEvent:
    """The package would make up an ID and a version where they are missing: then no event came twice."""
    for name in _REQUIRED:
        if name not in attributes:
            raise BadEventError(f"it has no {name}")
    return CloudEvent(attributes, data)
