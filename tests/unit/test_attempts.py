"""The attempts of one record: when it is tried again, when no more, and what its end then means."""

import asyncio
import math
from functools import partial
from itertools import islice
from typing import TypeAlias

import pytest

from worker.domain.batches import StateReason
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History, Result
from worker.pipeline.attempts import Attempt, Later, OnHold, Outage, RetryPolicy
from worker.pipeline.endings import cancelled, held
from worker.upstream.reply import Facts
from worker.upstream.verdict import Gone, Refused, Retry, Settled, Verdict

Ended: TypeAlias = Result | Refused | Later | OnHold

POLICY = RetryPolicy(max_attempts=5)
FRESH = History()
FOREVER = math.inf
FACTS = Facts(http_status=200, request_id="req-1", missing_field=("email",), is_wallet_ready=True)

CONFIRMED = Settled(Reason.CONFIRMED, FACTS)
GONE = Gone(Facts(http_status=404))
REFUSED = Refused(StateReason.CREDENTIALS_REFUSED, Facts(http_status=401))
LATER = Later(12.0)
NOT_SENT = Retry(Reason.NO_CONNECTION, Facts())
NO_ANSWER = Retry(Reason.NO_ANSWER, Facts(http_status=504), Doubt.UNANSWERED)
UNREADABLE = Retry(Reason.UNREADABLE_REPLY, Facts(http_status=200), Doubt.UNANSWERED)
SERVER_ERROR = Retry(Reason.SERVER_ERROR, Facts(http_status=500), Doubt.SERVER_FAILED)
RATE_LIMITED = Retry(Reason.RATE_LIMITED, Facts(http_status=429), throttled=True)


