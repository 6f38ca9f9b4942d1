"""The tables of SPEC 3 and 5, written out a second time; and what the domain says in particular cases."""

import re

import pytest

from worker.domain.batch_ids import is_batch_id, make_batch_id
from worker.domain.batches import TRANSITIONS, BatchState, StateReason, Tally
from worker.domain.customer_ids import DEFAULT_PATTERN, Digester, IdRule
from worker.domain.outcomes import GONE, REASON_BY_CODE, REASON_BY_TEXT, TERMINAL, Actor, Outcome, Reason
from worker.domain.rates import Rate, Window
from worker.domain.records import Doubt, History, Result

# --- outcomes and reasons (SPEC 3) ---

OUTCOMES = {
    "deleted": "the endpoint confirmed it",
    "absent": "there is no such customer now",
    "rejected": "refused, and would be refused again",
    "failed": "gave up; safe to try again",
    "unknown": "may or may not be deleted",
    "skipped": "never sent, by our own rule",
    "pending": "not finished",
}

REASONS = {
    # deleted
    "confirmed": "deleted",
    "no_content": "deleted",
    # absent
    "not_found": "absent",
    "deleted_earlier": "absent",
    "after_unanswered_attempt": "absent",
    "after_interrupted_attempt": "absent",
    # rejected
    "bad_request": "rejected",
    "request_failed": "rejected",
    "not_acceptable": "rejected",
    "conflict": "rejected",
    "unprocessable": "rejected",
    "http_4xx": "rejected",
    "missing_field": "rejected",
    "refused": "rejected",
    # failed
    "rate_limited": "failed",
    "server_error": "failed",
    "no_connection": "failed",
    "redirected": "failed",
    "not_the_api": "failed",
    # unknown
    "no_answer": "unknown",
    "unreadable_reply": "unknown",
    "accepted_not_confirmed": "unknown",
    "still_active": "unknown",
    "reply_for_another_customer": "unknown",
    # skipped
    "invalid_id": "skipped",
    "duplicate": "skipped",
    "on_hold": "skipped",
    "cancelled": "skipped",
    "poisonous": "skipped",
}

CODES = {
    "confirmed": 1,
    "no_content": 2,
    "not_found": 10,
    "deleted_earlier": 11,
    "after_unanswered_attempt": 12,
    "after_interrupted_attempt": 13,
    "bad_request": 20,
    "request_failed": 21,
    "not_acceptable": 22,
    "conflict": 23,
    "unprocessable": 24,
    "http_4xx": 25,
    "missing_field": 26,
    "refused": 27,
    "rate_limited": 40,
    "server_error": 41,
    "no_connection": 42,
    "redirected": 43,
    "not_the_api": 44,
    "no_answer": 60,
    "unreadable_reply": 61,
    "accepted_not_confirmed": 62,
    "still_active": 63,
    "reply_for_another_customer": 64,
    "invalid_id": 80,
    "duplicate": 81,
    "on_hold": 82,
    "cancelled": 83,
    "poisonous": 84,
}


def test_the_outcomes_are_those_of_the_spec_and_no_others() -> None:
    assert {outcome.value: outcome.meaning for outcome in Outcome} == OUTCOMES
    assert {*TERMINAL, Outcome.PENDING} == set(Outcome)
    assert len(TERMINAL) == len(OUTCOMES) - 1
    assert {"deleted", "absent"} == GONE


def test_every_reason_of_the_spec_exists_under_its_outcome_and_there_is_no_other() -> None:
    assert {reason.text: reason.outcome.value for reason in Reason} == REASONS


def test_the_code_of_a_reason_that_is_at_rest_never_changes() -> None:
    """Codes are append-only: a new reason adds a row to this table, and no row changes."""
    assert {reason.text: reason.code for reason in Reason} == CODES


