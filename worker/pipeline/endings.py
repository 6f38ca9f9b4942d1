"""What the end of a record means, after all that was tried with it (SPEC 2, 3)."""

from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History, Result
from worker.upstream.reply import Facts
from worker.upstream.verdict import Gone, Retry, Settled

_DOUBTFUL = Doubt.UNANSWERED | Doubt.INTERRUPTED


def counted(verdict: Settled | Gone | Retry, history: History) -> History:
    """The history with one more attempt, which ended with this verdict."""
    if not isinstance(verdict, Retry):
        return History(history.attempts + 1, history.doubt, history.unanswered, history.spared)
    unanswered = verdict.reason if verdict.doubt & Doubt.UNANSWERED else history.unanswered
    return History(history.attempts + 1, history.doubt | verdict.doubt, unanswered, history.spared)


def unanswered(history: History) -> History:
    """The history with one more attempt, which was cut off before its reply came."""
    return counted(Retry(Reason.NO_ANSWER, Facts(), Doubt.UNANSWERED), history)


def conclude(verdict: Settled | Gone, history: History) -> Result:
    """The result of a settled record; its history tells what a 404 means (SPEC 2)."""
    if isinstance(verdict, Gone):
        return _result(_absent(history.doubt), verdict.facts, history)
    if verdict.reason.outcome is Outcome.FAILED:
        return _result(_gave_up(verdict.reason, history), verdict.facts, history)
    return _result(verdict.reason, verdict.facts, history)


def exhausted(last: Retry, history: History) -> Result:
    """The result after the last attempt."""
    return _result(_gave_up(last.reason, history), last.facts, history)


def cancelled(history: History) -> Result:
    """The result of a record that was pending when its batch was cancelled: ``skipped`` only if it was not executed."""
    return Result(_left_alone(Reason.CANCELLED, history), attempts=history.attempts)


def held(ground: str, history: History) -> Result:
    """The result of a record whose customer is on hold: ``skipped`` only if no attempt before may have deleted it."""
    reason = _left_alone(Reason.ON_HOLD, history)
    note = ground if reason is Reason.ON_HOLD else f"not sent again, since it is on hold: {ground}"
    return Result(reason, attempts=history.attempts, note=note)


def _left_alone(reason: Reason, history: History) -> Reason:
    return _gave_up(Reason.SERVER_ERROR if history.doubt & Doubt.SERVER_FAILED else reason, history)


def _absent(doubt: Doubt) -> Reason:
    if doubt & (Doubt.UNANSWERED | Doubt.SERVER_FAILED):
        return Reason.AFTER_UNANSWERED_ATTEMPT
    return Reason.AFTER_INTERRUPTED_ATTEMPT if doubt & Doubt.INTERRUPTED else Reason.NOT_FOUND


def _gave_up(reason: Reason, history: History) -> Reason:
    """``failed`` promises that nothing was done, so it needs that no attempt may have been executed unheard."""
    if not history.doubt & _DOUBTFUL:
        return reason
    return history.unanswered or Reason.NO_ANSWER


def _result(reason: Reason, facts: Facts, history: History) -> Result:
    return Result(
        reason=reason,
        http_status=facts.http_status,
        attempts=history.attempts,
        request_id=facts.request_id,
        missing_field=facts.missing_field,
        is_wallet_ready=facts.is_wallet_ready,
    )
