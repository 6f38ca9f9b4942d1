"""What is known of a record: its finished result, and what its attempts so far leave open."""

from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import NamedTuple

from worker.domain.outcomes import Outcome, Reason


class Result(NamedTuple):
    """A record's terminal outcome and the little of the reply that may be kept (SPEC 4, promise 8).

    A tuple, since a report makes a million of them: a frozen dataclass takes three times as long to make.
    """

    reason: Reason
    http_status: int | None = None
    attempts: int = 0
    request_id: str | None = None
    missing_field: tuple[str, ...] = ()
    is_wallet_ready: bool | None = None
    first_row: int | None = None
    """Of a duplicate: the row that stands for it."""
    note: str | None = None
    """Our own words on it, such as the batch that deleted it earlier; never anything of a reply."""
    finished_at: float | None = None
    """Seconds since the epoch by the store's clock, which sets it."""

    @property
    def outcome(self) -> Outcome:
        """The outcome its reason belongs to."""
        return self.reason.outcome


class Doubt(IntFlag):
    """Why an earlier attempt of a record may have been executed although nobody heard so."""

    NONE = 0
    UNANSWERED = 1
    """Sent, and no full or readable reply came."""
    SERVER_FAILED = 2
    """The endpoint answered that it failed (5xx)."""
    INTERRUPTED = 4
    """A worker died in the middle of the record's shard."""


@dataclass(frozen=True, slots=True)
class History:
    """The attempts of one record up to now; it survives a handed-back shard."""

    attempts: int = 0
    doubt: Doubt = field(default=Doubt.NONE)
    unanswered: Reason | None = None
    """Of the last unanswered attempt: ``no_answer`` or ``unreadable_reply``."""
    spared: int = 0
    """Attempts that do not count against the record, since the upstream was away (SPEC 4, promise 5)."""

    @property
    def used(self) -> int:
        """Attempts that count."""
        return self.attempts - self.spared

    def spare(self, before: "History") -> "History":
        """The same history, whose attempts since ``before`` were made in vain: the upstream was away."""
        return replace(self, spared=before.spared + self.attempts - before.attempts)

    def interrupted(self) -> "History":
        """The same history, of a shard that lost its worker."""
        return replace(self, doubt=self.doubt | Doubt.INTERRUPTED)
