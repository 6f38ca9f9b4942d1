"""What a reply means: the table of SPEC 2 as one pure, total function."""

from dataclasses import dataclass
from typing import TypeAlias

from worker.domain.batches import StateReason
from worker.domain.outcomes import Reason
from worker.domain.records import Doubt
from worker.domain.retry_after import retry_after_seconds
from worker.upstream.reply import Envelope, Facts, NoReply, Reply


@dataclass(frozen=True, slots=True)
class Settled:
    """The record's outcome is known."""

    reason: Reason
    facts: Facts
    pauses: StateReason | None = None
    """Set when nothing more of the batch may be sent before somebody looked at it."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The API says that there is no such customer; the record's history tells which ``absent`` that is."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again, not before ``retry_after`` seconds if given."""

    reason: Reason
    """Why the record ends, should this have been the last attempt and none was unanswered."""
    facts: Facts
    doubt: Doubt = Doubt.NONE
    retry_after: float | None = None
    throttled: bool = False
    """429: all workers pause, not one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """401, 403: the batch pauses; the record stays pending and no attempt is counted."""

    pauses: StateReason
    facts: Facts


Verdict: TypeAlias = Settled | Gone | Retry | Refused

_UNANSWERED = frozenset({408, 499, 502, 504})
_REJECTED = {
    400: Reason.BAD_REQUEST,
    402: Reason.REQUEST_FAILED,
    406: Reason.NOT_ACCEPTABLE,
    409: Reason.CONFLICT,
    422: Reason.UNPROCESSABLE,
}


def judge(reply: Reply | NoReply, customer_id: str, now: float) -> Verdict:
    """Turn a reply, or its absence, into a verdict.

    ``customer_id`` is the customer asked for, ``now`` seconds since the epoch (for a ``Retry-After`` that is a date).
    Never raises, whatever the reply holds.
    """
    if reply is NoReply.NOT_SENT:
        return Retry(Reason.NO_CONNECTION, Facts())
    if reply is NoReply.UNANSWERED:
        return Retry(Reason.NO_ANSWER, Facts(), Doubt.UNANSWERED)
    envelope = Envelope.parse(reply.body)
    if 200 <= reply.status < 300:
        return _judge_2xx(reply, envelope, customer_id, now)
    return _judge_status(reply.status, reply, envelope, now)


def _judge_2xx(reply: Reply, envelope: Envelope | None, customer_id: str, now: float) -> Verdict:
    facts = _facts(reply, envelope)
    if reply.status == 202:  # before all else: accepted is not done, whatever the body says
        return Settled(Reason.ACCEPTED_NOT_CONFIRMED, facts)
    if reply.status == 204:
        return Settled(Reason.NO_CONTENT, facts)
    if envelope is None:
        return Retry(Reason.UNREADABLE_REPLY, facts, Doubt.UNANSWERED)
    inner = envelope.inner_status()
    if envelope.refuses() or (_is_code(inner) and not 200 <= inner < 300):
        return _judge_refusal(inner, reply, envelope, now)
    if envelope.names_another(customer_id):
        return Settled(Reason.REPLY_FOR_ANOTHER_CUSTOMER, facts, pauses=StateReason.REPLY_FOR_ANOTHER_CUSTOMER)
    if envelope.still_active():
        return Settled(Reason.STILL_ACTIVE, facts)
    if envelope.confirms() and (inner is None or _is_code(inner)):
        return Settled(Reason.CONFIRMED, facts)
    return Retry(Reason.UNREADABLE_REPLY, facts, Doubt.UNANSWERED)  # JSON, but it confirms nothing


def _judge_refusal(inner: object, reply: Reply, envelope: Envelope, now: float) -> Verdict:
    """A 2xx that says no: its inner status code is read through the table, if that says no as well."""
    if isinstance(inner, int) and _is_code(inner) and inner >= 300:
        return _judge_status(inner, reply, envelope, now)
    return _rejected(Reason.REFUSED, _facts(reply, envelope))


def _judge_status(status: int, reply: Reply, envelope: Envelope | None, now: float) -> Verdict:
    facts = _facts(reply, envelope)
    wait = retry_after_seconds(reply.retry_after, now)
    if status in _UNANSWERED:
        return Retry(Reason.NO_ANSWER, facts, Doubt.UNANSWERED, wait)
    if status == 429:
        return Retry(Reason.RATE_LIMITED, facts, retry_after=wait, throttled=True)
    if status == 425 or 500 <= status < 600:
        return Retry(Reason.SERVER_ERROR, facts, Doubt.SERVER_FAILED, wait)
    if status in (401, 403):
        return Refused(StateReason.CREDENTIALS_REFUSED, facts)
    if 300 <= status < 400:
        return Settled(Reason.REDIRECTED, facts)
    if status in (404, 410):
        return Gone(facts) if envelope is not None and envelope.is_the_api else Settled(Reason.NOT_THE_API, facts)
    if 400 <= status < 500:
        return _rejected(_REJECTED.get(status, Reason.HTTP_4XX), facts)
    return Retry(Reason.NO_ANSWER, facts, Doubt.UNANSWERED, wait)  # 1xx, 6xx: no final reply of HTTP


def _rejected(reason: Reason, facts: Facts) -> Settled:
    return Settled(Reason.MISSING_FIELD if facts.missing_field else reason, facts)


def _facts(reply: Reply, envelope: Envelope | None) -> Facts:
    return Facts(http_status=reply.status) if envelope is None else envelope.facts(reply.status)


def _is_code(inner: object) -> bool:
    return isinstance(inner, int) and not isinstance(inner, bool) and 100 <= inner < 600
