"""A batch (SPEC 5): its states, the only transitions there are, its description and its tally."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from worker.domain.brakes import USUAL, Brakes, Despite, Tripped
from worker.domain.outcomes import GONE, Outcome, Reason


class BatchState(StrEnum):
    """Where a batch stands."""

    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing of it will be sent any more."""
        return self in (BatchState.COMPLETED, BatchState.CANCELLED)


class StateReason(StrEnum):
    """Why a batch is paused."""

    OPERATOR = "operator"
    CREDENTIALS_REFUSED = "credentials_refused"
    CIRCUIT_OPEN = "circuit_open"
    FAILURE_THRESHOLD = "failure_threshold"
    REPLY_FOR_ANOTHER_CUSTOMER = "reply_for_another_customer"
    MOSTLY_NOT_FOUND = "mostly_not_found"


TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.PLANNED: frozenset({BatchState.AWAITING_APPROVAL, BatchState.RUNNING}),
    BatchState.AWAITING_APPROVAL: frozenset({BatchState.RUNNING, BatchState.CANCELLED}),
    BatchState.RUNNING: frozenset({BatchState.PAUSED, BatchState.COMPLETED, BatchState.CANCELLED}),
    BatchState.PAUSED: frozenset({BatchState.RUNNING, BatchState.CANCELLED}),
    BatchState.COMPLETED: frozenset(),
    BatchState.CANCELLED: frozenset(),
}


class Lane(StrEnum):
    """What goes first where batches share workers and a limit: ``urgent`` ones are ahead of ``bulk`` (SPEC 5)."""

    URGENT = "urgent"
    BULK = "bulk"


class Environment(StrEnum):
    """Which of the upstream's worlds is meant; ``sandbox`` is the default (SPEC 6)."""

    SANDBOX = "sandbox"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class Target:
    """Whose customers are deleted, in which world, and by which upstream: a worker serves exactly one."""

    environment: Environment
    merchant: str
    upstream: str = ""
    """Stands for the upstream's address or name, 12 hex digits; empty where none is set, which no worker serves."""

    @property
    def owner(self) -> str:
        """Merchant and environment as one word: whose customers they are, whichever upstream leads to them."""
        return f"{self.environment}:{self.merchant}"

    @property
    def route(self) -> str:
        """All of it as one word: what a worker must be set up for to work on it."""
        return f"{self.owner}:{self.upstream}"


@dataclass(frozen=True, slots=True)
class Description:
    """What a submission says of itself; it does not change afterwards."""

    target: Target
    source: str
    """The file's name, for people."""
    sha256: str
    """Of the input's bytes, lower-case hex."""
    rows: int
    shard_size: int
    id_column: str
    columns: tuple[str, ...]
    """The input's header, in order; the ID column alone when it had none."""
    kept: tuple[str, ...] = ()
    """Of these, the ones that are stored besides the ID column."""
    reference: str | None = None
    lane: Lane = Lane.BULK
    brakes: Brakes = USUAL
    due: float | None = None
    """When it is to be done, in seconds since the epoch (SPEC 5)."""
    retry_of: str | None = None
    """The batch whose records it sends again."""
    submitted_by: str | None = None
    """A name; ``None`` where nobody has one."""
    needs_approval: bool = False
    """Whether nothing of it is sent before somebody else has approved it."""

    @property
    def shards(self) -> int:
        """How many shards its rows make."""
        return -(-self.rows // self.shard_size)

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The columns that a report has without the input, in the input's order."""
        return tuple(name for name in self.columns if name == self.id_column or name in self.kept)

    def rows_of(self, shard: int) -> range:
        """The row numbers (from 1) of a shard (from 0)."""
        first = shard * self.shard_size + 1
        return range(first, min(first + self.shard_size, self.rows + 1))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts per reason and what is pending; always sums to the number of rows (SPEC 4, promise 1)."""

    pending: int
    reasons: Mapping[Reason, int]

    def __getitem__(self, outcome: Outcome) -> int:
        if outcome is Outcome.PENDING:
            return self.pending
        return sum(count for reason, count in self.reasons.items() if reason.outcome is outcome)

    @property
    def total(self) -> int:
        """All records, finished or not."""
        return self.pending + self.done

    @property
    def done(self) -> int:
        """Records with a terminal outcome."""
        return sum(self.reasons.values())

    @property
    def all_gone(self) -> bool:
        """Whether every record is deleted or absent; a duplicate counts as its first row (SPEC 7, exit code 0)."""
        return (
            all(reason.outcome in GONE or reason is Reason.DUPLICATE for reason, count in self.reasons.items() if count)
            and not self.pending
        )

    def by_outcome(self) -> dict[str, int]:
        """Counts under every outcome's word, in the order of SPEC 3."""
        return {outcome.value: self[outcome] for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands in the store at one instant."""

    id: str
    description: Description
    state: BatchState
    state_reason: StateReason | None
    tally: Tally
    created_at: float
    """Seconds since the epoch, by the store's clock, as the next."""
    ended_at: float | None = None
    """Set when every record has its outcome."""
    probe_at: float | None = None
    """While the circuit is open: when the upstream is asked again."""
    tripped: Tripped | None = None
    """While a brake holds it: the numbers that did it."""
    despite: tuple[Despite, ...] = ()
    """The brakes that somebody let it go on despite."""
    retried_by: str | None = None
    """The batch that sends again what of this one could be retried."""
    canary_left: int | None = None
    """How many of the first records are still to be seen before the rest; ``None``: nothing waits for them."""
    approved_by: str | None = None
    approved_at: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it gets on by itself: it runs, waits for the upstream, or is being cancelled."""
        waits = self.state is BatchState.PAUSED and self.state_reason is StateReason.CIRCUIT_OPEN
        return self.ended_at is None and (waits or self.state in (BatchState.RUNNING, BatchState.CANCELLED))
