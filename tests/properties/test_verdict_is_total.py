"""Whatever comes back, ``judge`` has a verdict; it says "deleted" only of what confirms it, and repeats nothing."""

import json
import re
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.outcomes import Outcome
from worker.domain.retry_after import MAX_RETRY_AFTER
from worker.upstream.reply import NoReply, Reply
from worker.upstream.verdict import Gone, Refused, Retry, Settled, Verdict, judge

CUSTOMER = "customer_d4668153816c4c0c92c62b84fc5ada3f"
OTHER = "customer_00000000000000000000000000000000"
DOCUMENTED = (Path(__file__).parents[1] / "upstream_reply.json").read_bytes()
KEPT = ("request_id", "missing_field", "is_wallet_ready")
KNOWN = (*KEPT, "status", "message", "data", "success", "status_code", "customer_id", "is_active")

scalars = (
    st.sampled_from([True, False, None, 0, 1, 200, 204, 404, 429, 500, -1, 10**30, 2.5, "", "200", "404", "true"])
    | st.sampled_from([CUSTOMER, OTHER, "false", [], {}])
    | st.text(max_size=8)
)
keys = st.sampled_from(KNOWN) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6), max_leaves=12
)
objects = st.dictionaries(keys, values, max_size=8)


plausible: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from([True, True, False, None]),
    "success": st.sampled_from([True, True, False, None]),
    "status_code": st.sampled_from([200, 200, "200", 202, 404, None, []]),
    "customer_id": st.sampled_from([CUSTOMER, CUSTOMER, OTHER, None]),
    "is_active": st.sampled_from([False, False, True, None]),
    "missing_field": st.sampled_from([[], ["email"], "email", None]),
}
layer = st.fixed_dictionaries({}, optional=plausible)


@st.composite
def shaped_like_the_api(draw: st.DrawFn) -> dict[str, Any]:
    """The three layers of the documented reply, each with any of the fields; they often contradict each other."""
    return {"status": True} | draw(layer) | {"data": draw(layer) | {"data": draw(layer)}}


@st.composite
def nearly_documented(draw: st.DrawFn) -> bytes:
    """The documented reply with a few of its fields set, moved in or taken out."""
    body = json.loads(DOCUMENTED)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from([body, body["data"], body["data"]["data"]]))
        name = draw(st.sampled_from([name for name in KNOWN if name != "data"]))
        if draw(st.booleans()):
            place[name] = draw(scalars)
        else:
            place.pop(name, None)
    return json.dumps(body).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The documented reply with a stretch of its bytes replaced."""
    start = draw(st.integers(0, len(DOCUMENTED)))
    end = draw(st.integers(start, min(len(DOCUMENTED), start + 40)))
    return DOCUMENTED[:start] + draw(st.binary(max_size=4)) + DOCUMENTED[end:]


def as_bytes(body: object) -> bytes:
    return json.dumps(body).encode()


bodies = (
    st.just(DOCUMENTED)
    | nearly_documented()
    | shaped_like_the_api().map(as_bytes)
    | objects.map(as_bytes)
    | values.map(as_bytes)
    | damaged()
    | st.binary(max_size=64)
)
statuses = st.sampled_from([200, 200, 200, 201, 202, 204, 400, 401, 404, 429, 500, 504]) | st.integers(0, 999)
headers = (
    st.none()
    | st.text(max_size=40)
    | st.integers(-(10**12), 10**12).map(str)
    | st.datetimes().map(format_datetime)
    | st.text("0123456789 :,+-JanSunGMT", max_size=40)
)
replies = st.builds(Reply, statuses, bodies, headers)
nearly_confirming = st.builds(
    Reply,
    st.sampled_from([200, 200, 200, 201, 202, 204]),
    shaped_like_the_api().map(as_bytes) | nearly_documented() | damaged() | objects.map(as_bytes),
)
times = st.floats(0, 4e9)


def layers(body: bytes) -> Iterator[dict[str, Any]]:
    """The reply's object, its ``data`` and its ``data.data``, as far as they are objects."""
    try:
        found = json.loads(body.decode("utf-8", "replace"), strict=False)
    except ValueError:
        return
    for _ in range(3):
        if not isinstance(found, dict):
            return
        yield found
        found = found.get("data")


def is_2xx(code: object) -> bool:
    return re.fullmatch("2[0-9][0-9]", str(code)) is not None


