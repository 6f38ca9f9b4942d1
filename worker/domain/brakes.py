"""Brakes (SPEC 6): the outcomes of a batch themselves say that something may be wrong with all of it.

Judged are records that were sent: what was skipped, or is known by the ledger, says nothing about the upstream, the
merchant or the environment. ``store/lua/record.lua`` judges, in the step that moves the tally.
"""

from dataclasses import dataclass
from enum import StrEnum

from worker.domain.outcomes import Outcome, Reason

LEAST = 100
"""Records that must be done before their shares are judged; a canary is judged when all of it is done."""
_BAD = (Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN)

BAD = tuple(reason for reason in Reason if reason.outcome in _BAD)
"""What ``failure_threshold`` counts."""
WELL = tuple(
    reason
    for reason in Reason
    if reason.outcome in (Outcome.DELETED, Outcome.ABSENT) and reason is not Reason.DELETED_EARLIER
)
"""The other outcomes of records that were sent."""


class Despite(StrEnum):
    """What an operator may go on despite."""

    FAILURE_THRESHOLD = "failure_threshold"
    """Many failed: it is not asked again in this batch."""
    MOSTLY_NOT_FOUND = "mostly_not_found"
    """Many are not there: it is not asked again in this batch."""
    CANARY = "canary"
    """The first records say so; both shares are judged again when ``LEAST`` are done."""


@dataclass(frozen=True, slots=True)
class Brakes:
    """Where a batch's brakes are set; they do not change after it was submitted."""

    failure_threshold: float = 0.5
    """Share of ``rejected``, ``failed`` and ``unknown`` from which on the batch is paused."""
    not_found_threshold: float = 0.5
    """The same of ``not_found``."""
    canary: int = 0
    """How many records run alone before the rest; 0: none do."""


USUAL = Brakes()


@dataclass(frozen=True, slots=True)
class Tripped:
    """What paused a batch, and the numbers that did."""

    reason: Despite
    """``FAILURE_THRESHOLD`` or ``MOSTLY_NOT_FOUND``."""
    count: int
    done: int
    """Records that were sent and have their outcome, when it was paused."""
    threshold: float
    canary: bool
    """Whether they were the first records, that ran alone."""

    @property
    def ways_on(self) -> tuple[Despite, ...]:
        """What an operator may go on despite now, the narrowest first."""
        return (Despite.CANARY, self.reason) if self.canary else (self.reason,)

    def __str__(self) -> str:
        records = f"{self.count} of {'the first ' if self.canary else ''}{self.done} records that were sent"
        shares = f"{self.count / self.done:.0%}; the limit is {self.threshold:.0%}"
        if self.reason is Despite.MOSTLY_NOT_FOUND:
            return f"{records} were not found ({shares}), so merchant or environment may be wrong"
        return f"{records} failed, were rejected or are unknown ({shares})"
