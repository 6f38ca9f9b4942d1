"""What a hold says of itself: its ground."""

import pytest

from worker.domain.holds import read_ground


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "a" * 201, "bell\a"])
def test_a_ground_is_one_line_that_says_something(text: str) -> None:
    with pytest.raises(ValueError, match="at most 200 characters on one line"):
        read_ground(text)
    assert read_ground("  litigation 12/2026, é ") == "litigation 12/2026, é"
    assert read_ground("a" * 200) == "a" * 200