class Script:
    """Verdicts that come one after the other; one attempt more than there are verdicts is an error."""

    def __init__(self, *verdicts: Verdict | Later | OnHold) -> None:
        self._left = list(verdicts)
        self.calls = 0

    async def __call__(self) -> Verdict | Later | OnHold:
        self.calls += 1
        return self._left.pop(0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits: each pause is kept instead."""
    kept: list[float] = []
    let_others_run = partial(asyncio.sleep, 0)

    async def sleep(seconds: float) -> None:
        kept.append(seconds)
        await let_others_run()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return kept


pytestmark = pytest.mark.usefixtures("pauses")


async def no_outage() -> float | None:
    return None


async def run(
    policy: RetryPolicy, attempt: Attempt, history: History, until: float, outage: Outage = no_outage
) -> tuple[Ended, History]:
    return await policy.run(attempt, history, until, asyncio.sleep, outage)


async def ended(*verdicts: Verdict | Later | OnHold, history: History = FRESH, policy: RetryPolicy = POLICY) -> Ended:
    """How a record ends whose attempts end so; every verdict must be used."""
    script = Script(*verdicts)
    result, _ = await run(policy, script, history, FOREVER)
    assert script.calls == len(verdicts)
    return result


async def reason_of(*verdicts: Verdict | Later | OnHold, history: History = FRESH) -> Reason:
    result = await ended(*verdicts, history=history)
    assert isinstance(result, Result)
    return result.reason


# --- how often ---


async def test_a_record_that_is_settled_at_once_takes_one_attempt(pauses: list[float]) -> None:
    result, history = await run(POLICY, Script(CONFIRMED), FRESH, FOREVER)
    assert result == Result(
        Reason.CONFIRMED,
        http_status=200,
        attempts=1,
        request_id="req-1",
        missing_field=("email",),
        is_wallet_ready=True,
    )
    assert history == History(attempts=1)
    assert pauses == []


@pytest.mark.parametrize("failing", [NOT_SENT, NO_ANSWER, UNREADABLE, SERVER_ERROR, RATE_LIMITED])
@pytest.mark.parametrize("times", [1, 2, 3, 4])
async def test_a_record_is_tried_until_it_is_settled(pauses: list[float], failing: Retry, times: int) -> None:
    result = await ended(*[failing] * times, CONFIRMED)
    assert isinstance(result, Result)
    assert (result.reason, result.attempts, len(pauses)) == (Reason.CONFIRMED, times + 1, times)


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_no_attempt_is_made_beyond_the_most_that_are_allowed(pauses: list[float], most: int) -> None:
    result = await ended(*[SERVER_ERROR] * most, policy=RetryPolicy(most))
    assert result == Result(Reason.SERVER_ERROR, http_status=500, attempts=most)
    assert len(pauses) == most - 1


@pytest.mark.parametrize(
    "verdict", [CONFIRMED, GONE, Settled(Reason.CONFLICT, Facts()), Settled(Reason.STILL_ACTIVE, Facts())]
)
async def test_what_is_settled_is_not_tried_again(verdict: Verdict) -> None:
    result = await ended(verdict)
    assert isinstance(result, Result)
    assert result.attempts == 1


async def test_an_error_of_ours_is_not_swallowed_as_an_attempt() -> None:
    verdicts = iter([SERVER_ERROR])

    async def attempt() -> Verdict | Later | OnHold:
        if verdict := next(verdicts, None):
            return verdict
        raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        await run(POLICY, attempt, FRESH, FOREVER)


# --- what the end means ---


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ([NOT_SENT] * 5, Reason.NO_CONNECTION),
        ([SERVER_ERROR] * 5, Reason.SERVER_ERROR),
        ([RATE_LIMITED] * 5, Reason.RATE_LIMITED),
        ([SERVER_ERROR] * 4 + [NOT_SENT], Reason.NO_CONNECTION),
        ([NOT_SENT] * 4 + [RATE_LIMITED], Reason.RATE_LIMITED),
        ([SERVER_ERROR, Settled(Reason.REDIRECTED, Facts())], Reason.REDIRECTED),
        ([NOT_SENT, Settled(Reason.NOT_THE_API, Facts())], Reason.NOT_THE_API),
    ],
)
async def test_a_record_fails_if_no_attempt_was_unanswered(verdicts: list[Verdict], reason: Reason) -> None:
    assert await reason_of(*verdicts) is reason
    assert reason.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ([NO_ANSWER] * 5, Reason.NO_ANSWER),
        ([UNREADABLE] * 5, Reason.UNREADABLE_REPLY),
        ([NO_ANSWER] + [SERVER_ERROR] * 4, Reason.NO_ANSWER),
        ([UNREADABLE] + [RATE_LIMITED] * 4, Reason.UNREADABLE_REPLY),
        ([NOT_SENT] * 3 + [NO_ANSWER, NOT_SENT], Reason.NO_ANSWER),
        ([UNREADABLE, NO_ANSWER] + [NOT_SENT] * 3, Reason.NO_ANSWER),
        ([NO_ANSWER, UNREADABLE] + [NOT_SENT] * 3, Reason.UNREADABLE_REPLY),
        ([SERVER_ERROR] * 4 + [NO_ANSWER], Reason.NO_ANSWER),
        ([NO_ANSWER, Settled(Reason.REDIRECTED, Facts())], Reason.NO_ANSWER),
        ([UNREADABLE, Settled(Reason.NOT_THE_API, Facts())], Reason.UNREADABLE_REPLY),
    ],
)
async def test_a_record_with_an_unanswered_attempt_never_reads_as_safe_to_try_again(
    verdicts: list[Verdict], reason: Reason
) -> None:
    assert await reason_of(*verdicts) is reason
    assert reason.outcome is Outcome.UNKNOWN


async def test_a_record_that_a_dead_worker_may_have_sent_never_reads_as_safe_to_try_again() -> None:
    assert await reason_of(*[SERVER_ERROR] * 5, history=FRESH.interrupted()) is Reason.NO_ANSWER
    assert await reason_of(Settled(Reason.REDIRECTED, Facts()), history=FRESH.interrupted()) is Reason.NO_ANSWER


@pytest.mark.parametrize(
    ("before", "history", "reason"),
    [
        ([], FRESH, Reason.NOT_FOUND),
        ([NOT_SENT], FRESH, Reason.NOT_FOUND),
        ([RATE_LIMITED, NOT_SENT], FRESH, Reason.NOT_FOUND),
        ([SERVER_ERROR], FRESH, Reason.AFTER_UNANSWERED_ATTEMPT),
        ([NO_ANSWER], FRESH, Reason.AFTER_UNANSWERED_ATTEMPT),
        ([UNREADABLE], FRESH, Reason.AFTER_UNANSWERED_ATTEMPT),
        ([NO_ANSWER, NOT_SENT, RATE_LIMITED], FRESH, Reason.AFTER_UNANSWERED_ATTEMPT),
        ([], FRESH.interrupted(), Reason.AFTER_INTERRUPTED_ATTEMPT),
        ([NOT_SENT], FRESH.interrupted(), Reason.AFTER_INTERRUPTED_ATTEMPT),
        ([NO_ANSWER], FRESH.interrupted(), Reason.AFTER_UNANSWERED_ATTEMPT),
        ([], History(1, Doubt.UNANSWERED, Reason.NO_ANSWER), Reason.AFTER_UNANSWERED_ATTEMPT),
        ([], History(1, Doubt.SERVER_FAILED), Reason.AFTER_UNANSWERED_ATTEMPT),
        ([], History(3), Reason.NOT_FOUND),
    ],
)
async def test_a_404_means_what_the_attempts_before_it_leave_open(
    before: list[Verdict], history: History, reason: Reason
) -> None:
    assert await reason_of(*before, GONE, history=history) is reason
    assert reason.outcome is Outcome.ABSENT


@pytest.mark.parametrize("before", [[], [NO_ANSWER], [SERVER_ERROR, UNREADABLE]])
@pytest.mark.parametrize(
    "reason", [Reason.CONFIRMED, Reason.CONFLICT, Reason.MISSING_FIELD, Reason.STILL_ACTIVE, Reason.NO_CONTENT]
)
async def test_what_the_upstream_settles_stands_whatever_came_before(before: list[Verdict], reason: Reason) -> None:
    assert await reason_of(*before, Settled(reason, Facts())) is reason


async def test_a_result_keeps_what_the_last_reply_said() -> None:
    last = Retry(Reason.SERVER_ERROR, Facts(http_status=503, request_id="req-5"), Doubt.SERVER_FAILED)
    result = await ended(*[NO_ANSWER] * 4, last)
    assert result == Result(Reason.NO_ANSWER, http_status=503, attempts=5, request_id="req-5")


# --- what is no attempt ---


@pytest.mark.parametrize("verdict", [REFUSED, LATER, OnHold("litigation 12")])
async def test_a_refusal_of_credentials_or_a_stop_counts_no_attempt(verdict: Refused | Later | OnHold) -> None:
    history = History(2, Doubt.UNANSWERED, Reason.NO_ANSWER)
    assert await run(POLICY, Script(verdict), history, FOREVER) == (verdict, history)


@pytest.mark.parametrize("verdict", [REFUSED, LATER, OnHold("litigation 12")])
async def test_a_refusal_of_credentials_or_a_stop_ends_the_tries_and_keeps_those_made(
    verdict: Refused | Later | OnHold,
) -> None:
    script = Script(NO_ANSWER, SERVER_ERROR, verdict)
    assert await run(POLICY, script, FRESH, FOREVER) == (
        verdict,
        History(2, Doubt.UNANSWERED | Doubt.SERVER_FAILED, Reason.NO_ANSWER),
    )
    assert script.calls == 3


# --- how long it waits ---


def retry_after(seconds: float) -> Retry:
    return Retry(Reason.RATE_LIMITED, Facts(http_status=429), retry_after=seconds, throttled=True)


@pytest.mark.parametrize("seconds", [0.0, 7.0, 3600.0])
async def test_the_servers_retry_after_beats_the_backoff(pauses: list[float], seconds: float) -> None:
    """Also beyond the longest pause of ours."""
    await ended(retry_after(seconds), CONFIRMED)
    assert pauses == [seconds]


async def test_a_retry_after_is_for_the_next_attempt_only(pauses: list[float]) -> None:
    await ended(retry_after(1000.0), SERVER_ERROR, CONFIRMED)
    assert pauses[0] == 1000.0
    assert pauses[1] <= 2 * POLICY.first


ROUNDS = 200


async def backoffs(pauses: list[float], policy: RetryPolicy, history: History = FRESH) -> list[list[float]]:
    """The pauses of many records that fail to the last attempt: one list for each place."""
    tries = policy.max_attempts - history.attempts
    for _ in range(ROUNDS):
        await ended(*[SERVER_ERROR] * tries, policy=policy, history=history)
    return [list(islice(pauses, place, None, tries - 1)) for place in range(tries - 1)]


async def test_pauses_grow_from_the_first_to_the_longest_with_full_jitter(pauses: list[float]) -> None:
    """Each place's pauses fill the span from 0 to its bound: that one half stays empty has odds of 2 to the -200."""
    bounds = [0.5, 1.0, 2.0, 3.0, 3.0]
    places = await backoffs(pauses, RetryPolicy(6, first=0.5, longest=3.0))
    assert len(places) == len(bounds)
    for found, bound in zip(places, bounds, strict=True):
        assert len(found) == ROUNDS
        assert 0.0 <= min(found) < bound / 2 < max(found) <= bound


async def test_pauses_of_a_record_taken_up_again_go_on_growing(pauses: list[float]) -> None:
    (found,) = await backoffs(pauses, RetryPolicy(5, first=0.5, longest=30.0), History(attempts=3))
    assert 2.0 < max(found) <= 4.0


# --- when time is short ---


async def test_a_wait_beyond_the_shards_time_hands_the_record_back_with_its_history(pauses: list[float]) -> None:
    until = asyncio.get_running_loop().time() + 50.0
    overloaded = Retry(Reason.SERVER_ERROR, Facts(http_status=503), Doubt.SERVER_FAILED, retry_after=60.0)
    script = Script(NO_ANSWER, overloaded)
    result, history = await run(POLICY, script, FRESH, until)
    assert result == Later(60.0, alone=True)
    assert history == History(2, Doubt.UNANSWERED | Doubt.SERVER_FAILED, Reason.NO_ANSWER)
    assert (script.calls, len(pauses)) == (2, 1)


async def test_a_wait_within_the_shards_time_is_waited_for(pauses: list[float]) -> None:
    until = asyncio.get_running_loop().time() + 100.0
    result, _ = await run(POLICY, Script(retry_after(60.0), CONFIRMED), FRESH, until)
    assert isinstance(result, Result)
    assert pauses == [60.0]


async def test_a_record_whose_attempts_are_used_up_ends_even_when_time_is_short() -> None:
    result, _ = await run(POLICY, Script(retry_after(60.0)), History(4), -1.0)
    assert result == Result(Reason.RATE_LIMITED, http_status=429, attempts=5)


async def test_a_record_that_is_settled_ends_even_when_time_is_short() -> None:
    result, _ = await run(POLICY, Script(CONFIRMED), FRESH, -1.0)
    assert isinstance(result, Result)


async def test_during_an_outage_no_record_ends_for_having_used_up_its_attempts() -> None:
    async def away() -> float | None:
        return 7.5

    history = History(4, Doubt.UNANSWERED, Reason.NO_ANSWER)
    result, after = await run(POLICY, Script(NOT_SENT), history, FOREVER, away)
    assert (result, after.attempts) == (Later(7.5), 5)
    result, _ = await run(POLICY, Script(CONFIRMED), history, FOREVER, away)
    assert isinstance(result, Result), "what is settled is settled"


# --- a record whose batch is cancelled, or whose customer is on hold ---


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (History(), Reason.CANCELLED),
        (History(2), Reason.CANCELLED),  # refused by the limit, or never sent
        (History(1, Doubt.SERVER_FAILED), Reason.SERVER_ERROR),
        (History(1, Doubt.UNANSWERED, Reason.UNREADABLE_REPLY), Reason.UNREADABLE_REPLY),
        (History(2, Doubt.UNANSWERED | Doubt.SERVER_FAILED, Reason.NO_ANSWER), Reason.NO_ANSWER),
        (History(0, Doubt.INTERRUPTED), Reason.NO_ANSWER),
    ],
)
def test_a_cancelled_or_held_record_is_skipped_only_if_it_was_not_executed(history: History, reason: Reason) -> None:
    assert cancelled(history) == Result(reason, attempts=history.attempts)
    on_hold = held("litigation 12", history)
    assert on_hold.reason is (Reason.ON_HOLD if reason is Reason.CANCELLED else reason)
    assert (on_hold.note or "").endswith("litigation 12")


