"""Which records a brake judges, and how it says what it saw (SPEC 6)."""

import pytest

from worker.domain.brakes import BAD, WELL, Despite, Tripped
from worker.domain.outcomes import Outcome, Reason


def test_only_records_that_were_sent_are_judged() -> None:
    """What was skipped, or is known by the ledger, says nothing about the upstream."""
    judged = {reason for reason in Reason if reason.outcome is not Outcome.SKIPPED} - {Reason.DELETED_EARLIER}
    assert set(BAD) | set(WELL) == judged
    assert not set(BAD) & set(WELL)


@pytest.mark.parametrize("reason", BAD)
def test_what_counts_as_bad_is_failed_unknown_or_rejected(reason: Reason) -> None:
    assert reason.outcome in {Outcome.FAILED, Outcome.UNKNOWN, Outcome.REJECTED}


def test_a_brake_says_its_numbers() -> None:
    tripped = Tripped(Despite.FAILURE_THRESHOLD, 61, 100, 0.5, canary=False)
    assert str(tripped) == (
        "61 of 100 records that were sent failed, were rejected or are unknown (61%; the limit is 50%)"
    )
    assert tripped.ways_on == (Despite.FAILURE_THRESHOLD,)


def test_a_canary_says_that_it_was_one_and_can_be_passed_by_itself() -> None:
    tripped = Tripped(Despite.MOSTLY_NOT_FOUND, 12, 20, 0.5, canary=True)
    assert str(tripped).startswith("12 of the first 20 records that were sent were not found (60%; the limit is 50%)")
    assert tripped.ways_on == (Despite.CANARY, Despite.MOSTLY_NOT_FOUND)
