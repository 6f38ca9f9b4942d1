"""The attempts of one record: when to try again, when to stop, and what the record's end then means.

tenacity drives the loop and is known to this module alone.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Doubt, History, Result
from worker.upstream.reply import Facts
from worker.upstream.verdict import Gone, Refused, Retry, Settled, Verdict

_DOUBTFUL = Doubt.UNANSWERED | Doubt.INTERRUPTED


@dataclass(frozen=True, slots=True)
class Later:
    """The record stays pending: what it waits for takes longer than the shard's time allows."""

    delay: float
    """Seconds before it makes sense to go on."""
    alone: bool = False
    """Whether only this record waits, not everybody."""


@dataclass(frozen=True, slots=True)
class OnHold:
    """The record must not be sent: its customer is on hold."""

    ground: str


Attempt: TypeAlias = Callable[[], Awaitable[Verdict | Later | OnHold]]
"""Sends once and judges, or says that it may not send, now or at all."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits so many seconds, or until it makes no sense any more."""
Outage: TypeAlias = Callable[[], Awaitable[float | None]]
"""Seconds until the upstream is asked again if it is away, else ``None``."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter; a server's ``Retry-After`` beats it (STYLE)."""

    max_attempts: int
    first: float = 0.5
    """Seconds: the first pause lies between 0 and this; each further one may be twice as long."""
    longest: float = 30.0

    async def run(
        self, attempt: Attempt, history: History, until: float, sleep: Sleep, outage: Outage
    ) -> tuple[Result | Refused | Later | OnHold, History]:
        """Try until the record is settled, its attempts are used up, or the time ``until`` (loop's clock) is too near.

        Returns the result or why there is none, and the history with all attempts that count. During an outage of the
        upstream no record ends for having used up its attempts (SPEC 4, promise 5).
        """
        first = await attempt()
        if not isinstance(first, Retry):  # the usual case does without the machinery
            return self._ended(first, history)
        tries = _Tries(self, attempt, first, history, until)
        last: Verdict | Later | OnHold = await AsyncRetrying(
            retry=retry_if_result(lambda verdict: isinstance(verdict, Retry)),
            wait=tries.wait,
            stop=tries.stop,
            sleep=sleep,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )(tries.next)
        if isinstance(last, Retry):
            if tries.history.used < self.max_attempts:
                return Later(tries.upcoming, alone=True), tries.history
            if (away := await outage()) is not None:
                return Later(away), tries.history
            return exhausted(last, tries.history), tries.history
        return self._ended(last, tries.history)

    def _ended(
        self, verdict: Settled | Gone | Refused | Later | OnHold, history: History
    ) -> tuple[Result | Refused | Later | OnHold, History]:
        if isinstance(verdict, Refused | Later | OnHold):  # no attempt is counted
            return verdict, history
        history = counted(verdict, history)
        return conclude(verdict, history), history


class _Tries:
    """What tenacity asks while it loops: the first verdict is known already."""

    def __init__(self, policy: RetryPolicy, attempt: Attempt, first: Retry, history: History, until: float) -> None:
        self._policy, self._attempt, self._until = policy, attempt, until
        self._known: Retry | None = first
        self._backoff = wait_random_exponential(multiplier=policy.first, max=policy.longest)
        self.history = history
        self.upcoming = 0.0

    async def next(self) -> Verdict | Later | OnHold:
        verdict: Verdict | Later | OnHold
        if self._known is not None:
            verdict, self._known = self._known, None
        else:
            verdict = await self._attempt()
        if isinstance(verdict, Retry):
            self.history = counted(verdict, self.history)
        return verdict

    def wait(self, state: RetryCallState) -> float:
        """The server's word first; else a backoff by all attempts of the record, also those of earlier claims."""
        verdict = state.outcome.result() if state.outcome else None
        if isinstance(verdict, Retry) and verdict.retry_after is not None:
            self.upcoming = verdict.retry_after
        else:
            of_record = copy.copy(state)
            of_record.attempt_number = self.history.used
            self.upcoming = self._backoff(of_record)
        return self.upcoming

    def stop(self, _state: RetryCallState) -> bool:
        late = asyncio.get_running_loop().time() + self.upcoming > self._until
        return late or self.history.used >= self._policy.max_attempts


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
