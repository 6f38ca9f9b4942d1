"""What is read quickly is read as the package `cloudevents` reads it, or left to it."""

import json
from typing import Any

import jsonpath
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.events import BadEventError
from worker.intake.plain_event import PlainEvent, PlainPath, parsed, plainly

GOOD: dict[str, Any] = {
    "specversion": "1.0", "id": "e1", "source": "/crm", "type": "t", "time": "2026-11-28T01:02:03.5+01:00",
    "subject": "s", "datacontenttype": "application/json", "dataschema": "d", "reference": "A-1", "data": {"a": 1},
}  # fmt: skip
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1.5, "text/xml", "application/x+json; charset=utf-8",
     "", "x", "1.0", "0.3", 1, True, [], {}, "2026-11-28T01:02:03Z", "2026-11-28", "2026-13-28T01:02:03Z",
     "2026-11-28T01:02:60Z", "2026-11-28T01:02:03"]
)  # fmt: skip
NAMES = st.sampled_from([*GOOD, "Reference", "a_b", "", "data_base64", "due"])


def plain_event(body: bytes) -> PlainEvent | None:
    try:
        return plainly(parsed(body))
    except (ValueError, RecursionError):
        return None


def by_the_package(body: bytes) -> CloudEvent | None:
    try:
        found = from_structured(HTTPMessage({}, body), JSONFormat(), CloudEvent)
    except Exception:  # noqa: BLE001 - whichever
        return None
    assert isinstance(found, CloudEvent)
    return found


@given(st.dictionaries(NAMES, ODD, max_size=3), st.sets(NAMES, max_size=2))
def test_what_is_plain_is_what_the_package_reads(changed: dict[str, Any], missing: set[str]) -> None:
    event = {name: value for name, value in (GOOD | changed).items() if name not in missing}
    body = json.dumps(event).encode()
    plain = plain_event(body)
    if plain is not None:
        found = by_the_package(body)
        assert found is not None, body
        assert (plain.get_id(), plain.get_source(), plain.get_type()) == (
            found.get_id(),
            found.get_source(),
            found.get_type(),
        )
        assert plain.get_data() == found.get_data()
        assert all(plain.get_extension(name) == found.get_extension(name) for name in ("reference", "due", "lane"))


def test_the_usual_event_is_plain() -> None:
    assert plain_event(json.dumps(GOOD).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"\xef\xbb\xbf{}"])
def test_what_is_no_event_is_not_plain(body: bytes) -> None:
    assert plain_event(body) is None


def test_an_event_with_a_key_twice_is_refused() -> None:
    twice = json.dumps(GOOD | {"data": 0}).replace('"data": 0', '"data": {"customer_id": "a", "customer_id": "b"}')
    for body in (twice.encode(), b'{"id":"1","id":"2"}'):
        with pytest.raises(BadEventError, match="a key is twice"):
            plain_event(body)


@pytest.mark.parametrize("data", [{}, {"a": 1}, {"a": {"b": "x"}}, {"a": {"b": None}}, [{"a": {"b": 1}}], {"a": ["b"]}])
def test_a_plain_path_finds_what_the_package_finds(data: Any) -> None:
    for text in ("$.a", "$.a.b"):
        path = PlainPath.of(text)
        assert path is not None
        assert path.findall(data) == jsonpath.compile(text).findall(data)


@pytest.mark.parametrize("text", ["$", "$.a[*].b", "$..a", "$['a']", "$.a*", "$.a b", "$.ä"])
def test_another_path_is_left_to_the_package(text: str) -> None:
    assert PlainPath.of(text) is None
