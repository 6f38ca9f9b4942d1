"""Moments: how they are written, and whether a batch's pace meets one that is its deadline (SPEC 5)."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import describe
from worker.domain.batches import Batch, BatchState, StateReason, Tally
from worker.domain.deadlines import expected_end, is_on_time, months_after, parse_moment
from worker.domain.outcomes import Reason

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
SUBMITTED = 1_000_000.0
RATE = 50.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-01", "2026-02-01T23:59:59.999000+00:00"),
        ("2026-01-31", "2026-01-31T23:59:59.999000+00:00"),
        ("2026-01-31T12:30:01Z", "2026-01-31T12:30:01+00:00"),
        ("2026-01-31t14:00:00+01:00", "2026-01-31T13:00:00+00:00"),
        (" 2026-12-24 18:00Z ", "2026-12-24T18:00:00+00:00"),
        ("+30d", "2026-03-02T12:30:00+00:00"),
        ("+1month", "2026-02-28T12:30:00+00:00"),
        ("+3months", "2026-04-30T12:30:00+00:00"),
    ],
)
def test_a_moment_is_the_last_of_a_day_a_time_or_the_end_of_a_span(text: str, moment: str) -> None:
    assert parse_moment(text, NOW).isoformat() == moment


@pytest.mark.parametrize(
    "text", ["2026-01-30", "2026-01-31T12:30:00Z", "2026-01-31T13:00:00+01:00", "1999-12-31", "+0d"]
)
def test_a_moment_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not after now, 2026-01-31T12:30:00Z$"):
        parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["+9999999d", "+999999999d", "+100000month", "9999-12-31T23:59:59-12:00"])
def test_a_moment_beyond_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is too far away"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "30d",
        "-1d",
        "+1year",
        "20261224",
        "2026-W52-4",
        "2026-13-01",
        "2026-02-30",
        "24.12.2026",
        "2026-12-24T18:00:00",  # of which zone?
        "0000-01-01",
    ],
)
def test_what_is_no_moment_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write a day \(2026-12-24\), a time .*, or a span from now"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("day", "after"),
    [
        ("2026-01-31", "2026-02-28"),
        ("2028-01-31", "2028-02-29"),
        ("2028-01-29", "2028-02-29"),
        ("2026-02-28", "2026-03-28"),
        ("2026-03-31", "2026-04-30"),
        ("2026-12-31", "2027-01-31"),
        ("2026-12-01", "2027-01-01"),
    ],
)
def test_a_month_ends_on_the_same_day_or_the_months_last(day: str, after: str) -> None:
    assert months_after(date.fromisoformat(day)).isoformat() == after


def test_months_are_counted_from_the_first_day_not_one_after_the_other() -> None:
    assert months_after(date(2026, 1, 31), 2) == date(2026, 3, 31)
    assert months_after(date(2026, 1, 31), 25) == date(2028, 2, 29)


def batch(tally: dict[Reason, int], pending: int, due: float | None = None, **others: Any) -> Batch:
    rows = sum(tally.values()) + pending
    given: dict[str, Any] = {"state": BatchState.RUNNING, "state_reason": None, "created_at": SUBMITTED}
    description = describe(["x"] * rows, due=due)
    return Batch(id="b", description=description, tally=Tally(pending, tally), **(given | others))


def test_a_batch_that_has_sent_nothing_is_expected_at_the_rate() -> None:
    assert expected_end(batch({Reason.DUPLICATE: 40}, 500), RATE, SUBMITTED + 100) == SUBMITTED + 100 + 10


def test_the_pace_is_what_it_did_so_far() -> None:
    """100 sent in 50 s; what was known before anything was sent is no pace."""
    tally = {Reason.CONFIRMED: 80, Reason.BAD_REQUEST: 20, Reason.INVALID_ID: 1000, Reason.DELETED_EARLIER: 1000}
    assert expected_end(batch(tally, 300), RATE, SUBMITTED + 50) == SUBMITTED + 50 + 150


def test_the_pace_is_never_more_than_the_rate() -> None:
    assert expected_end(batch({Reason.CONFIRMED: 10_000}, 500), RATE, SUBMITTED + 10) == SUBMITTED + 10 + 10


def test_a_crawling_batch_ends_at_a_time_that_can_be_written() -> None:
    found = expected_end(batch({Reason.CONFIRMED: 1}, 1_000_000), RATE, SUBMITTED + 10_000_000)
    assert found is not None
    assert datetime.fromtimestamp(found, UTC).year == 9999


@pytest.mark.parametrize(("spare", "in_time"), [(timedelta(0), True), (timedelta(seconds=-1), False)])
def test_a_batch_is_on_time_if_its_pace_meets_the_deadline(spare: timedelta, in_time: bool) -> None:
    found = batch({}, 500, due=SUBMITTED + 10 + spare.total_seconds())
    assert is_on_time(found, expected_end(found, RATE, SUBMITTED)) is in_time


def test_a_batch_without_a_deadline_is_neither_on_time_nor_late() -> None:
    assert is_on_time(batch({}, 500), SUBMITTED) is None


def test_a_batch_that_does_not_go_on_by_itself_is_not_on_time() -> None:
    paused = batch({}, 1, due=SUBMITTED * 2, state=BatchState.PAUSED, state_reason=StateReason.OPERATOR)
    assert (expected_end(paused, RATE, SUBMITTED), is_on_time(paused, None)) == (None, False)
    waiting = batch({}, 1, due=SUBMITTED * 2, state=BatchState.PAUSED, state_reason=StateReason.CIRCUIT_OPEN)
    assert expected_end(waiting, RATE, SUBMITTED) is not None


@pytest.mark.parametrize("in_time", [True, False])
def test_a_batch_that_has_ended_was_on_time_or_not(in_time: bool) -> None:
    due = SUBMITTED + 100
    ended = batch({Reason.CONFIRMED: 1}, 0, due, state=BatchState.COMPLETED, ended_at=due if in_time else due + 1)
    assert is_on_time(ended, expected_end(ended, RATE, SUBMITTED + 5000)) is in_time
