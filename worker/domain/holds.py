"""Holds (SPEC 1, 6): customers that must not be deleted now, each with its ground."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

LONGEST_GROUND: Final = 200
_MOST: Final = "at most 200 characters on one line"


@dataclass(frozen=True, slots=True)
class Term:
    """Why a hold stands, and how long."""

    ground: str
    until: float | None = None
    """Seconds since the epoch; ``None``: until it is removed."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One customer of one merchant and environment, on hold."""

    customer_id: str
    term: Term
    since: float
    """Seconds since the epoch, by the store's clock."""


def read_ground(text: str) -> str:
    """The ground without surrounding white space; raises ``ValueError`` that says what a ground is."""
    ground = text.strip()
    if not ground or len(ground) > LONGEST_GROUND or not ground.isprintable():
        raise ValueError(f"a hold needs a ground that explains it, {_MOST}")
    return ground


def read_end(text: str, now: float) -> float:
    """When a hold ends, seconds since the epoch: a day is held to its end, a time to the second.

    Both are UTC unless a time says otherwise. Raises ``ValueError`` when it is neither, or not after ``now``.
    """
    try:
        end = _last_moment(text.strip())
    except (ValueError, OverflowError):
        raise ValueError(
            f"'{text[:40]}' is neither a date such as 2027-01-31 nor a time such as 2027-01-31T12:00:00Z"
        ) from None
    if end <= now:
        raise ValueError(f"'{text.strip()}' is in the past, so nothing would be held")
    return end


def _last_moment(text: str) -> float:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    else:
        moment = datetime.combine(day + timedelta(days=1), time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
