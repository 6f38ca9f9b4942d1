"""Works on shards: pace, send, judge, record, with many records in flight (docs/architecture.md).

A record is sent only while its shard is ours, the batch runs, nobody asked us to stop, and there is time left; what is
pending in the end is given back with what it tried so far.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import assert_never
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from worker.domain.batches import BatchState, StateReason
from worker.domain.customer_ids import Digester
from worker.domain.outcomes import Reason
from worker.domain.records import History, Result
from worker.pacing.pace import Pacer
from worker.pipeline.attempts import Later, RetryPolicy
from worker.store.batches import Batches
from worker.store.ledger import Ledger
from worker.store.shards import LEASE, Claim, NotClaimed, Shards, Written
from worker.upstream.client import Client, UnsafeIdError
from worker.upstream.verdict import Refused, Retry, Verdict, judge

BUDGET = 20.0
"""Seconds for one message; what is not done by then is handed back."""
FLUSH_EVERY = 0.25
"""Seconds between two writes of outcomes: also how soon a pause is noticed and a lease renewed."""
FLUSH_SIZE = 128
_WORTH_A_CLAIM = 5.0  # seconds that must be left to begin another shard
_OUTAGE_PAUSE = 0.5
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

    batches: Batches
    shards: Shards
    ledger: Ledger
    pacer: Pacer
    client: Client
    digester: Digester
    policy: RetryPolicy
    concurrency: int
    stopping: Callable[[], bool]
    """Whether this process was asked to stop; looked at before anything is sent."""


async def delete_shard(tools: Tools, batch_id: str, shard: int) -> Ending:
    """Claim the shard and send its pending records; then do the same with what is due next of the batch.

    The next shard begins when the last records of one are in flight, so that none of the process's time is lost
    between two; that goes on for ``BUDGET`` seconds, or until another batch waits. Returns ``GIVEN_BACK`` if any shard
    was, else how the first ended. Cancelling it stops all of it. Raises ``RedisError`` when the store cannot be asked.
    """
    until = asyncio.get_running_loop().time() + BUDGET
    slots = asyncio.Semaphore(tools.concurrency)
    claim = await tools.shards.claim(batch_id, shard, uuid4().hex)
    if isinstance(claim, NotClaimed):
        return Ending(claim.value)
    run: _ShardRun | None = await _begin(tools, claim, slots, until)
    runs: list[asyncio.Task[Ending]] = []
    async with asyncio.TaskGroup() as group:
        while run is not None:
            runs.append(group.create_task(run.run()))
            await run.nearly_sent.wait()
            run = await _next(tools, batch_id, slots, until) if run.may_send(_WORTH_A_CLAIM) else None
    endings = [task.result() for task in runs]
    return Ending.GIVEN_BACK if Ending.GIVEN_BACK in endings else endings[0]


async def _next(tools: Tools, batch_id: str, slots: asyncio.Semaphore, until: float) -> "_ShardRun | None":
    with suppress(RedisError):  # the shard is due again later
        if (shard := await tools.shards.next_due(batch_id)) is not None:
            claim = await tools.shards.claim(batch_id, shard, uuid4().hex)
            if not isinstance(claim, NotClaimed):
                return await _begin(tools, claim, slots, until)
    return None


async def _begin(tools: Tools, claim: Claim, slots: asyncio.Semaphore, until: float) -> "_ShardRun":
    """A run of a claimed shard that knows what the ledger knows: that needs no call (SPEC 3, ``deleted_earlier``)."""
    run = _ShardRun(tools, claim, slots, until)
    offsets = run.pending()
    known = await tools.ledger.lookup([claim.ids[offset] for offset in offsets], time.time())
    for position, deletion in known.items():
        when = datetime.fromtimestamp(deletion.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        run.settle(offsets[position], Result(Reason.DELETED_EARLIER, note=f"batch {deletion.batch_id}, {when}"))
    return run


class _ShardRun:
    """One holder's work on one shard."""

    def __init__(self, tools: Tools, claim: Claim, slots: asyncio.Semaphore, until: float) -> None:
        self._tools = tools
        self._claim = claim
        self._slots = slots
        self._now = asyncio.get_running_loop().time
        self._deadline = until
        self._send_until = self._within_lease(self._now())
        self.nearly_sent = asyncio.Event()
        """Set when fewer records wait for their first slot than there are slots."""
        self._settled = set(claim.finished)
        self._histories = dict(claim.histories)
        self._waits: dict[int, Later] = {}
        self._unwritten: list[Written] = []
        self._to_begin = 0
        self._begun: set[int] = set()
        self._flush_now = asyncio.Event()
        self._sending = True
        self._ours = True
        self._running = True
        self._log = log.bind(batch=claim.batch_id, shard=claim.shard)

    async def run(self) -> Ending:
        try:
            offsets = deque(self.pending())
            self._to_begin = len(offsets)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flush_while_sending())
                try:
                    async with asyncio.TaskGroup() as senders:
                        for _ in range(min(self._tools.concurrency, len(offsets))):
                            senders.create_task(self._send_from(offsets))
                finally:
                    self._sending = False
                    self._flush_now.set()
        except asyncio.CancelledError:
            await asyncio.wait_for(self._flush(), _LAST_FLUSH)
            raise
        finally:
            self.nearly_sent.set()
        await self._flush()
        return await self._end()

    def pending(self) -> list[int]:
        return [offset for offset in range(len(self._claim.ids)) if offset not in self._settled]

    async def _send_from(self, offsets: deque[int]) -> None:
        try:
            while offsets and self.may_send():
                await self._delete(offsets.popleft())
        except asyncio.CancelledError:
            self._running = False  # should a library swallow another sender's cancellation, it still sends nothing more
            raise

    async def _delete(self, offset: int) -> None:
        customer_id = self._claim.ids[offset]
        history = self._histories.get(offset, History())
        if self._claim.interrupted:
            history = history.interrupted()
        key = self._tools.digester.idempotency_key(customer_id, self._claim.batch_id)
        try:
            ended, self._histories[offset] = await self._tools.policy.run(
                partial(self._attempt, offset, key), history, self._deadline
            )
        except UnsafeIdError:
            ended = Result(Reason.INVALID_ID)
        match ended:
            case Result():
                self.settle(offset, ended)
                if ended.reason is Reason.REPLY_FOR_ANOTHER_CUSTOMER:
                    await self._pause(StateReason.REPLY_FOR_ANOTHER_CUSTOMER, customer_id)
            case Refused(pauses=reason):
                await self._pause(reason, customer_id)
            case Later():
                self._waits[offset] = ended
            case _:
                assert_never(ended)

    async def _attempt(self, offset: int, key: str) -> Verdict | Later:
        customer_id = self._claim.ids[offset]
        async with self._slots:
            self._begun.add(offset)
            if self._to_begin - len(self._begun) < self._tools.concurrency:
                self.nearly_sent.set()
            wait = await self._tools.pacer.permit(self.may_send)
            if wait is not None or not self.may_send():
                return Later(wait or 0.0)
            reply = await self._tools.client.delete(customer_id, key)
        verdict = judge(reply, customer_id, time.time())
        if isinstance(verdict, Retry) and verdict.throttled:
            await self._tools.pacer.throttle(verdict.retry_after)
        return verdict

    def settle(self, offset: int, result: Result) -> None:
        self._settled.add(offset)
        self._unwritten.append(Written(offset, self._claim.ids[offset], result))
        if len(self._unwritten) >= FLUSH_SIZE:
            self._flush_now.set()

    async def _pause(self, reason: StateReason, customer_id: str) -> None:
        """Stop the batch for everybody. Should Redis be away, this run stops, and the next one meets the same reply."""
        if not self._running:
            return
        self._running = False
        self._log.warning("batch paused", reason=reason.value, customer=self._tools.digester.log(customer_id))
        with suppress(RedisError):
            await self._tools.batches.move(self._claim.batch_id, BatchState.RUNNING, BatchState.PAUSED, reason)

    def may_send(self, wait: float = 0.0) -> bool:
        """Whether a record may be sent ``wait`` seconds from now, as far as is known."""
        at = self._now() + wait
        return at < self._send_until and self._ours and self._running and not self._tools.stopping()

    def _within_lease(self, renewed_at: float) -> float:
        """Until when records may be sent: an attempt must end well before another may hold the shard."""
        return min(self._deadline, renewed_at + LEASE / 2)

    async def _flush_while_sending(self) -> None:
        """Ends by a flag: a cancelled command would cost its connection, and redis-py may swallow the cancellation."""
        while self._sending:
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
            except RedisError as error:
                self._log.warning("results store away", error=type(error).__name__)
                await asyncio.sleep(_OUTAGE_PAUSE)
                continue
            del self._unwritten[: len(written)]
            self._send_until = self._within_lease(asked_at)
            self._ours = recorded.ours
            self._running = self._running and recorded.state is BatchState.RUNNING
            return

    async def _end(self) -> Ending:
        if not self._ours:
            self._log.warning("shard lost to another worker")
            return Ending.LOST
        pending = self.pending()
        if not pending:
            return Ending.FINISHED
        histories = {offset: self._histories[offset] for offset in pending if offset in self._histories}
        waits = [self._waits.get(offset, Later(0.0)) for offset in pending]
        delay, alone = min(wait.delay for wait in waits), all(wait.alone for wait in waits)
        with suppress(RedisError):  # else the lease ends by itself
            await self._tools.shards.release(self._claim, histories, delay, alone=alone)
        return Ending.GIVEN_BACK
