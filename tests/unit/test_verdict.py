"""What a reply means: the table of SPEC 2, row by row, so that the two can be read side by side."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from worker.domain.batches import StateReason
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt
from worker.domain.retry_after import MAX_RETRY_AFTER
from worker.upstream.reply import MAX_NAME_LENGTH, MAX_NAMES, MAX_REQUEST_ID_LENGTH, Facts, NoReply, Reply
from worker.upstream.verdict import Gone, Refused, Retry, Settled, Verdict, judge

NOW = 1_735_527_527.0
CUSTOMER = "customer_d4668153816c4c0c92c62b84fc5ada3f"
OTHER = "customer_00000000000000000000000000000000"
DOCUMENTED = (Path(__file__).parents[1] / "upstream_reply.json").read_bytes()
DOCUMENTED_SHA256 = "f0f2b75cb4daac7ef1b507b4747afa0a300ef1f2d1b8c75f5ce99e0cfd86ee24"
REQUEST_ID = "badd8bdd8a3d161f71b3eb9ad9d1c6b0"
REFUSAL = {"status": False, "message": "no"}
ABSENT = object()


def documented() -> dict[str, Any]:
    """A fresh copy of the documented reply."""
    reply: dict[str, Any] = json.loads(DOCUMENTED)
    return reply


def replied(status: int, body: object = b"", retry_after: str | None = None) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(Reply(status, raw, retry_after), CUSTOMER, NOW)


def with_http_status(verdict: Verdict, status: int) -> Verdict:
    return replace(verdict, facts=replace(verdict.facts, http_status=status))


# --- no reply, and the statuses that mean the same whatever the body says ---


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (NoReply.NOT_SENT, Retry(Reason.NO_CONNECTION, Facts())),
        (NoReply.UNANSWERED, Retry(Reason.NO_ANSWER, Facts(), Doubt.UNANSWERED)),
    ],
)
def test_the_absence_of_a_reply_is_retried_and_is_in_doubt_only_if_the_request_was_sent(
    reply: NoReply, verdict: Verdict
) -> None:
    assert judge(reply, CUSTOMER, NOW) == verdict


def unanswered() -> Retry:
    return Retry(Reason.NO_ANSWER, Facts(), Doubt.UNANSWERED)


def failed_upstream() -> Retry:
    return Retry(Reason.SERVER_ERROR, Facts(), Doubt.SERVER_FAILED)


def settled(reason: Reason) -> Settled:
    return Settled(reason, Facts())


CREDENTIALS_REFUSED = Refused(StateReason.CREDENTIALS_REFUSED, Facts())

STATUSES: dict[int, Verdict] = {
    # sent, then no full reply
    408: unanswered(),
    499: unanswered(),
    502: unanswered(),
    504: unanswered(),
    # too fast: all workers pause
    429: Retry(Reason.RATE_LIMITED, Facts(), throttled=True),
    # the endpoint answered that it failed
    425: failed_upstream(),
    500: failed_upstream(),
    501: failed_upstream(),
    503: failed_upstream(),
    505: failed_upstream(),
    520: failed_upstream(),
    599: failed_upstream(),
    # the batch pauses
    401: CREDENTIALS_REFUSED,
    403: CREDENTIALS_REFUSED,
    # never followed
    300: settled(Reason.REDIRECTED),
    301: settled(Reason.REDIRECTED),
    302: settled(Reason.REDIRECTED),
    303: settled(Reason.REDIRECTED),
    304: settled(Reason.REDIRECTED),
    307: settled(Reason.REDIRECTED),
    308: settled(Reason.REDIRECTED),
    # rejected
    400: settled(Reason.BAD_REQUEST),
    402: settled(Reason.REQUEST_FAILED),
    406: settled(Reason.NOT_ACCEPTABLE),
    409: settled(Reason.CONFLICT),
    422: settled(Reason.UNPROCESSABLE),
    405: settled(Reason.HTTP_4XX),
    411: settled(Reason.HTTP_4XX),
    418: settled(Reason.HTTP_4XX),
    451: settled(Reason.HTTP_4XX),
    498: settled(Reason.HTTP_4XX),
}
BODIES = [b"", b"<html>gateway</html>", b'{"status":', json.dumps(REFUSAL).encode(), b'{"status":true}']


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("status", "verdict"), STATUSES.items())
def test_a_status_that_says_no_means_the_same_whatever_its_body_says(
    status: int, verdict: Verdict, body: bytes
) -> None:
    assert replied(status, body) == with_http_status(verdict, status)


@pytest.mark.parametrize("status", [0, 1, 99, 100, 101, 103, 199, 600, 700, 999, -1])
def test_a_status_that_http_does_not_define_as_final_is_no_answer(status: int) -> None:
    assert replied(status, {"status": True}) == with_http_status(unanswered(), status)


# --- there is no such customer, or this is not the API ---


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    "body",
    [REFUSAL, {"status": False}, {"message": "not found"}, {"status": "error"}, {"status": None, "data": None}],
)
def test_a_404_in_the_apis_envelope_is_an_absent_customer(status: int, body: object) -> None:
    assert replied(status, body) == Gone(Facts(http_status=status))


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>404 Not Found</h1></html>",
        b"Not found",
        b"null",
        b'"status"',
        b"404",
        b"{}",
        b'{"error":"no route"}',
        b'{"data":{"status":false,"message":"not found"}}',
        b'[{"status":false,"message":"not found"}]',
        b'{"status":false,"message":"not fou',
    ],
)
def test_a_404_of_somebody_else_never_reads_as_an_absent_customer(status: int, body: bytes) -> None:
    assert replied(status, body) == Settled(Reason.NOT_THE_API, Facts(http_status=status))


# --- confirmed ---


def test_the_documented_reply_is_kept_here_byte_for_byte() -> None:
    assert hashlib.sha256(DOCUMENTED).hexdigest() == DOCUMENTED_SHA256


def test_the_documented_reply_confirms_the_deletion() -> None:
    assert replied(200, DOCUMENTED) == Settled(
        Reason.CONFIRMED, Facts(http_status=200, request_id=REQUEST_ID, is_wallet_ready=False)
    )


def test_a_reply_after_the_documented_schema_confirms_the_deletion() -> None:
    body = {"status": True, "message": "OK", "data": {"is_wallet_ready": True, "missing_field": ["email"]}}
    assert replied(200, body) == Settled(
        Reason.CONFIRMED, Facts(http_status=200, missing_field=("email",), is_wallet_ready=True)
    )


@pytest.mark.parametrize(
    "body",
    [
        {"status": True},
        {"status": True, "message": "OK", "data": None},
        {"status": True, "data": {"success": None, "status_code": None}},
        {"status": True, "data": {"success": True, "status_code": 200}},
        {"status": True, "data": {"status_code": 201}},
        {"status": True, "data": {"status_code": "200"}},
        {"status": True, "data": {"customer_id": CUSTOMER, "is_active": False}},
        {"status": True, "data": {"data": {"customer_id": CUSTOMER}}},
        {"status": True, "data": {"data": {"customer_id": CUSTOMER, "is_active": None}}},
        {"status": True, "customer_id": CUSTOMER, "is_active": False},
    ],
)
@pytest.mark.parametrize("status", [200, 201, 203, 206])
def test_a_2xx_whose_status_is_true_and_that_nothing_contradicts_confirms(status: int, body: object) -> None:
    assert replied(status, body) == Settled(Reason.CONFIRMED, Facts(http_status=status))


@pytest.mark.parametrize("body", [b"", b" ", b"<html>", b'{"status":true}'])
def test_204_confirms_without_a_body(body: bytes) -> None:
    assert replied(204, body) == Settled(Reason.NO_CONTENT, Facts(http_status=204))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"status":true}', b'{"status":false}', b"{"])
def test_202_is_accepted_and_not_confirmed_whatever_its_body_says(body: bytes) -> None:
    assert replied(202, body) == Settled(Reason.ACCEPTED_NOT_CONFIRMED, Facts(http_status=202))


def test_202_is_not_confirmed_even_by_the_documented_reply() -> None:
    verdict = replied(202, DOCUMENTED)
    assert isinstance(verdict, Settled)
    assert verdict.reason is Reason.ACCEPTED_NOT_CONFIRMED


# --- 2xx that says no: the inner status code goes through the same table ---


@pytest.mark.parametrize(("inner", "verdict"), [*STATUSES.items(), (404, Gone(Facts())), (410, Gone(Facts()))])
@pytest.mark.parametrize(
    "shape",
    [
        lambda code: {"status": False, "data": {"status_code": code}},
        lambda code: {"status": True, "data": {"success": False, "status_code": code}},
        lambda code: {"status": True, "data": {"success": True, "status_code": code}},
        lambda code: {"status": True, "data": {"status_code": str(code)}},
        lambda code: {"status": False, "status_code": code},
    ],
    ids=["status false", "success false", "code alone", "code as text", "code at the top"],
)
def test_a_2xx_that_says_no_is_read_by_its_inner_status_code(inner: int, verdict: Verdict, shape: Any) -> None:
    assert replied(200, shape(inner)) == with_http_status(verdict, 200)


def test_the_retry_after_of_a_2xx_that_says_429_inside_counts() -> None:
    assert replied(200, {"status": False, "data": {"status_code": 429}}, "7") == Retry(
        Reason.RATE_LIMITED, Facts(http_status=200), retry_after=7.0, throttled=True
    )


@pytest.mark.parametrize(
    "body",
    [
        {"status": False},
        {"status": False, "data": None},
        {"status": False, "data": "nothing"},
        {"status": True, "data": {"success": False}},
        {"status": False, "data": {"success": True}},
        {"status": True, "success": False},
        {"status": False, "data": {"status_code": 200}},
        {"status": True, "data": {"success": False, "status_code": 204}},
    ],
)
def test_a_2xx_that_says_no_without_a_code_that_says_why_is_refused(body: object) -> None:
    assert replied(200, body) == Settled(Reason.REFUSED, Facts(http_status=200))


def test_the_documented_reply_with_success_false_is_refused() -> None:
    body = documented()
    body["data"]["success"] = False
    verdict = replied(200, body)
    assert isinstance(verdict, Settled)
    assert verdict.reason is Reason.REFUSED


def test_a_refusal_comes_before_the_question_whom_it_is_about() -> None:
    body = {"status": False, "data": {"customer_id": OTHER, "is_active": True}}
    assert replied(200, body) == Settled(Reason.REFUSED, Facts(http_status=200))


# --- 2xx that confirms something else ---


@pytest.mark.parametrize(
    "body",
    [
        {"status": True, "data": {"data": {"customer_id": OTHER}}},
        {"status": True, "data": {"customer_id": OTHER}},
        {"status": True, "customer_id": OTHER},
        {"status": True, "customer_id": CUSTOMER.upper()},
        {"status": True, "customer_id": CUSTOMER + " "},
        {"status": True, "customer_id": 7},
        {"status": True, "customer_id": [CUSTOMER]},
        {"status": True, "data": {"data": {"customer_id": OTHER, "is_active": True}}},
        {"data": {"data": {"customer_id": OTHER}}},
    ],
)
def test_a_reply_for_another_customer_is_unknown_and_pauses_the_batch(body: object) -> None:
    assert replied(200, body) == Settled(
        Reason.REPLY_FOR_ANOTHER_CUSTOMER, Facts(http_status=200), pauses=StateReason.REPLY_FOR_ANOTHER_CUSTOMER
    )


def test_nothing_else_that_settles_a_record_pauses_the_batch() -> None:
    verdicts = [replied(status, body) for status in range(200, 600) for body in BODIES]
    assert {verdict.pauses for verdict in verdicts if isinstance(verdict, Settled)} == {None}


@pytest.mark.parametrize(
    "body",
    [
        {"status": True, "data": {"data": {"customer_id": CUSTOMER, "is_active": True}}},
        {"status": True, "data": {"is_active": True}},
        {"status": True, "is_active": True},
        {"is_active": True},
    ],
)
def test_a_customer_that_still_is_active_is_unknown(body: object) -> None:
    assert replied(200, body) == Settled(Reason.STILL_ACTIVE, Facts(http_status=200))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"status": True, "data": {"is_active": True, "data": {"is_active": False}}}, Reason.STILL_ACTIVE),
        ({"status": True, "is_active": True, "data": {"data": {"is_active": False}}}, Reason.STILL_ACTIVE),
        (
            {"status": True, "data": {"customer_id": OTHER, "data": {"customer_id": CUSTOMER}}},
            Reason.REPLY_FOR_ANOTHER_CUSTOMER,
        ),
        (
            {"status": True, "customer_id": OTHER, "data": {"data": {"customer_id": CUSTOMER}}},
            Reason.REPLY_FOR_ANOTHER_CUSTOMER,
        ),
        ({"status": True, "success": False, "data": {"success": True}}, Reason.REFUSED),
    ],
)
def test_a_reply_that_contradicts_itself_in_two_places_never_confirms(body: object, reason: Reason) -> None:
    verdict = replied(200, body)
    assert isinstance(verdict, Settled)
    assert verdict.reason is reason


# --- 2xx that nobody can read ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"OK",
        b"<html>maintenance</html>",
        b"null",
        b"true",
        b"200",
        b'"deleted"',
        b"[]",
        b'[{"status":true}]',
        b'{"status":true',
        b'{"status":true} and more',
        b'{"status":true}{"status":true}',
        b"{'status': true}",
        b'{"status":True}',
        b"\xff\xfe\x00",
        '{"status":true}'.encode("utf-16"),
        b'{"status":true,"x":' + b"[" * 100_000,
        DOCUMENTED.rstrip()[:-1],
        DOCUMENTED[: len(DOCUMENTED) // 2],
        b"\x1f\x8b\x08\x00" + bytes(40),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 207, 299])
def test_a_2xx_that_is_no_json_object_is_unanswered(status: int, body: bytes) -> None:
    assert replied(status, body) == Retry(Reason.UNREADABLE_REPLY, Facts(http_status=status), Doubt.UNANSWERED)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": "OK"},
        {"status": None},
        {"status": "true"},
        {"status": 1},
        {"status": [True]},
        {"data": {"success": True, "status_code": 200}},
        {"data": {"data": {"customer_id": CUSTOMER, "is_active": False}}},
        {"status": True, "data": {"success": "false"}},
        {"status": True, "data": {"success": {}}},
        {"status": True, "data": {"status_code": "OK"}},
        {"status": True, "data": {"status_code": 0}},
        {"status": True, "data": {"status_code": 404.5}},
        {"status": True, "data": {"status_code": {"code": 404}}},
        {"status": True, "data": {"status_code": []}},
        {"status": True, "data": "failed"},
        {"status": True, "data": [{"customer_id": CUSTOMER, "is_active": False}]},
        {"status": True, "data": {"data": [{"customer_id": CUSTOMER, "is_active": False}]}},
    ],
)
def test_a_json_object_that_confirms_nothing_is_retried_as_unreadable(body: object) -> None:
    assert replied(200, body) == Retry(Reason.UNREADABLE_REPLY, Facts(http_status=200), Doubt.UNANSWERED)


# --- missing_field, in both documented shapes and a third ---

MISSING: list[tuple[object, tuple[str, ...]]] = [
    (["email", "dob"], ("email", "dob")),
    ("email", ("email",)),
    (None, ()),
    (ABSENT, ()),
    ([], ()),
    ("", ()),
    (["email", 7, None, True, {"name": "x"}, ["dob"], "phone"], ("email", "phone")),
    ({"email": True}, ()),
    (7, ()),
    ([1, 2], ()),
]


def put_missing(body: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    target = {"top": body, "data": body["data"], "data.data": body["data"]["data"]}[place]
    if value is not ABSENT:
        target["missing_field"] = value
    return body


@pytest.mark.parametrize("place", ["top", "data", "data.data"])
@pytest.mark.parametrize(("value", "names"), MISSING)
def test_missing_field_is_kept_with_a_confirmed_deletion(place: str, value: object, names: tuple[str, ...]) -> None:
    assert replied(200, put_missing(documented(), place, value)) == Settled(
        Reason.CONFIRMED,
        Facts(http_status=200, request_id=REQUEST_ID, missing_field=names, is_wallet_ready=False),
    )


@pytest.mark.parametrize("place", ["top", "data", "data.data"])
@pytest.mark.parametrize(("value", "names"), MISSING)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, Reason.BAD_REQUEST),
        (402, Reason.REQUEST_FAILED),
        (406, Reason.NOT_ACCEPTABLE),
        (409, Reason.CONFLICT),
        (418, Reason.HTTP_4XX),
        (422, Reason.UNPROCESSABLE),
        (200, Reason.REFUSED),
    ],
)
def test_any_rejection_that_names_missing_fields_has_that_reason(
    status: int, reason: Reason, place: str, value: object, names: tuple[str, ...]
) -> None:
    body = put_missing({"status": False, "data": {"data": {}}}, place, value)
    assert replied(status, body) == Settled(
        Reason.MISSING_FIELD if names else reason, Facts(http_status=status, missing_field=names)
    )


@pytest.mark.parametrize("status", [200, 400])
def test_an_empty_missing_field_does_not_hide_the_names_that_stand_elsewhere(status: int) -> None:
    body = {"status": status == 200, "data": {"missing_field": ["email"], "data": {"missing_field": []}}}
    assert replied(status, body).facts.missing_field == ("email",)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502])
def test_missing_field_changes_no_verdict_that_is_not_a_rejection(status: int) -> None:
    plain, naming = replied(status, REFUSAL), replied(status, REFUSAL | {"missing_field": ["email"]})
    assert naming == replace(plain, facts=replace(plain.facts, missing_field=("email",)))


def test_names_of_missing_fields_are_kept_short_and_cannot_break_a_report() -> None:
    names = ["a;b", "line\nbreak\x00", "x" * 500, " padded ", ";", *(f"n{i}" for i in range(100))]
    kept = replied(400, {"status": False, "missing_field": names}).facts.missing_field
    assert kept[:4] == ("ab", "linebreak", "x" * MAX_NAME_LENGTH, "padded")
    assert len(kept) == MAX_NAMES


# --- what is kept ---


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("req-1", "req-1"),
        ("x" * 500, "x" * MAX_REQUEST_ID_LENGTH),
        ("", None),
        (None, None),
        (17, None),
        (["req-1"], None),
        ("line\nbreak", None),
        ("caf\u00e9", None),
    ],
)
def test_a_request_id_is_kept_only_if_it_is_a_short_printable_text(value: object, kept: str | None) -> None:
    assert replied(200, {"status": True, "data": {"request_id": value}}).facts.request_id == kept


@pytest.mark.parametrize("place", ["top", "data", "data.data"])
@pytest.mark.parametrize(
    ("value", "kept"), [(True, True), (False, False), (None, None), ("yes", None), (1, None), ([], None)]
)
def test_is_wallet_ready_is_kept_only_as_a_boolean(place: str, value: object, kept: bool | None) -> None:
    body: dict[str, Any] = {"status": True, "data": {"data": {}}}
    {"top": body, "data": body["data"], "data.data": body["data"]["data"]}[place]["is_wallet_ready"] = value
    assert replied(200, body).facts.is_wallet_ready is kept


def test_a_rejection_keeps_the_request_id_for_whoever_asks_the_upstream() -> None:
    assert replied(409, {"status": False, "data": {"request_id": "req-1"}}).facts.request_id == "req-1"


def test_neither_a_reply_nor_its_verdict_shows_the_customers_file() -> None:
    reply = Reply(200, DOCUMENTED, None)
    shown = repr(reply) + repr(judge(reply, CUSTOMER, NOW)) + repr(judge(reply, OTHER, NOW))
    for personal in ("Fatur", "paycombat", "1997-08-04", "3374", "85156781165", CUSTOMER, OTHER):
        assert personal not in shown


# --- Retry-After ---


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


RETRY_AFTERS: list[tuple[str | None, float | None]] = [
    (None, None),
    ("0", 0.0),
    ("7", 7.0),
    ("007", 7.0),
    (" 7 ", 7.0),
    ("3600", 3600.0),
    ("3601", MAX_RETRY_AFTER),
    ("9" * 400, MAX_RETRY_AFTER),
    (http_date(90), 90.0),
    (http_date(-90), 0.0),
    (http_date(90_000), MAX_RETRY_AFTER),
    ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
    ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
    ("-7", None),
    ("-0", None),
    ("7.5", None),
    ("1e3", None),
    ("inf", None),
    ("nan", None),
    ("\u0667", None),
    ("\u00b2", None),
    ("soon", None),
    ("", None),
    ("7 seconds", None),
    ("Sun, 99 Foo 9999 99:99:99 GMT", None),
]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 504])
@pytest.mark.parametrize(("header", "seconds"), RETRY_AFTERS)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_ignored(
    status: int, header: str | None, seconds: float | None
) -> None:
    verdict = replied(status, b"", header)
    assert isinstance(verdict, Retry)
    assert verdict.retry_after == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_every_form_of_http_date_is_in_universal_time_wherever_the_worker_is(form: str) -> None:
    """RFC 9110, 5.6.7: a recipient must accept all three forms, and asctime is UTC too."""
    verdict = replied(503, b"", datetime.fromtimestamp(NOW + 90, UTC).strftime(form))
    assert isinstance(verdict, Retry)
    assert verdict.retry_after == 90.0


# --- the table as a whole ---


def test_only_a_2xx_ever_says_deleted() -> None:
    said = {
        status
        for status in range(1000)
        for body in (b"", b'{"status":true}', DOCUMENTED)
        if isinstance(verdict := replied(status, body), Settled) and verdict.reason.outcome is Outcome.DELETED
    }
    assert said == set(range(200, 300)) - {202}
