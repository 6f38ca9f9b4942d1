"""CloudEvents 1.0 into events (SPEC 8): which count, and where in them the customers are, is set."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import jsonpath
import orjson
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.plain_event import PlainEvent, PlainPath, plain_event

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
        return self._read(lambda: from_structured(HTTPMessage({}, body), _FORMAT, _strict))

    def binary(self, headers: Mapping[str, str], body: bytes) -> Event:
        """One event whose attributes are HTTP headers and whose data is the body; raises ``BadEventError``."""
        return self._read(lambda: from_binary(HTTPMessage(dict(headers), body), _FORMAT, _strict))

    def batched(self, body: bytes) -> list[Event]:
        """Several events as one JSON array; raises ``BadEventError``, which says which of them is wrong."""
        try:
            found = orjson.loads(body)
        except ValueError:
            raise BadEventError("the body is no JSON") from None
        if not isinstance(found, list):
            raise BadEventError("the body is no JSON array of events")
        return [self._numbered(number, each) for number, each in enumerate(found, 1)]

    def _numbered(self, number: int, found: Any) -> Event:
        try:
            return self.structured(orjson.dumps(found))
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
        customers = self._customers.findall(data)
        if not customers:
            raise BadEventError(f"it has no customer ID at {self._path} of its data")
        said = {name: found.get_extension(name) for name in ("reference", "due", "lane")}
        return self._rule.event(found.get_source(), found.get_id(), customers, said)


def _strict(attributes: dict[str, Any], data: Any) -> BaseCloudEvent:
    """The package would make up an ID and a version where they are missing: then no event came twice."""
    for name in _REQUIRED:
        if name not in attributes:
            raise BadEventError(f"it has no {name}")
    return CloudEvent(attributes, data)
