"""CloudEvents as other systems send them (SPEC 8): what is taken, and in one line why the rest is not."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from worker.domain.batches import Lane
from worker.domain.customer_ids import IdRule
from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.cloud_events import CloudEventReader

CLOSED = "com.example.account.closed"
READER = CloudEventReader(frozenset({CLOSED}), "$.customer_id", EventRule(IdRule.of(), most=3))
GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/crm",
    "type": CLOSED,
    "data": {"customer_id": "c1"},
}


def body(**others: Any) -> bytes:
    """The good event, with other attributes; ``None`` leaves one out."""
    return json.dumps({name: value for name, value in (GOOD | others).items() if value is not None}).encode()


def stock(**attributes: Any) -> CloudEvent:
    return CloudEvent({"id": "e1", "source": "/crm", "type": CLOSED, **attributes}, {"customer_id": "c1"})


def test_what_a_stock_client_sends_is_read_in_each_mode() -> None:
    expected = Event("/crm", "e1", ("c1",))
    structured, binary = to_structured(stock(), JSONFormat()), to_binary(stock(), JSONFormat())
    assert READER.structured(structured.body) == expected
    assert READER.binary(binary.headers, binary.body) == expected
    assert READER.batched(b"[" + structured.body + b"," + body(id="e2") + b"]") == [
        expected,
        Event("/crm", "e2", ("c1",)),
    ]
    assert READER.batched(b"[]") == []


def test_reference_due_and_lane_are_extension_attributes() -> None:
    message = to_binary(stock(reference="CRM 17", due="2026-12-24", lane="urgent"), JSONFormat())
    event = READER.binary(message.headers, message.body)
    assert (event.reference, event.lane) == ("CRM 17", Lane.URGENT)
    assert event.due == datetime(2026, 12, 24, 23, 59, 59, 999000, tzinfo=UTC)


def test_a_due_that_is_past_is_no_reason_to_keep_a_customer() -> None:
    assert READER.structured(body(due="2001-01-01T00:00:00Z")).due == datetime(2001, 1, 1, tzinfo=UTC)


def test_a_path_may_find_several_customers() -> None:
    reader = CloudEventReader(frozenset({CLOSED}), "$.closed[*].id", EventRule(IdRule.of(), most=3))
    data = {"closed": [{"id": "c1"}, {"id": "c2"}]}
    assert reader.structured(body(data=data)).customer_ids == ("c1", "c2")
    with pytest.raises(BadEventError, match="names 4 customers; at most 3"):
        reader.structured(body(data={"closed": [{"id": "c"}] * 4}))


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "no CloudEvent 1.0 as JSON"),
        (b"{", "no CloudEvent 1.0 as JSON"),
        (b"\xff\xfe", "no CloudEvent 1.0 as JSON"),
        (b"[]", "no CloudEvent 1.0 as JSON"),
        (b"null", "no CloudEvent 1.0 as JSON"),
        (b'"text"', "no CloudEvent 1.0 as JSON"),
        (b'{"data":' + b"[" * 100_000, "no CloudEvent 1.0 as JSON"),
        (body(id=None), "has no id"),
        (body(source=None), "has no source"),
        (body(type=None), "has no type"),
        (body(specversion=None), "has no specversion"),
        (body(specversion="0.3"), "see specversion"),
        (body(id=""), "see id"),
        (body(id=7), "see id"),
        (body(id="x" * 501), "id must be at most 500"),
        (body(id="a\nb"), "id must be at most 500 printable"),
        (body(time="yesterday"), "its time is none; write it as"),
        (body(time=17), "its time is none; write it as"),
        (body(time=[]), "its time is none; write it as"),
        (body(time="9999-12-31T24:00:00Z"), "its time is none; write it as"),
        (body(time="2026-11-28T01:02:03"), "see time"),
        (body(time="yesterday", specversion="0.3", datacontentencoding=7), "see specversion"),
        (body(data=None, data_base64=7), "it is data_base64"),
        (body(Type="x"), "no CloudEvent 1.0"),
        (body(type="com.example.account.opened"), "'com.example.account.opened' is none of EXPUNGE_EVENT_TYPES"),
        (body(data=None), "data is no JSON object"),
        (body(data="c1"), "data is no JSON object"),
        (body(data={}), r"no customer ID at \$\.customer_id of its data: see EXPUNGE_EVENT_CUSTOMERS"),
        (body(data={"customer_id": None}), "customer ID is no text: see EXPUNGE_EVENT_CUSTOMERS, which is"),
        (body(data={"customer_id": 17}), "customer ID is no text"),
        (body(data={"customer_id": ["c1"]}), "customer ID is a list, and no text: see EXPUNGE_EVENT_CUSTOMERS"),
        (body(data={"customer_id": "../admin"}), "not accepted by EXPUNGE_ID_PATTERN"),
        (body(data={"customer_id": ""}), "not accepted by EXPUNGE_ID_PATTERN"),
        (body(due="soon"), "due must be a day"),
        (body(due=17), "due must be a day"),
        (body(due="9999-12-31T23:59:59-14:00"), "due must be a day"),
        (body(lane="fast"), "lane must be one of urgent, bulk"),
        (body(lane=["urgent"]), "its lane is no text, whole number or boolean"),
        (body(lane=7), "lane must be one of urgent, bulk"),
        (body(ticket={"no": 1}), "its ticket is no text, whole number or boolean"),
        (body(ticket=[1]), "its ticket is no text, whole number or boolean"),
        (body(ticket=1.5), "its ticket is no text, whole number or boolean"),
        (body(**{"a" * 51: {}}), "one of its attributes is no text"),
        (body(datacontenttype="text/xml"), "its datacontenttype is no JSON"),
        (body(datacontenttype="application/xml+jsonx"), "its datacontenttype is no JSON"),
        (body(datacontenttype=""), "see datacontenttype"),
        (body(data={"customer_id": "c1", "n": float("nan")}), "has NaN or Infinity in it, which are no JSON"),
        (body(data={"customer_id": "c1", "n": float("-inf")}), "has NaN or Infinity in it, which are no JSON"),
        (body(ticket=float("inf")), "has NaN or Infinity in it, which are no JSON"),
        (body().decode().encode("utf-16"), "no CloudEvent 1.0 as JSON"),
        (body(reference="x" * 201), "reference must be at most 200"),
        (body(reference={}), "reference"),
    ],
)
def test_a_bad_event_is_refused_in_one_line_which_shows_no_customer(sent: bytes, problem: str) -> None:
    with pytest.raises(BadEventError, match=problem) as refused:
        READER.structured(sent)
    assert "admin" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_event_of_a_batch_that_is_bad_is_named_by_its_number() -> None:
    with pytest.raises(BadEventError, match="event 2: it has no id"):
        READER.batched(b"[" + body() + b"," + body(id=None) + b"]")
    for sent in (b"{}", b"nope", b""):
        with pytest.raises(BadEventError, match="the body is no JSON"):
            READER.batched(sent)
    with pytest.raises(BadEventError, match="event 1"):
        READER.batched(b"[17]")


def test_without_types_no_event_counts() -> None:
    reader = CloudEventReader(frozenset(), "$.customer_id", EventRule(IdRule.of()))
    with pytest.raises(BadEventError, match="none of EXPUNGE_EVENT_TYPES"):
        reader.structured(body())


def test_a_key_that_is_twice_is_refused_in_each_mode() -> None:
    """JSON readers differ in which of them counts."""
    data = b'{"customer_id": "c1", "customer_id": "c2"}'
    twice = body().replace(b'{"customer_id": "c1"}', data)
    headers = to_binary(stock(), JSONFormat()).headers
    reads = (READER.structured, lambda sent: READER.batched(b"[" + sent + b"]"), lambda _: READER.binary(headers, data))
    for read in reads:
        with pytest.raises(BadEventError, match="a key is twice"):
            read(twice)


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.x+json", "Application/JSON; charset=utf-8"])
def test_data_of_any_kind_of_json_are_taken_and_simple_extensions(kind: str) -> None:
    sent = body(datacontenttype=kind, ticket=17, urgent=True, nothing=None)
    sent = sent.replace(b'"ticket"', b'"none": null, "ticket"')
    assert READER.structured(sent) == Event("/crm", "e1", ("c1",))


def test_what_is_no_json_is_refused_in_each_mode() -> None:
    data = b'{"customer_id": "c1", "n": NaN}'
    headers = to_binary(stock(), JSONFormat()).headers
    with pytest.raises(BadEventError, match="has NaN or Infinity"):
        READER.batched(b"[" + body().replace(b'{"customer_id": "c1"}', data) + b"]")
    with pytest.raises(BadEventError, match="has NaN or Infinity"):
        READER.binary(headers, data)
    with pytest.raises(BadEventError, match="its data is no JSON"):
        READER.binary(headers, b"{")
    with pytest.raises(BadEventError, match="its datacontenttype is no JSON"):
        READER.binary(headers | {"content-type": "text/plain"}, b"{}")
    with pytest.raises(BadEventError, match="its time is none"):
        READER.binary(headers | {"ce-time": "yesterday"}, b'{"customer_id": "c1"}')


def test_data_that_are_events_are_refused_in_binary_mode() -> None:
    headers = to_binary(stock(), JSONFormat()).headers
    for data in (body(), b"[" + body() + b"]"):
        with pytest.raises(BadEventError, match="is an event itself"):
            READER.binary(headers, data)


@pytest.mark.parametrize("depth", [100, 300, 2_000])
def test_nesting_that_is_too_deep_is_refused_in_each_mode(depth: int) -> None:
    reader = CloudEventReader(frozenset({CLOSED}), "$..customer_id", EventRule(IdRule.of()))
    deep = b"[" * depth + b"]" * depth
    headers = to_binary(stock(), JSONFormat()).headers
    for read in (
        lambda: reader.structured(body().replace(b'"c1"', deep)),
        lambda: reader.batched(b"[" + body().replace(b'"c1"', deep) + b"]"),
        lambda: reader.binary(headers, deep),
    ):
        with pytest.raises(BadEventError):
            read()


def test_an_event_of_a_batch_is_read_as_it_is_alone() -> None:
    """Whatever else its data hold."""
    data = {"customer_id": "c1", "number": 10**50, "half a letter": "\ud800", "none": None}
    sent = body(data=data)
    assert READER.batched(b"[" + sent + b"]") == [READER.structured(sent)]