def really_confirms(reply: Reply, customer_id: str) -> bool:
    """SPEC 2 once more, by other means: it says yes, and nowhere does it say anything that speaks against it."""
    if reply.status == 204:
        return True
    found = list(layers(reply.body))
    said = [(name, value) for layer in found for name, value in layer.items() if value is not None]
    return (
        200 <= reply.status < 300
        and reply.status != 202
        and bool(found)
        and found[0].get("status") is True
        and not any(layer.get("success") is False for layer in found[:2])
        and not any(name == "is_active" and value is True for name, value in said)
        and all(str(value) == customer_id for name, value in said if name == "customer_id")
        and all(is_2xx(layer["status_code"]) for layer in found[:2] if layer.get("status_code") is not None)
    )


def says_deleted(verdict: Verdict) -> bool:
    return isinstance(verdict, Settled) and verdict.reason.outcome is Outcome.DELETED


@given(replies | st.sampled_from(NoReply), st.text(max_size=8) | st.just(CUSTOMER), times)
def test_every_reply_has_a_verdict(reply: Reply | NoReply, customer_id: str, now: float) -> None:
    verdict = judge(reply, customer_id, now)
    assert isinstance(verdict, Settled | Gone | Retry | Refused)
    if isinstance(verdict, Retry) and verdict.retry_after is not None:
        assert 0.0 <= verdict.retry_after <= MAX_RETRY_AFTER


@settings(max_examples=500)
@given(nearly_confirming | replies, times)
def test_deleted_is_never_said_without_a_reply_that_confirms_it(reply: Reply, now: float) -> None:
    if says_deleted(judge(reply, CUSTOMER, now)):
        assert really_confirms(reply, CUSTOMER)


def test_a_reply_that_confirms_is_not_missed() -> None:
    """The property above would hold of a ``judge`` that never says "deleted"."""
    for body in (DOCUMENTED, b'{"status":true}'):
        assert says_deleted(judge(Reply(200, body), CUSTOMER, 0.0))
        assert really_confirms(Reply(200, body), CUSTOMER)


@given(st.binary(max_size=64) | values.map(as_bytes) | st.just(b"<html>not found</html>"), times)
def test_a_customer_is_absent_only_by_the_word_of_the_api(body: bytes, now: float) -> None:
    reply = Reply(404, body)
    if isinstance(judge(reply, CUSTOMER, now), Gone):
        assert {"status", "message"} & set(next(layers(body)))


# --- nothing of the customer's file gets out ---

CANARY = "canary"


def with_canaries(value: object, draw: st.DrawFn) -> object:
    """The same shape; wherever a value may be personal it is a canary, sometimes of another type."""
    if isinstance(value, dict):
        return {name: part if name in KEPT else with_canaries(part, draw) for name, part in value.items()} | {
            f"{CANARY}_key": f"{CANARY}_value"
        }
    if draw(st.booleans()) and not isinstance(value, str):
        return value
    return draw(st.sampled_from([f"{CANARY}_text", [f"{CANARY}_item"], {f"{CANARY}_name": f"{CANARY}_part"}]))


@st.composite
def full_of_canaries(draw: st.DrawFn) -> bytes:
    body = with_canaries(json.loads(DOCUMENTED), draw)
    assert isinstance(body, dict)
    body["status"] = draw(st.sampled_from([True, False, None, f"{CANARY}_status"]))
    for _ in range(draw(st.integers(0, 2))):
        body["data"][draw(st.sampled_from(["customer_id", "status_code", "success", "is_active"]))] = draw(
            st.sampled_from([f"{CANARY}_set", [f"{CANARY}_set"], {f"{CANARY}_set": 1}, 404, False])
        )
    raw = json.dumps(body).encode()
    return raw if draw(st.booleans()) else raw[: draw(st.integers(0, len(raw)))]


@given(full_of_canaries(), statuses, times)
def test_a_verdict_repeats_nothing_of_the_reply_but_what_may_be_kept(body: bytes, status: int, now: float) -> None:
    reply = Reply(status, body)
    shown = repr(judge(reply, CUSTOMER, now)) + str(judge(reply, OTHER, now)) + repr(reply) + str(reply)
    assert CANARY not in shown
    assert CUSTOMER not in shown


def test_what_may_be_kept_is_kept() -> None:
    """The property above would hold of a ``judge`` that keeps nothing."""
    body = {"status": True, "data": {"request_id": "req-1", "missing_field": ["email"], "is_wallet_ready": True}}
    verdict = judge(Reply(200, as_bytes(body)), CUSTOMER, 0.0)
    assert verdict.facts.request_id == "req-1"
    assert verdict.facts.missing_field == ("email",)
    assert verdict.facts.is_wallet_ready is True