# --- a record taken up again ---


async def test_attempts_of_earlier_claims_count_on() -> None:
    earlier = History(3, Doubt.UNANSWERED, Reason.UNREADABLE_REPLY)
    result, history = await run(POLICY, Script(SERVER_ERROR, SERVER_ERROR), earlier, FOREVER)
    assert result == Result(Reason.UNREADABLE_REPLY, http_status=500, attempts=5)
    assert history == History(5, Doubt.UNANSWERED | Doubt.SERVER_FAILED, Reason.UNREADABLE_REPLY)


async def test_a_record_handed_back_again_and_again_has_no_more_attempts_than_any_other() -> None:
    calls, history = 0, FRESH
    result: Ended | None = None

    async def attempt() -> Verdict | Later | OnHold:
        nonlocal calls
        calls += 1
        return retry_after(60.0)

    for _ in range(POLICY.max_attempts):
        result, history = await run(POLICY, attempt, history, -1.0)
    assert isinstance(result, Result)
    assert calls == POLICY.max_attempts


async def test_records_do_not_share_their_tries() -> None:
    """One policy serves every record of a worker at once."""

    failing, fine = [SERVER_ERROR] * 5, [*[SERVER_ERROR] * 4, CONFIRMED]
    results = await asyncio.gather(*(ended(*verdicts) for _ in range(10) for verdicts in (failing, fine)))
    reasons = [result.reason for result in results if isinstance(result, Result)]
    assert reasons == [Reason.SERVER_ERROR, Reason.CONFIRMED] * 10
