"""What pages show of a batch."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import describe
from worker.domain.batches import Batch, BatchState, StateReason, Tally
from worker.domain.outcomes import Outcome, Reason
from worker.domain.people import Person, Role
from worker.web.pages import views

ANNA, BEN = Person("anna", Role.SUBMITTER), Person("ben", Role.APPROVER)
TALLIES = st.builds(
    Tally, st.integers(0, 10**6), st.dictionaries(st.sampled_from(list(Reason)), st.integers(1, 10**6), max_size=8)
)


def batch(state: BatchState, **others: Any) -> Batch:
    made = Batch("b", describe(["c1"], submitted_by="anna"), state, None, Tally(1, {}), created_at=1000.0)
    return replace(made, **others)


@given(TALLIES)
def test_a_bar_shows_every_outcome_that_occurs_and_no_gap(tally: Tally) -> None:
    bar = views.segments(tally)
    assert [segment.outcome for segment in bar] == [outcome.value for outcome in Outcome if tally[outcome]]
    assert all(segment.width > 0.5 for segment in bar)
    end = 0.0
    for segment in bar:
        assert segment.x == pytest.approx(end, abs=0.01)
        end = segment.x + segment.width
    assert not bar or end == pytest.approx(views.WIDTH, abs=0.01)


@given(TALLIES)
def test_every_record_that_ended_is_somebody_s_next_step(tally: Tally) -> None:
    groups = views.groups(tally)
    assert sum(group.count for group in groups) == tally.done
    assert all(group.count == sum(line.count for line in group.lines) for group in groups)


@given(st.lists(st.integers(1000, 5000), min_size=1), st.one_of(st.none(), st.integers(1, 10)))
def test_the_columns_of_a_rate_hold_every_record(times: list[int], factor: int | None) -> None:
    chart = views.rate_chart(times, None if factor is None else factor * len(times))
    assert chart is not None
    assert chart.mean == pytest.approx((factor or 1) * len(times) / (max(times) + 1 - min(times)))
    assert max(height for _, _, height in chart.columns) == views.WIDTH
    assert chart.peak >= chart.mean * 0.99
    assert chart.sampled == (None if factor is None else len(times))


def test_there_is_no_rate_while_nothing_has_ended() -> None:
    assert views.rate_chart([], None) is None


@given(st.text())
def test_what_others_wrote_is_inert(text: str) -> None:
    shown = views.inert(text, 20)
    assert shown.isprintable()
    assert len(shown) <= 21


def test_only_what_is_theirs_and_possible_is_offered() -> None:
    assert views.offered(ANNA, batch(BatchState.RUNNING)) == {"pause", "cancel"}
    assert views.offered(ANNA, batch(BatchState.PAUSED)) == {"resume", "cancel"}
    assert views.offered(ANNA, batch(BatchState.AWAITING_APPROVAL)) == {"cancel"}
    assert views.offered(BEN, batch(BatchState.AWAITING_APPROVAL)) == {"approve", "refuse"}
    assert views.offered(BEN, batch(BatchState.RUNNING)) == frozenset()
    assert views.offered(Person("vera", Role.VIEWER), batch(BatchState.RUNNING)) == frozenset()


def test_a_retry_is_offered_once_and_only_of_what_may_end_otherwise() -> None:
    ended = batch(BatchState.COMPLETED, ended_at=2000.0, tally=Tally(0, {Reason.NO_ANSWER: 3, Reason.CONFIRMED: 1}))
    assert views.offered(ANNA, ended) == {"retry"}
    assert views.retryable(ended) == 3
    assert views.offered(ANNA, replace(ended, retried_by="other")) == frozenset()
    assert views.offered(ANNA, replace(ended, tally=Tally(0, {Reason.CONFIRMED: 4}))) == frozenset()


def test_the_page_is_anew_when_it_must_offer_something_else() -> None:
    running, paused = batch(BatchState.RUNNING), batch(BatchState.PAUSED, state_reason=StateReason.OPERATOR)
    cancelled = batch(BatchState.CANCELLED)
    stages = {views.stage(each) for each in (running, paused, cancelled, replace(cancelled, ended_at=2.0))}
    assert len(stages) == 4
    assert views.look_again(running) == views.OFTEN
    assert views.look_again(paused) == views.SELDOM
    assert views.look_again(replace(cancelled, ended_at=2.0)) is None
    assert views.state_of(cancelled) == "being cancelled"


def test_it_is_said_whether_the_deadline_is_met() -> None:
    due = batch(BatchState.RUNNING, description=describe(["c1"], due=5000.0))
    assert views.punctuality(batch(BatchState.RUNNING), 3000.0) == ""
    assert views.punctuality(due, 3000.0) == "in time at the present pace"
    assert views.punctuality(due, 6000.0) == "too late at the present pace"
    assert "does not go on by itself" in views.punctuality(due, None)
    assert views.punctuality(replace(due, ended_at=6000.0), 6000.0) == "done too late"
