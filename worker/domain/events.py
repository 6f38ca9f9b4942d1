"""Deletions that other systems ask for (SPEC 8): an event names one or more customers, and counts once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worker.domain.batches import Lane
from worker.domain.customer_ids import IdRule
from worker.domain.deadlines import parse_day_or_time
from worker.domain.errors import UsageError

LONGEST_NAME = 500
"""Letters of a source or an ID."""
LONGEST_REFERENCE = 200
MOST_CUSTOMERS = 10_000
"""In one event; fewer if a rolling batch holds fewer."""


REUSED = "an event of its source and id was taken before, for other customers; give it an id of its own"
"""Why an event is refused that would else count as the one that was taken, so that its customers would stay."""


class BadEventError(UsageError):
    """An event that can never be taken; nothing of it was. Its text does not show a customer."""


@dataclass(frozen=True, slots=True)
class Event:
    """A request that was checked."""

    source: str
    id: str
    """With the source, what it is known by: delivered again, on whichever way, it counts once."""
    customer_ids: tuple[str, ...]
    reference: str | None = None
    """The asker's own name for it; goes along into the report."""
    due: datetime | None = None
    """When it is to be done; may be past, since the customer is to be deleted all the same."""
    lane: Lane = Lane.BULK


@dataclass(frozen=True, slots=True)
class EventRule:
    """Which events are taken."""

    ids: IdRule
    most: int = MOST_CUSTOMERS
    """Customers in one event."""

    def event(
        self, source: Any, event_id: Any, customers: Sequence[Any], said: dict[str, Any], where: str = ""
    ) -> Event:
        """An event of what somebody sent, of whatever type it is; raises ``BadEventError``.

        ``said`` may hold ``reference``, ``due`` and ``lane``; what is ``None`` is not said. ``where`` customers were
        looked for is said of one that is none, if that was set.
        """
        return Event(
            source=_text("source", source, LONGEST_NAME),
            id=_text("id", event_id, LONGEST_NAME),
            customer_ids=self._customers(customers, where),
            reference=_optional("reference", said.get("reference")),
            due=_due(said.get("due")),
            lane=_lane(said.get("lane")),
        )

    def _customers(self, customers: Sequence[Any], where: str) -> tuple[str, ...]:
        if not customers:
            raise BadEventError("it names no customer")
        if len(customers) > self.most:
            raise BadEventError(f"it names {len(customers):,} customers; at most {self.most:,} can be in one event")
        for number, customer in enumerate(customers, 1):
            if not isinstance(customer, str) or not self.ids.accepts(customer):
                which = "its customer ID" if len(customers) == 1 else f"customer ID {number} of {len(customers):,}"
                raise BadEventError(f"{which} {_problem(customer, where)}")
        return tuple(customers)


def _problem(customer: Any, where: str) -> str:
    if isinstance(customer, str):
        return "is not accepted by EXPUNGE_ID_PATTERN"
    what = "is a list, and no text" if isinstance(customer, list) else "is no text"
    return f"{what}: see {where}" if where else what


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or not value:
        raise BadEventError(f"it has no {name}" if value in (None, "") else f"its {name} is no text")
    if len(value) > longest or not value.isprintable():
        raise BadEventError(f"its {name} must be at most {longest} printable characters")
    return value


def _optional(name: str, value: Any) -> str | None:
    return None if value in (None, "") else _text(name, value, LONGEST_REFERENCE)


def _due(value: Any) -> datetime | None:
    if value in (None, ""):
        return None
    try:
        return parse_day_or_time(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise BadEventError("its due must be a day (2026-12-24) or a time (2026-12-24T18:00:00+01:00)") from None


def _lane(value: Any) -> Lane:
    try:
        return Lane(value or Lane.BULK)
    except ValueError:
        raise BadEventError(f"its lane must be one of {', '.join(Lane)}") from None
