"""Outcomes and reasons (SPEC 3): what became of a record, why, who acts on it, and what to do next.

Every reason belongs to exactly one outcome, so a stored reason code is enough to know both.
"""

from enum import Enum, StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What became of a record. Terminal but for ``pending``, and written once."""

    DELETED = "deleted"
    ABSENT = "absent"
    REJECTED = "rejected"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    PENDING = "pending"

    @property
    def meaning(self) -> str:
        """What an analyst reads of it."""
        return _MEANINGS[self]


_MEANINGS = {
    Outcome.DELETED: "the endpoint confirmed it",
    Outcome.ABSENT: "there is no such customer now",
    Outcome.REJECTED: "refused, and would be refused again",
    Outcome.FAILED: "gave up; safe to try again",
    Outcome.UNKNOWN: "may or may not be deleted",
    Outcome.SKIPPED: "never sent, by our own rule",
    Outcome.PENDING: "not finished",
}

TERMINAL = tuple(outcome for outcome in Outcome if outcome is not Outcome.PENDING)
GONE = frozenset({Outcome.DELETED, Outcome.ABSENT})


class Actor(StrEnum):
    """Who acts on a record that ended with a reason."""

    NOBODY = "nobody"
    UPLOADER = "uploader"
    UPSTREAM = "upstream"
    OPERATOR = "operator"


class _Row(NamedTuple):
    code: int
    text: str
    outcome: Outcome
    retryable: bool
    actor: Actor
    next_step: str


class Reason(Enum):
    """Why a record has its outcome.

    The text is a stable lower_snake word, the code its number at rest: both are append-only across releases
    (SPEC 1), so a retired reason keeps its row.
    """

    # fmt: off

    CONFIRMED = _Row(1, "confirmed", Outcome.DELETED, False, Actor.NOBODY, "Nothing: the deletion is confirmed.")
    NO_CONTENT = _Row(2, "no_content", Outcome.DELETED, False, Actor.NOBODY, "Nothing: the deletion is confirmed.")

    NOT_FOUND = _Row(10, "not_found", Outcome.ABSENT, False, Actor.NOBODY, "Nothing, unless you expected it: then check the merchant and the environment.")
    DELETED_EARLIER = _Row(11, "deleted_earlier", Outcome.ABSENT, False, Actor.NOBODY, "Nothing: an earlier batch deleted this customer.")
    AFTER_UNANSWERED_ATTEMPT = _Row(12, "after_unanswered_attempt", Outcome.ABSENT, False, Actor.NOBODY, "Nothing: an attempt without an answer most likely deleted it.")
    AFTER_INTERRUPTED_ATTEMPT = _Row(13, "after_interrupted_attempt", Outcome.ABSENT, False, Actor.NOBODY, "Nothing: an attempt cut short by a crash most likely deleted it.")

    BAD_REQUEST = _Row(20, "bad_request", Outcome.REJECTED, False, Actor.UPLOADER, "Check the ID; then ask the upstream with the request ID.")
    REQUEST_FAILED = _Row(21, "request_failed", Outcome.REJECTED, False, Actor.UPSTREAM, "Ask the upstream why, with the request ID.")
    NOT_ACCEPTABLE = _Row(22, "not_acceptable", Outcome.REJECTED, False, Actor.UPLOADER, "Check the ID; then ask the upstream with the request ID.")
    CONFLICT = _Row(23, "conflict", Outcome.REJECTED, False, Actor.UPSTREAM, "Find what else uses this customer; submit again when it ended.")
    UNPROCESSABLE = _Row(24, "unprocessable", Outcome.REJECTED, False, Actor.UPLOADER, "Check the ID and the customer's state upstream.")
    HTTP_4XX = _Row(25, "http_4xx", Outcome.REJECTED, False, Actor.UPSTREAM, "Look up the HTTP status; ask the upstream with the request ID.")
    MISSING_FIELD = _Row(26, "missing_field", Outcome.REJECTED, False, Actor.UPLOADER, "Complete the named fields of this customer upstream; then submit it again.")
    REFUSED = _Row(27, "refused", Outcome.REJECTED, False, Actor.UPSTREAM, "Ask the upstream why, with the request ID.")

    RATE_LIMITED = _Row(40, "rate_limited", Outcome.FAILED, True, Actor.OPERATOR, "Lower EXPUNGE_RATE_LIMIT, then submit it again.")
    SERVER_ERROR = _Row(41, "server_error", Outcome.FAILED, True, Actor.UPSTREAM, "Submit it again when the upstream has recovered.")
    NO_CONNECTION = _Row(42, "no_connection", Outcome.FAILED, True, Actor.OPERATOR, "Check EXPUNGE_UPSTREAM_URL and the network, then submit it again.")
    REDIRECTED = _Row(43, "redirected", Outcome.FAILED, True, Actor.OPERATOR, "Set EXPUNGE_UPSTREAM_URL to the final address, then submit it again.")
    NOT_THE_API = _Row(44, "not_the_api", Outcome.FAILED, True, Actor.OPERATOR, "Check EXPUNGE_UPSTREAM_URL and EXPUNGE_UPSTREAM_PATH, then submit it again.")

    NO_ANSWER = _Row(60, "no_answer", Outcome.UNKNOWN, True, Actor.OPERATOR, "Submit it again: a 404 then means that it is deleted.")
    UNREADABLE_REPLY = _Row(61, "unreadable_reply", Outcome.UNKNOWN, True, Actor.UPSTREAM, "Submit it again; if it stays so, ask the upstream.")
    ACCEPTED_NOT_CONFIRMED = _Row(62, "accepted_not_confirmed", Outcome.UNKNOWN, True, Actor.UPSTREAM, "Submit it again later: a 404 then means that it is deleted.")
    STILL_ACTIVE = _Row(63, "still_active", Outcome.UNKNOWN, True, Actor.UPSTREAM, "Ask the upstream why the customer is still active.")
    REPLY_FOR_ANOTHER_CUSTOMER = _Row(64, "reply_for_another_customer", Outcome.UNKNOWN, False, Actor.OPERATOR, "Stop and ask the upstream before anything else is sent.")

    INVALID_ID = _Row(80, "invalid_id", Outcome.SKIPPED, False, Actor.UPLOADER, "Correct the ID in this row, then submit it again.")
    DUPLICATE = _Row(81, "duplicate", Outcome.SKIPPED, False, Actor.NOBODY, "Nothing: see the row that expunge_first_row names.")
    ON_HOLD = _Row(82, "on_hold", Outcome.SKIPPED, True, Actor.OPERATOR, "Release the hold when its ground has ended, then submit it again.")
    CANCELLED = _Row(83, "cancelled", Outcome.SKIPPED, True, Actor.OPERATOR, "Submit it again if it is still to be deleted.")
    POISONOUS = _Row(84, "poisonous", Outcome.SKIPPED, False, Actor.OPERATOR, "Report it to Expunge's developers: this record stopped its worker.")

    # fmt: on
    @property
    def code(self) -> int:
        """Its number at rest, 1 to 255."""
        return self.value.code

    @property
    def text(self) -> str:
        """Its stable word."""
        return self.value.text

    @property
    def outcome(self) -> Outcome:
        """The one outcome it belongs to."""
        return self.value.outcome

    @property
    def retryable(self) -> bool:
        """Whether submitting the record again may end otherwise."""
        return self.value.retryable

    @property
    def actor(self) -> Actor:
        """Who acts on it."""
        return self.value.actor

    @property
    def next_step(self) -> str:
        """What to do next, one sentence."""
        return self.value.next_step


REASON_BY_CODE = {reason.code: reason for reason in Reason}
REASON_BY_TEXT = {reason.text: reason for reason in Reason}
