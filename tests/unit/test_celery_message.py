"""Messages of Celery producers (SPEC 8): what is taken, and in one line why the rest is not."""

import base64
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from kombu.serialization import dumps

from worker.domain.batches import Lane
from worker.domain.customer_ids import IdRule
from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.celery_message import TASK, CeleryReader

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
READER = CeleryReader(EventRule(IdRule.of(), most=3))
NOTHING: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
SECRET = "jane.doe@example.com"


def message(
    *args: Any,
    said: Any = None,
    headers: dict[str, Any] | None = None,
    body: Any = None,
    embedded: Any = NOTHING,
    serializer: str = "json",
    **others: Any,
) -> bytes:
    """A message as kombu writes it to Redis; ``body`` stands for all of its body, ``others`` for parts around it."""
    content_type, encoding, data = dumps([list(args), said or {}, embedded] if body is None else body, serializer)
    raw: str | bytes = data
    whole = {
        "body": base64.b64encode(raw.encode() if isinstance(raw, str) else raw).decode(),
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": {"task": TASK, "id": "t1", "eta": None, "expires": None} | (headers or {}),
        "properties": {"body_encoding": "base64", "delivery_tag": "d1"},
    }
    return json.dumps(whole | others).encode()


def read(raw: bytes) -> Event:
    return READER.message(raw, NOW)


def test_the_task_s_id_names_the_event() -> None:
    assert read(message(["c1", "c2"])) == Event("celery", "t1", ("c1", "c2"))


def test_arguments_may_be_positional_or_named() -> None:
    expected = Event("celery", "t1", ("c1",), reference="A-1")
    assert read(message(["c1"], "A-1")) == expected
    assert read(message(["c1"], said={"reference": "A-1"})) == expected
    assert read(message(said={"customer_ids": ["c1"], "reference": "A-1"})) == expected


@pytest.mark.parametrize("due", ["2026-12-24T17:00:00Z", datetime(2026, 12, 24, 17, tzinfo=UTC)])
def test_due_may_be_a_time_as_text_or_as_python_has_it(due: object) -> None:
    event = read(message(["c1"], said={"due": due, "lane": "urgent"}))
    assert (event.due, event.lane) == (datetime(2026, 12, 24, 17, tzinfo=UTC), Lane.URGENT)


def test_due_may_be_a_day() -> None:
    expected = read(message(["c1"], said={"due": "2026-12-24"})).due
    assert read(message(["c1"], said={"due": date(2026, 12, 24)})).due == expected


def test_a_body_that_is_not_encoded_is_read_too() -> None:
    """A producer may switch base64 off."""
    plain = json.loads(message())
    plain["body"], plain["properties"] = json.dumps([[["c1"]], {}, NOTHING]), {"body_encoding": None}
    assert read(json.dumps(plain).encode()).customer_ids == ("c1",)


def test_what_expires_later_is_taken() -> None:
    assert read(message(["c1"], headers={"expires": "2026-07-01T12:00:01+00:00"})).customer_ids == ("c1",)


BAD = [
    (b"", "it is no JSON"),
    (b"\xff\xfe", "it is no JSON"),
    (b"[" * 100_000, "it is no JSON"),
    (b'"jane"', "it is no Celery message"),
    (message([SECRET], headers={"task": "crm.delete"}), f"its task is not {TASK}"),
    (message([SECRET], headers={"task": [TASK]}), f"its task is not {TASK}"),
    (json.dumps({"headers": {}, "body": {"task": TASK}}).encode(), "protocol 2; set task_protocol = 2"),
    (message([SECRET], serializer="pickle"), "pickle and YAML are never read"),
    (message([SECRET], serializer="yaml"), "pickle and YAML are never read"),
    (message([SECRET]).replace(b"application/json", b"application/data"), "its content is not application/json"),
    (message([SECRET], headers={"compression": "application/x-gzip"}), "it is compressed"),
    (message([SECRET], headers={"eta": "2026-07-01T11:00:00+00:00"}), "it has an eta or countdown"),
    (message([SECRET], headers={"expires": "2026-07-01T11:59:59+00:00"}), "it had expired"),
    (message([SECRET], headers={"expires": "2026-07-01T11:59:59"}), "it had expired"),
    (message([SECRET], headers={"expires": [SECRET]}), "its expires is no time"),
    (message([SECRET], embedded=NOTHING | {"chain": [{"task": "x"}]}), "part of a chain or chord"),
    (message([SECRET], headers={"id": None}), "it has no id"),
    (message(), "its arguments are not (customer_ids, reference=None"),
    (message([SECRET], "A-1", "urgent"), "its arguments are not (customer_ids"),
    (message([SECRET], said={SECRET: 1}), "its arguments are not (customer_ids"),
    (message("c1"), "its customer_ids are no list"),
    (message({"c1": 1}), "its customer_ids are no list"),
    (message([]), "it names no customer"),
    (message([SECRET]), "its customer ID is not accepted by EXPUNGE_ID_PATTERN"),
    (message(["c1", 2]), "customer ID 2 of 2 is no text"),
    (message(["c1", ["c2"]]), "customer ID 2 of 2 is a list, and no text"),
    (message(["c1"] * 4), "it names 4 customers; at most 3"),
    (message(["c1"], 17), "its reference is no text"),
    (message(["c1"], said={"due": "soon"}), "its due must be a day"),
    (message(["c1"], said={"due": datetime(2026, 1, 1)}), "its due must be a day"),  # noqa: DTZ001 - the point
    (message(["c1"], said={"lane": "fast"}), "its lane must be one of"),
    (message(body=[SECRET]), "its body is no JSON of positional and keyword arguments"),
    (message(body=[[SECRET], [SECRET], {}]), "its body is no JSON of positional and keyword arguments"),
    (message(body=[SECRET, {}, {}]), "its body is no JSON of positional and keyword arguments"),
    (message(body={"__type__": "uuid", "__value__": SECRET}), "its body is no JSON of positional"),
    (message(body={"__type__": "os.system", "__value__": SECRET}), "its body is no JSON of positional"),
    (b'{"headers": {"task": "%s"}, "content-type": "application/json"}' % TASK.encode(), "its body is no JSON"),
    (message([SECRET], properties=[]), "its body is no JSON"),
    (message([SECRET])[:-40], "it is no JSON"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD, ids=range(len(BAD)))
def test_what_can_never_be_right_is_refused_in_one_line_that_shows_no_customer(raw: bytes, reason: str) -> None:
    with pytest.raises(BadEventError) as raised:
        read(raw)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("part", ["body", "content-type", "headers", "properties"])
@pytest.mark.parametrize("value", [None, True, 7, "text", [1], {"a": 1}, "====", "e30="])
def test_no_shape_of_a_message_is_more_than_refused(part: str, value: object) -> None:
    whole = json.loads(message([SECRET])) | {part: value}
    with pytest.raises(BadEventError):
        read(json.dumps(whole).encode())
