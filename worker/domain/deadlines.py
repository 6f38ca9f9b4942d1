"""Moments in the future, as people write them, and whether a batch meets one that is its deadline (SPEC 5)."""

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta

from worker.domain.batches import Batch
from worker.domain.brakes import BAD, WELL

_FORM = "write a day (2026-12-24), a time (2026-12-24T18:00:00+01:00), or a span from now (+30d, +1month)"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]\d{2}:\d{2})")
_SPAN = re.compile(r"\+(\d{1,9})(d|months?)")
_LAST = time(23, 59, 59, 999_000, tzinfo=UTC)  # holds are kept to the millisecond
_FAR = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a moment; of a day, its last in UTC. Raises ``ValueError`` if it is none, or is not after ``now``."""
    try:
        moment = _read(text.strip(), now).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"is too far away: the last day is {date.max}") from None
    except ValueError:
        raise ValueError(_FORM) from None
    if moment <= now:
        raise ValueError(f"is not after now, {now:%Y-%m-%dT%H:%M:%SZ}")
    return moment


def _read(text: str, now: datetime) -> datetime:
    if span := _SPAN.fullmatch(text):
        count = int(span[1])
        if span[2] == "d":
            return now + timedelta(days=count)
        return datetime.combine(months_after(now.date(), count), now.timetz())
    return parse_day_or_time(text)


def parse_day_or_time(text: str) -> datetime:
    """Read a moment of any time; of a day, its last in UTC. Raises ``ValueError`` if it is none."""
    if _DAY.fullmatch(text):
        return datetime.combine(date.fromisoformat(text), _LAST)
    if not _TIME.fullmatch(text):
        raise ValueError
    return datetime.fromisoformat(text.upper())


def months_after(day: date, months: int = 1) -> date:
    """The same day so many months later, or that month's last day if it is shorter, as the GDPR's month is counted.

    Regulation (EEC, Euratom) 1182/71, article 3: 31 January gives 28 February, or 29 in a leap year.
    """
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    if year > date.max.year:
        raise OverflowError(year)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def expected_end(batch: Batch, rate: float, now: float) -> float | None:
    """When the batch is done if it gets on as it did: seconds since the epoch, ``None`` if it does not get on.

    Its pace is that since it was submitted, pauses and turns of others included, and at most ``rate`` (records a
    second); one that has sent nothing yet is given that.
    """
    if batch.ended_at is not None or not batch.goes_on:
        return batch.ended_at
    sent = sum(batch.tally.reasons.get(reason, 0) for reason in BAD + WELL)
    pace = min(rate, sent / max(now - batch.created_at, 1.0)) if sent else rate
    return min(now + batch.tally.pending / pace, _FAR)


def is_on_time(batch: Batch, expected: float | None) -> bool | None:
    """Whether it is done by its deadline as things stand; ``None`` if it has none."""
    if batch.description.due is None:
        return None
    return expected is not None and expected <= batch.description.due
