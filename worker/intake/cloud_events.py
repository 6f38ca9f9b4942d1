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
from worker.intake.plain_event import JSON, SIMPLE, PlainEvent, PlainPath, is_json, parsed, plainly

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
_REQUIRED = ("specversion", "id", "source", "type")
_FORMAT = JSONFormat()
_NO_EVENT = "it is no CloudEvent 1.0 as JSON"
# What the package raises of a time that is none.
_NO_TIME = (ValueError, TypeError, AttributeError, LookupError, OverflowError)
_LONGEST_SHOWN = 50


class CloudEventReader:
    """Reads events of the types that count."""

    def __init__(self, types: frozenset[str], customers: str, rule: EventRule) -> None:
        """``customers`` is the JSONPath of the customer IDs within an event's data; it may find several."""
        self._types = types
        self._customers = PlainPath.of(customers) or jsonpath.compile(customers, strict=True)
        self._path = customers
        self._where = f"EXPUNGE_EVENT_CUSTOMERS, which is {customers}"
        self._rule = rule

    def structured(self, body: bytes) -> Event:
        """One event as JSON, attributes and data; raises ``BadEventError``."""
        try:
            found = parsed(body)
        except (ValueError, RecursionError):
            raise BadEventError(_NO_EVENT) from None
        return self._one(found)

    def binary(self, headers: Mapping[str, str], body: bytes) -> Event:
        """One event whose attributes are HTTP headers and whose data is the body; raises ``BadEventError``.

        A body that is an event itself, or several, is refused: who signed it has not signed the headers.
        """

        def parse() -> BaseCloudEvent:
            data = _data(body) if body else None
            if any(isinstance(each, dict) and "specversion" in each for each in _each(data)):
                raise BadEventError(f"its data is an event itself: send it as {STRUCTURED} or {BATCHED}")
            return from_binary(HTTPMessage(dict(headers), body), _FORMAT, _strict)

        return self._read(parse)

    def batched(self, body: bytes) -> list[Event]:
        """Several events as one JSON array; raises ``BadEventError``, which says which of them is wrong."""
        try:
            found = parsed(body)
        except (ValueError, RecursionError):
            raise BadEventError("the body is no JSON") from None
        if not isinstance(found, list):
            raise BadEventError("the body is no JSON array of events")
        return [self._numbered(number, each) for number, each in enumerate(found, 1)]

    def _numbered(self, number: int, found: Any) -> Event:
        try:
            return self._one(found)
        except BadEventError as error:
            raise BadEventError(f"event {number}: {error}") from None

    def _one(self, found: Any) -> Event:
        if plain := plainly(found):
            return self._event(plain)
        return self._read(lambda: _from_json(found))

    def _read(self, parse: Callable[[], BaseCloudEvent]) -> Event:
        try:
            found = parse()
        except BadEventError:
            raise
        except CloudEventValidationError as error:
            wrong = ", ".join(sorted(name for name in error.errors if name.isidentifier())[:5])
            raise BadEventError(f"it is no CloudEvent 1.0: see {wrong or 'its attributes'}") from None
        except _NO_TIME:
            raise BadEventError("its time is none; write it as 2026-11-28T18:00:00Z, or leave it out") from None
        except RecursionError:
            raise BadEventError(_NO_EVENT) from None
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
            raise BadEventError(f"it has no customer ID at {self._path} of its data: see EXPUNGE_EVENT_CUSTOMERS")
        said = {name: found.get_extension(name) for name in ("reference", "due", "lane")}
        return self._rule.event(found.get_source(), found.get_id(), customers, said, self._where)


def _from_json(found: Any) -> BaseCloudEvent:
    if not isinstance(found, dict):
        raise BadEventError(_NO_EVENT)
    if found.get("specversion", "1.0") != "1.0":  # others have other attributes
        raise BadEventError("it is no CloudEvent 1.0: see specversion")
    if "data_base64" in found:
        raise BadEventError("its data is no JSON object: it is data_base64")
    return from_structured(HTTPMessage({}, json.dumps(found).encode()), _FORMAT, _strict)


def _each(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def _data(body: bytes) -> Any:
    try:
        return parsed(body)
    except (ValueError, RecursionError):
        raise BadEventError("its data is no JSON") from None


def _strict(attributes: dict[str, Any], data: Any) -> BaseCloudEvent:
    """What the package lets pass. An ID that is missing it would make up, and then no event came twice."""
    for name in _REQUIRED:
        if name not in attributes:
            raise BadEventError(f"it has no {name}")
    for name, value in attributes.items():
        if name != "time" and value is not None and not isinstance(value, SIMPLE):
            which = f"its {name}" if name.isidentifier() and len(name) <= _LONGEST_SHOWN else "one of its attributes"
            raise BadEventError(f"{which} is no text, whole number or boolean")
    kind = attributes.get("datacontenttype", JSON)
    if isinstance(kind, str) and kind and not is_json(kind):
        raise BadEventError(f"its datacontenttype is no JSON; send {JSON}, or leave it out")
    return CloudEvent(attributes, data)
