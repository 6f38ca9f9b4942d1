"""One holder's work on one shard: pace, send, judge, record, with many records in flight (docs/architecture.md).

A record is sent only while its shard is ours, the batch runs, the upstream is there, nobody asked us to stop, and there
is time left; what is pending in the end is given back with what it tried so far.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import assert_never

import structlog
from redis.exceptions import RedisError

from worker.domain.batches import BatchState, StateReason, Target
from worker.domain.customer_ids import Digester
from worker.domain.outcomes import Reason
from worker.domain.records import History, Result
from worker.pacing.pace import Flow, NotNow, Pacer, Permit, Sign
from worker.pipeline.attempts import Later, OnHold, RetryPolicy
from worker.pipeline.cancel import history_of
from worker.pipeline.endings import counted, held, unanswered
from worker.pipeline.notice import FLUSH_EVERY, NOTICED
from worker.store.batches import Batches
from worker.store.holds import Holds
from worker.store.ledger import Ledger
from worker.store.shards import LEASE, Claim, Shards, Standing, Written
from worker.upstream.client import Client, UnsafeIdError
from worker.upstream.verdict import Refused, Retry, Verdict, judge

FLUSH_SIZE = 128
GRACE = 10.0
"""Seconds that requests in flight have to end after we were asked to stop; then they count as unanswered."""
POISON = 3
"""Deaths of its holders after which a shard's records are sent one by one, to find the one that kills."""
_STRIKES = 2  # deaths with the same record alone in hand
_OUTAGE_PAUSE = 0.5
_NEWS_PAUSE = 0.02
_LAST_FLUSH = 5.0  # seconds that a cancelled run may take for it

log = structlog.get_logger(__name__)


