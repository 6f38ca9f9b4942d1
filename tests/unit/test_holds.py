"""What a hold says of itself: its ground, and when it ends."""

from datetime import UTC, datetime

import pytest

from worker.domain.holds import read_end, read_ground

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2026-06-15", "2026-06-16T00:00:00+00:00"),
        (" 2027-01-31 ", "2027-02-01T00:00:00+00:00"),
        ("2026-12-31", "2027-01-01T00:00:00+00:00"),
        ("2026-06-15T12:00:01Z", "2026-06-15T12:00:01+00:00"),
        ("2026-06-15T13:00", "2026-06-15T13:00:00+00:00"),
        ("2026-06-15T10:00:00-05:00", "2026-06-15T15:00:00+00:00"),
    ],
)
def test_a_day_is_held_to_its_end_and_a_time_to_the_second(text: str, end: str) -> None:
    assert read_end(text, NOW) == datetime.fromisoformat(end).timestamp()


@pytest.mark.parametrize("text", ["2026-06-14", "2026-06-15T12:00:00Z", "2026-06-15T13:00:00+02:00", "0001-01-01"])
def test_an_end_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is in the past"):
        read_end(text, NOW)


@pytest.mark.parametrize("text", ["", "soon", "31.1.2027", "2027-02-30", "9999-12-31", "2027-01-31T25:00"])
def test_what_is_no_date_is_refused_and_the_right_form_named(text: str) -> None:
    with pytest.raises(ValueError, match="neither a date such as 2027-01-31 nor a time"):
        read_end(text, NOW)


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "a" * 201, "bell\a"])
def test_a_ground_is_one_line_that_says_something(text: str) -> None:
    with pytest.raises(ValueError, match="at most 200 characters on one line"):
        read_ground(text)
    assert read_ground("  litigation 12/2026, é ") == "litigation 12/2026, é"