def test_codes_and_texts_are_unique_and_can_be_looked_up() -> None:
    assert len({reason.code for reason in Reason}) == len({reason.text for reason in Reason}) == len(Reason)
    assert all(1 <= reason.code <= 255 for reason in Reason)
    assert {REASON_BY_CODE[reason.code] for reason in Reason} == set(Reason)
    assert {REASON_BY_TEXT[reason.text] for reason in Reason} == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_lower_snake_word_and_says_what_to_do_next(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", reason.text)
    assert re.fullmatch(r"[A-Z][^\n]+\.", reason.next_step)


@pytest.mark.parametrize("reason", Reason)
def test_what_is_gone_needs_nobody_and_is_not_tried_again(reason: Reason) -> None:
    if reason.outcome in GONE:
        assert (reason.actor, reason.retryable) == (Actor.NOBODY, False)
        assert reason.next_step.startswith("Nothing")
    if reason.outcome is Outcome.REJECTED:
        assert not reason.retryable
    if reason.outcome is Outcome.FAILED:
        assert reason.retryable
        assert reason.actor is not Actor.NOBODY


def test_a_result_has_the_outcome_of_its_reason() -> None:
    assert all(Result(reason).outcome is reason.outcome for reason in Reason)


# --- batches (SPEC 5) ---


def test_only_the_transitions_of_the_spec_exist() -> None:
    table = {state.value: {target.value for target in targets} for state, targets in TRANSITIONS.items()}
    assert table == {
        "planned": {"awaiting_approval", "running"},
        "awaiting_approval": {"running", "cancelled"},
        "running": {"paused", "completed", "cancelled"},
        "paused": {"running", "cancelled"},
        "completed": set(),
        "cancelled": set(),
    }
    assert set(TRANSITIONS) == set(BatchState)


def test_a_batch_has_ended_exactly_if_no_transition_leads_on() -> None:
    assert all(state.ended is not bool(TRANSITIONS[state]) for state in BatchState)


def test_the_reasons_of_a_pause_are_those_of_the_spec() -> None:
    assert {reason.value for reason in StateReason} == {
        "operator",
        "credentials_refused",
        "circuit_open",
        "failure_threshold",
        "reply_for_another_customer",
        "mostly_not_found",
    }


@pytest.mark.parametrize(
    ("pending", "reasons", "gone"),
    [
        (0, {}, True),
        (0, {Reason.CONFIRMED: 2, Reason.NO_CONTENT: 1, Reason.NOT_FOUND: 1, Reason.DELETED_EARLIER: 1}, True),
        (0, {Reason.CONFIRMED: 1, Reason.DUPLICATE: 3}, True),
        (0, {Reason.CONFIRMED: 1, Reason.NO_ANSWER: 0}, True),
        (1, {Reason.CONFIRMED: 2}, False),
        (0, {Reason.CONFIRMED: 2, Reason.ON_HOLD: 1}, False),
        (0, {Reason.CONFIRMED: 2, Reason.INVALID_ID: 1}, False),
        (0, {Reason.CONFIRMED: 2, Reason.STILL_ACTIVE: 1}, False),
        (0, {Reason.CONFIRMED: 2, Reason.SERVER_ERROR: 1}, False),
        (0, {Reason.CONFIRMED: 2, Reason.CONFLICT: 1}, False),
    ],
)
def test_all_are_gone_if_every_record_is_deleted_or_absent(
    pending: int, reasons: dict[Reason, int], gone: bool
) -> None:
    assert Tally(pending, reasons).all_gone is gone


def test_a_batch_id_is_told_from_other_words() -> None:
    assert is_batch_id(make_batch_id(1_735_527_527.0, 7))
    for other in ("", "latest", "0" * 12, "0" * 14, "G" + "0" * 12, "z" + "0" * 12, "0" * 12 + "u", "0" * 12 + "\n"):
        assert not is_batch_id(other)


# --- customer IDs (SPEC 2) ---


@pytest.mark.parametrize("customer_id", ["a", "Z9_-", "customer_d4668153816c4c0c92c62b84fc5ada3f", "0", "-", "x" * 128])
def test_an_id_of_the_default_pattern_is_accepted(customer_id: str) -> None:
    assert DEFAULT_PATTERN == "[A-Za-z0-9_-]{1,128}"
    assert IdRule.of().accepts(customer_id)


@pytest.mark.parametrize(
    "customer_id",
    [
        "",
        ".",
        "..",
        "a/b",
        "a?b",
        "a#b",
        "%2e",
        "a%2fb",
        "a b",
        " a",
        "a\n",
        "a\r\nb",
        "a\0",
        "\u00e9",
        "\u0661",
        "a\\b",
    ],
)
@pytest.mark.parametrize("pattern", [DEFAULT_PATTERN, ".*", "(?s).*", "[^x]*"])
def test_an_id_that_changes_what_is_deleted_is_refused_whatever_the_pattern_says(
    customer_id: str, pattern: str
) -> None:
    assert not IdRule.of(pattern).accepts(customer_id)


def test_the_default_pattern_ends_at_128_characters() -> None:
    assert not IdRule.of().accepts("x" * 129)


def test_a_wider_pattern_may_allow_dots_and_tildes() -> None:
    rule = IdRule.of("[a-z.~]+")
    assert rule.accepts("a.b~c")
    assert rule.accepts("...")
    assert not rule.accepts("..")
    assert not IdRule.of().accepts("a.b")


def test_a_pattern_must_match_the_whole_id() -> None:
    rule = IdRule.of("c[0-9]|c[0-9][0-9]")
    assert rule.accepts("c12")
    assert not rule.accepts("c123")
    assert not rule.accepts("xc1")


def test_a_pattern_that_is_no_regular_expression_is_an_error() -> None:
    with pytest.raises(re.error):
        IdRule.of("[")


def test_a_digest_cannot_be_made_without_the_key() -> None:
    """A plain hash of an ID could be found by trying all IDs; the digest of another key tells nothing."""
    mine, theirs = Digester(b"mine", "sandbox:m"), Digester(b"theirs", "sandbox:m")
    assert mine.log("c1") != theirs.log("c1")
    assert mine.ledger("c1") != theirs.ledger("c1")


def test_the_digests_of_two_environments_are_apart() -> None:
    sandbox, production = Digester(b"key", "sandbox:m"), Digester(b"key", "production:m")
    assert sandbox.ledger("c1") != production.ledger("c1")
    assert sandbox.idempotency_key("c1", "b1") != production.idempotency_key("c1", "b1")


def test_a_digester_takes_an_id_of_any_characters() -> None:
    """Invalid IDs are digested too, for the log."""
    assert len(Digester(b"key", "s").log("\ud800/\0")) == 8


# --- rates ---


@pytest.mark.parametrize(
    ("text", "windows", "sustained"),
    [
        ("50/s", [(50, 1)], 50.0),
        ("1/h", [(1, 3600)], 1 / 3600),
        ("1000/m", [(1000, 60)], 1000 / 60),
        ("50/s,1000/m", [(50, 1), (1000, 60)], 1000 / 60),
        ("1000/m, 50/s", [(50, 1), (1000, 60)], 1000 / 60),
        (" 50/s ", [(50, 1)], 50.0),
        ("60/m,1/s", [(1, 1), (60, 60)], 1.0),
    ],
)
def test_a_rate_is_read_as_people_write_it(text: str, windows: list[tuple[int, int]], sustained: float) -> None:
    rate = Rate.parse(text)
    assert rate == Rate(tuple(Window(*window) for window in windows))
    assert rate.sustained == sustained


@pytest.mark.parametrize(
    "text",
    ["", " ", "50", "0/s", "-1/s", "50/d", "50/S", "5.5/s", "50 / s", "50/s,", ",", "50/s;1/m", "\u0665/s", "05/s"],
)
def test_what_is_no_rate_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 50/s"):
        Rate.parse(text)


# --- histories ---


def test_an_interruption_adds_its_doubt_and_forgets_nothing() -> None:
    history = History(2, Doubt.UNANSWERED, Reason.UNREADABLE_REPLY)
    assert history.interrupted() == History(2, Doubt.UNANSWERED | Doubt.INTERRUPTED, Reason.UNREADABLE_REPLY)
    assert History().interrupted() == History(0, Doubt.INTERRUPTED)