class Ending(StrEnum):
    """How the work on a shard ended."""

    FINISHED = "finished"
    GIVEN_BACK = "given_back"
    LOST = "lost"
    """Somebody else holds it: nothing of ours counts any more."""
    HELD = "held"
    DONE = "done"
    NOT_RUNNING = "not_running"


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker process has, whichever shard it works on."""

    target: Target
    batches: Batches
    shards: Shards
    ledger: Ledger
    holds: Holds
    pacer: Pacer
    client: Client
    digester: Digester
    policy: RetryPolicy
    concurrency: int
    stopping: Callable[[], bool]
    """Whether this process was asked to stop; looked at before anything is sent."""


class ShardRun:
    """One holder's work on one shard."""

    def __init__(self, tools: Tools, claim: Claim, until: float) -> None:
        self._tools = tools
        self._claim = claim
        self._flow = Flow(claim.lane, claim.batch_id)
        self._now = asyncio.get_running_loop().time
        self._deadline = until
        self._send_until = self._within_lease(self._now())
        self.nearly_sent = asyncio.Event()
        """Set when fewer records wait for their first permit than may be in flight, and one had it.

        So a process takes no more shards of a batch than it gets to, and leaves the others to other processes.
        """
        self._one_by_one = claim.deaths >= POISON
        self._first: int | None = None
        self._keys = [tools.digester.idempotency_key(customer_id, claim.batch_id) for customer_id in claim.ids]
        self._settled = set(claim.finished)
        self._histories = {offset: history_of(claim, offset) for offset in claim.histories}
        self._waits: dict[int, Later] = {}
        self._unwritten: list[Written] = []
        self._store_away = False
        self._to_send: list[int] = []
        self._left: deque[int] = deque()
        self._to_begin = 0
        self._begun: set[int] = set()
        self._unheard: set[int] = set()
        self._failed_at: dict[int, tuple[float, float]] = {}
        self._answered_at = -math.inf
        self._undecided: dict[int, Result] = {}
        self._flush_now = asyncio.Event()
        self._halted = asyncio.Event()
        self._sent = asyncio.Event()
        self._ours = True
        self._running = True
        self._standing = claim.standing
        self._holds: str | None = None
        self._grounds: dict[int, str] = {}
        self._news_until = -math.inf
        self._probe_at: float | None = None
        self._stop_by: float | None = None
        self._log = log.bind(batch=claim.batch_id, shard=claim.shard)

    async def run(self) -> Ending:
        """Send what is pending while it may be sent, write the outcomes, and end the shard or give it back."""
        try:
            await self._send_all()
        except asyncio.CancelledError:
            async with asyncio.timeout(_LAST_FLUSH):
                await self._end()
            raise
        finally:
            self.nearly_sent.set()
        return await self._end()

    async def _send_all(self) -> None:
        await self._look_at_suspect()
        self._to_send = self._allowed()
        self._left = deque(self._to_send)
        self._to_begin = len(self._left)
        many = 1 if self._one_by_one else min(self._tools.concurrency, len(self._left))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flush_while_sending())
            try:
                async with asyncio.TaskGroup() as senders:
                    tasks = [senders.create_task(self._send()) for _ in range(many)]
                    group.create_task(self._watch(tasks))
                if self._failed_at and await self._outage() is None and not self._left:
                    self._settle_undecided()
            finally:
                self._sent.set()
                self._flush_now.set()

    @property
    def batch_id(self) -> str:
        """The batch it belongs to."""
        return self._claim.batch_id

    def pending(self) -> list[int]:
        """Offsets without an outcome, those first that were tried least."""
        offsets = [offset for offset in range(len(self._claim.ids)) if offset not in self._settled]
        if self._histories or self._first is not None:
            offsets.sort(key=lambda offset: (offset != self._first, self._history(offset).attempts))
        return offsets

    def _allowed(self) -> list[int]:
        """What may be sent of what is pending; of a canary the first rows, so that a later holder takes the same."""
        if self._claim.allowance is None:
            return self.pending()
        return sorted(self.pending(), key=lambda offset: (offset != self._first, offset))[: self._claim.allowance]

    @property
    def is_canary(self) -> bool:
        """Whether the rest of the batch waits for how this ends (SPEC 6)."""
        return self._claim.allowance is not None

    def leaves_room(self, seconds: float) -> bool:
        """Whether another shard may begin beside this one, with so much time left."""
        return not self._one_by_one and self.may_send(seconds)

    def _history(self, offset: int) -> History:
        return self._histories.get(offset) or history_of(self._claim, offset)

    async def _look_at_suspect(self) -> None:
        """The record that was alone in hand when a worker died, after others had died of this shard (SPEC 3).

        Once may be chance, and it is sent first; the second time it is the one.
        """
        suspect = self._claim.suspect
        if suspect is None or suspect in self._settled or not self._one_by_one:
            return
        if self._claim.strikes < _STRIKES:
            self._first = suspect
            return
        self._log.error("record is poisonous", customer=self._tools.digester.log(self._claim.ids[suspect]))
        note = f"{self._claim.deaths} workers died of it; it may have been sent"
        self.settle(suspect, Result(Reason.POISONOUS, attempts=self._history(suspect).attempts, note=note))
        await self._flush()  # the next one may kill as fast
        self._one_by_one = False

    async def _send(self) -> None:
        try:
            while self._left and self.may_send():
                await self._delete(self._left.popleft())
        except asyncio.CancelledError:
            self._running = False  # should a library swallow another sender's cancellation, it still sends nothing more
            raise

    async def _delete(self, offset: int) -> None:
        try:
            ended, self._histories[offset] = await self._tools.policy.run(
                partial(self._attempt, offset),
                self._history(offset),
                self._deadline,
                sleep=self._rest,
                outage=self._outage,
            )
        except UnsafeIdError:
            ended = Result(Reason.INVALID_ID)
        match ended:
            case Result() if self._may_be_an_outage(offset):
                self._undecided[offset] = ended
            case Result():
                self.settle(offset, ended)
                if ended.reason is Reason.REPLY_FOR_ANOTHER_CUSTOMER:
                    await self._pause(StateReason.REPLY_FOR_ANOTHER_CUSTOMER, offset)
            case Refused(pauses=reason):
                await self._pause(reason, offset)
            case Later():
                self._waits[offset] = ended
            case OnHold(ground):
                self.settle(offset, held(ground, self._history(offset)))
            case _:
                assert_never(ended)

    async def _attempt(self, offset: int) -> Verdict | Later | OnHold:
        customer_id = self._claim.ids[offset]
        if offset in self._grounds:
            self._note_begun(offset)
            return OnHold(self._grounds[offset])
        while isinstance(permit := await self._tools.pacer.permit(self._flow, self._may_send_by_news), NotNow):
            if permit.circuit_open:
                await self._circuit_opened(permit.seconds)
            if not self.may_send(permit.seconds):
                return Later(permit.seconds)
            await self._news()
        try:
            self._note_begun(offset)
            if not self.may_send() or (self._one_by_one and not await self._take_in_hand(offset)):
                return Later(0.0)
            if not self._has_news():
                return Later(0.0)
            if offset in self._grounds:
                return OnHold(self._grounds[offset])
            self._unheard.add(offset)
            reply = await self._tools.client.delete(customer_id, self._keys[offset])
            await asyncio.sleep(0)  # replies that came together are all read, then all judged: that takes less time
        finally:
            self._tools.pacer.release()
        verdict = judge(reply, customer_id, time.time())
        await self._tell(offset, permit, verdict)
        if isinstance(verdict, Retry):  # noted now, since it may be cancelled while it rests
            _, last = self._failed_at.get(offset, (0.0, -math.inf))
            self._failed_at[offset] = last, self._now()
            self._histories[offset] = counted(verdict, self._history(offset))
        self._unheard.discard(offset)
        return verdict

    def _may_send_by_news(self, wait: float) -> bool:
        return self.may_send(wait) and self._has_news()

    def _has_news(self) -> bool:
        """Whether what is known of pauses and holds is young enough to send by."""
        return self._now() < self._news_until

    async def _news(self) -> None:
        """Wait for what the store says of pauses and holds, as long as there is anything to send."""
        while not self._has_news() and self.may_send():
            self._flush_now.set()
            await asyncio.sleep(_NEWS_PAUSE)

    async def skip_held(self) -> None:
        """Leave out who is on hold when the shard is begun, before anything is sent. Raises ``RedisError``."""
        await self._look_at_holds()
        for offset, ground in self._grounds.items():
            self.settle(offset, held(ground, self._history(offset)))

    async def _look_at_holds(self) -> None:
        """Ask who of the pending is on hold; none of them is sent from here on."""
        asked_at, pending = self._now(), self.pending()
        found = await self._tools.holds.lookup([self._claim.ids[offset] for offset in pending])
        self._grounds = {pending[position]: ground for position, ground in found.grounds.items()}
        self._holds, self._news_until = found.version, asked_at + NOTICED

    def _note_begun(self, offset: int) -> None:
        self._begun.add(offset)
        if self._to_begin - len(self._begun) < self._tools.concurrency:
            self.nearly_sent.set()

    async def _tell(self, offset: int, permit: Permit, verdict: Verdict) -> None:
        """What the verdict says to everybody: of the rate, and of the upstream as a whole."""
        failed = isinstance(verdict, Retry) and not verdict.throttled
        if not failed:
            self._answered_at = self._now()
            self._settle_undecided()
            self._tools.pacer.tell(permit, Sign.ANSWERED)
        elif isinstance(verdict, Retry) and verdict.reason is Reason.NO_CONNECTION:
            self._tools.pacer.tell(permit, Sign.ABSENT)
        elif permit.probe or not self._history(offset).used:
            self._tools.pacer.tell(permit, Sign.FAILED)
        if permit.probe or (self._standing is Standing.WAITING and not failed):
            await self._outage()  # at once: others wait for the probe
        if isinstance(verdict, Retry) and verdict.throttled:
            await self._tools.pacer.throttle(verdict.retry_after)

    def _may_be_an_outage(self, offset: int) -> bool:
        """Whether a record that used up its attempts shall wait for what becomes of those that were not tried yet.

        If one of them is answered, it was this record's own fault; if not, they are the evidence that opens the
        circuit, and nothing has ended (SPEC 4, promise 5).
        """
        before, _ = self._failed_at.get(offset, (-math.inf, 0.0))
        return self._answered_at < before and bool(self._left) and not self._history(self._left[0]).used

    def _settle_undecided(self) -> None:
        for offset, result in self._undecided.items():
            self.settle(offset, result)
        self._undecided.clear()

    async def _outage(self) -> float | None:
        """Ask how the circuit stands, and let the batch show it; an answer from before it opened does not close it."""
        if (seconds := await self._tools.pacer.outage()) is not None:
            await self._circuit_opened(seconds)
        elif self._standing is Standing.WAITING:
            self._standing = Standing.RUNNING
            self._log.info("the upstream is back")
            with suppress(RedisError):  # else the next answer does it
                await self._tools.batches.circuit_closed(self._claim.batch_id)
        return seconds

    async def _take_in_hand(self, offset: int) -> bool:
        """Note durably which record is sent now; should it kill this worker, the next holder knows."""
        with suppress(RedisError):
            return await self._tools.shards.suspect(self._claim, offset)
        return False

    def settle(self, offset: int, result: Result) -> None:
        """The record's outcome is known; it is written with the next group."""
        self._settled.add(offset)
        self._unwritten.append(Written(offset, self._claim.ids[offset], result))
        if len(self._unwritten) >= FLUSH_SIZE:
            self._flush_now.set()

    async def _circuit_opened(self, seconds: float) -> None:
        """The upstream is away: give the shard back, and keep no worker waiting."""
        if self._probe_at is not None:
            return
        self._probe_at = self._now() + seconds
        self._halted.set()
        self._log.warning("the upstream is away", asked_again_in=round(seconds, 1))
        with suppress(RedisError):
            await self._tools.batches.circuit_opened(self._claim.batch_id, seconds)

    async def _pause(self, reason: StateReason, offset: int) -> None:
        """Stop the batch for everybody. Should Redis be away, this run stops, and the next one meets the same reply."""
        if not self._running:
            return
        self._running = False
        self._halted.set()
        customer = self._tools.digester.log(self._claim.ids[offset])
        self._log.warning("batch paused", reason=reason.value, customer=customer)
        with suppress(RedisError):
            await self._tools.batches.move(self._claim.batch_id, BatchState.RUNNING, BatchState.PAUSED, reason)

    def may_send(self, wait: float = 0.0) -> bool:
        """Whether a record may be sent ``wait`` seconds from now, as far as is known."""
        in_time = self._now() + wait < self._send_until
        return in_time and self._ours and self._running and self._probe_at is None and not self._tools.stopping()

    def _within_lease(self, renewed_at: float) -> float:
        """Until when records may be sent: an attempt must end well before another may hold the shard."""
        return min(self._deadline, renewed_at + LEASE / 2)

    async def _rest(self, seconds: float) -> None:
        """The pause before a record's next attempt; over at once when none will be made here."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._halted.wait()

    async def _watch(self, senders: Sequence[asyncio.Task[None]]) -> None:
        """Wake those who rest when nothing may be sent any more; end what is in flight when the grace is over."""
        while not self._sent.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY):
                    await self._sent.wait()
            if not self.may_send():
                self._halted.set()
            if self._tools.stopping() and self._stop_by is None:
                self._stop_by = self._now() + GRACE
            if self._must_stop():
                for sender in senders:
                    sender.cancel()

    def _must_stop(self) -> bool:
        return self._stop_by is not None and self._now() >= self._stop_by

    async def _flush_while_sending(self) -> None:
        """Ends by a flag: a cancelled command would cost its connection."""
        while not self._sent.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY):
                    await self._flush_now.wait()
            self._flush_now.clear()
            await self._flush()

    async def _flush(self) -> None:
        """Write what is not yet written, and renew the lease.

        An outage of Redis is waited for: nothing is sent meanwhile, nothing lost. With its last outcome the shard has
        ended in the store, and there is no lease to renew.
        """
        while self._ours and (self._unwritten or len(self._settled) < len(self._claim.ids)):
            written, asked_at = self._unwritten[:], self._now()
            try:
                recorded = await self._tools.shards.record(self._claim, written, time.time())
                if recorded.holds != self._holds:
                    await self._look_at_holds()
            except RedisError as error:
                if not self._store_away:
                    self._log.warning("results store away", error=type(error).__name__)
                self._store_away = True
                if self._must_stop():
                    return  # the lease ends by itself, and the records count as interrupted
                await asyncio.sleep(_OUTAGE_PAUSE)
                continue
            self._store_away = False
            del self._unwritten[: len(written)]
            self._send_until = self._within_lease(asked_at)
            self._news_until = asked_at + NOTICED
            self._ours = recorded.ours
            self._standing = recorded.standing
            if self._running and recorded.standing is Standing.PAUSED:
                self._log.warning("batch was paused")
            self._running = self._running and recorded.standing.lets_send
            return

    async def _end(self) -> Ending:
        """Write the last outcomes, and give back what is pending with what it tried."""
        await self._flush()
        if not self._ours:
            self._log.warning("shard lost to another worker")
            return Ending.LOST
        if self._unwritten:
            return Ending.LOST
        pending = self.pending()
        if not pending:
            return Ending.FINISHED
        for offset in self._unheard:
            self._histories[offset] = unanswered(self._history(offset))
        histories = {offset: self._histories[offset] for offset in pending if offset in self._histories}
        if self._probe_at is not None:
            histories = {at: history.spare(history_of(self._claim, at)) for at, history in histories.items()}
        with suppress(RedisError):  # else the lease ends by itself
            await self._tools.shards.release(self._claim, histories, *self._delay())
        return Ending.GIVEN_BACK

    def _delay(self) -> tuple[float, bool]:
        """Seconds until it makes sense to go on, and whether only this shard has to wait."""
        if self._probe_at is not None:
            return max(0.0, self._probe_at - self._now()), False
        waits = [self._waits.get(offset, Later(0.0)) for offset in self._to_send if offset not in self._settled]
        return min((wait.delay for wait in waits), default=0.0), all(wait.alone for wait in waits)
