"""Entries of a Redis Stream: a CloudEvent in one field, or one customer in flat fields (SPEC 8)."""

from datetime import UTC, datetime

import orjson
import pytest

from worker.domain.batches import Lane
from worker.domain.customer_ids import IdRule
from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.cloud_events import CloudEventReader
from worker.intake.stream_entry import LARGEST, EntryReader, kept, restored

TYPE = "com.example.account.closed"
RULE = EventRule(IdRule.of("c[0-9]+"))
READER = EntryReader(CloudEventReader(frozenset({TYPE}), "$.customer_id", RULE), RULE)


def fields(**said: str) -> list[bytes]:
    return [part.encode() for pair in said.items() for part in pair]


def read(entry: list[bytes]) -> Event:
    return READER.read("closed", "1700000000000-0", entry)


def cloud_event(**changed: object) -> bytes:
    given = {"specversion": "1.0", "id": "e1", "source": "/crm", "type": TYPE, "data": {"customer_id": "c1"}}
    return orjson.dumps(given | changed)


def test_flat_fields_are_an_event() -> None:
    entry = fields(customer_id="c1", id="e1", source="/crm", reference="A-1", due="2027-01-02", lane="urgent")
    assert read(entry) == Event(
        "/crm", "e1", ("c1",), "A-1", datetime(2027, 1, 2, 23, 59, 59, 999_000, tzinfo=UTC), Lane.URGENT
    )


def test_a_cloud_event_in_one_field_is_an_event() -> None:
    assert read([b"event", cloud_event(reference="A-1")]) == Event("/crm", "e1", ("c1",), "A-1")


@pytest.mark.parametrize(
    ("said", "known_by"),
    [
        ({}, ("closed", "1700000000000-0")),
        ({"id": "e1"}, ("closed", "e1")),
        ({"source": "/crm"}, ("/crm", "closed/1700000000000-0")),
        ({"source": "/crm", "id": "e1"}, ("/crm", "e1")),
    ],
)
def test_without_an_id_an_entry_is_known_by_its_stream_and_its_own(
    said: dict[str, str], known_by: tuple[str, str]
) -> None:
    event = read(fields(customer_id="c1", **said))
    assert (event.source, event.id) == known_by


BAD = {
    "it names no customer": fields(id="e1"),
    "its customer ID is not accepted by EXPUNGE_ID_PATTERN": fields(customer_id="../secret"),
    "its fields must be event alone": fields(customer_id="c1", secret="x"),
    "its fields must be event alone, or some of": [b"event", cloud_event(), b"lane", b"urgent"],
    "it has a field twice": fields(customer_id="c1") + fields(customer_id="c2"),
    "it is not UTF-8": [b"customer_id", b"c\xff"],
    "its lane must be one of": fields(customer_id="c1", lane="secret"),
    "its due must be a day": fields(customer_id="c1", due="secret"),
    "bytes; at most 262,144 are taken": [b"event", b"[" * LARGEST],
    "it is no CloudEvent 1.0 as JSON": [b"event", b"secret"],
    "is none of EXPUNGE_EVENT_TYPES": [b"event", cloud_event(type="com.example.other")],
}


@pytest.mark.parametrize("said", BAD)
def test_anything_else_is_refused_with_what_is_wrong_and_shows_no_customer(said: str) -> None:
    with pytest.raises(BadEventError, match=said) as refused:
        read(BAD[said])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "entry",
    [
        fields(customer_id="c\u00fc", id='"e1"'),
        [b"event", cloud_event()],
        [b"event", b"{"],
        [b"customer_id", b"c1", b"id", b"e\xff"],
        [b"customer_id", b"c1", b"id", "e\ufffd".encode()],
    ],
)
def test_what_a_dead_letter_keeps_is_the_same_entry_again(entry: list[bytes]) -> None:
    assert restored(kept(entry)) == entry


def test_of_an_entry_that_is_too_large_nothing_is_kept() -> None:
    assert kept([b"event", b"x" * LARGEST]) == b""
