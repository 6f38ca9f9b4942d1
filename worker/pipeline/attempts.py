"""The attempts of one record: when to try again, and when to stop.

tenacity drives the loop and is known to this module alone.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from worker.domain.records import History, Result
from worker.pipeline.endings import conclude, counted, exhausted
from worker.upstream.verdict import Gone, Refused, Retry, Settled, Verdict


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
