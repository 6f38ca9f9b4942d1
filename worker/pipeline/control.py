"""What an operator asks of a batch: approve, pause, resume, cancel. Only the transitions of SPEC 5 exist.

The ``actor`` is who asks, ``None`` for somebody without a name; whether they may is for the caller to know.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from kombu.exceptions import OperationalError

from worker.domain.batches import BatchState, StateReason
from worker.domain.brakes import Despite
from worker.domain.errors import Guard, RefusedError
from worker.pipeline.cancel import settle_cancelled
from worker.pipeline.notice import NOTICED
from worker.pipeline.reconcile import Feeder
from worker.store.batches import Batches
from worker.store.shards import NotClaimed, Shards

_ASK_AGAIN = 0.5
_ENDED = "it has ended: its report says how, and `expunge retry` sends again what may end otherwise"
_NEXT = {
    BatchState.PLANNED: "it waits to be submitted",
    BatchState.AWAITING_APPROVAL: "it can be approved or cancelled",
    BatchState.RUNNING: "it can be paused or cancelled",
    BatchState.PAUSED: "it can be resumed or cancelled",
    BatchState.COMPLETED: _ENDED,
    BatchState.CANCELLED: _ENDED,
}
_GOES_ON = {
    Despite.CANARY: "its share is looked at again when 100 are done",
    Despite.FAILURE_THRESHOLD: "the rest is sent whatever its share",
    Despite.MOSTLY_NOT_FOUND: "the rest is sent whatever its share",
}


async def approve(batches: Batches, feeder: Feeder, batch_id: str, actor: str, *, sha256: str | None = None) -> None:
    """Let a batch run that waits for it; the input that is meant is the one of its SHA-256, which never changes.

    Raises ``RefusedError`` if the approver has seen another file.
    """
    batch = await batches.get(batch_id) if sha256 is not None else None
    if batch is not None and sha256 is not None and sha256.lower() != batch.description.sha256:
        raise RefusedError(
            f"batch {batch_id} was made of another file: its SHA-256 is {batch.description.sha256}", Guard.APPROVAL
        )
    await _move(batches, batch_id, [BatchState.AWAITING_APPROVAL], BatchState.RUNNING, actor=actor)
    await _feed(feeder, batch_id)


async def pause(batches: Batches, batch_id: str, actor: str | None = None) -> None:
    """Pause a running batch; when it returns, no DELETE starts beyond those in flight (SPEC 4, promise 7)."""
    await _move(batches, batch_id, [BatchState.RUNNING], BatchState.PAUSED, StateReason.OPERATOR, actor=actor)
    await asyncio.sleep(NOTICED)


async def resume(
    batches: Batches, feeder: Feeder, batch_id: str, actor: str | None = None, *, despite: Despite | None = None
) -> None:
    """Go on with a paused batch; with one that a brake holds (SPEC 6), only ``despite`` it."""
    batch = await batches.get(batch_id)
    if batch is not None and batch.tripped is not None:
        if despite not in batch.tripped.ways_on:
            ways = " or ".join(f"--despite {way.value} ({_GOES_ON[way]})" for way in batch.tripped.ways_on)
            raise RefusedError(
                f"batch {batch_id} is paused: {batch.tripped}; to go on all the same: {ways}", Guard.BRAKE
            )
    elif despite is not None and batch is not None and batch.state is BatchState.PAUSED:
        why = batch.state_reason.value if batch.state_reason else "something else"
        raise RefusedError(
            f"batch {batch_id} is paused by {why}, not by {despite.value}; to go on: expunge resume {batch_id}",
            Guard.STATE,
        )
    await _move(batches, batch_id, [BatchState.PAUSED], BatchState.RUNNING, actor=actor, despite=despite)
    await _feed(feeder, batch_id)


async def cancel(
    batches: Batches, shards: Shards, batch_id: str, in_flight: Callable[[int], None], actor: str | None = None
) -> None:
    """End a batch for good: nothing more is sent, and every record has its outcome when it returns.

    What is in flight ends first; ``in_flight`` is told again and again how many shards that concerns. Should this
    process die on the way, the workers finish it, or the same call again.
    """
    batch = await batches.get(batch_id)
    if batch is None or batch.state is not BatchState.CANCELLED or not batch.goes_on:
        sources = [BatchState.RUNNING, BatchState.PAUSED, BatchState.AWAITING_APPROVAL]
        await _move(batches, batch_id, sources, BatchState.CANCELLED, actor=actor)
    await asyncio.sleep(NOTICED)
    while left := await shards.unfinished(batch_id):
        held = 0
        for shard in left:
            claim = await shards.claim(batch_id, shard, uuid4().hex)
            if not isinstance(claim, NotClaimed):
                await settle_cancelled(shards, claim)
            elif claim is NotClaimed.HELD:
                held += 1
        if held:
            in_flight(held)
            await asyncio.sleep(_ASK_AGAIN)


async def _move(
    batches: Batches,
    batch_id: str,
    sources: list[BatchState],
    to: BatchState,
    reason: StateReason | None = None,
    *,
    actor: str | None,
    despite: Despite | None = None,
) -> None:
    for source in sources:
        moved, state = await batches.move(batch_id, source, to, reason, actor=actor, despite=despite)
        if moved:
            return
    if state is to:
        raise RefusedError(f"batch {batch_id} is {to.value} already; {_NEXT[to]}", Guard.STATE)
    stands = f"{state.value}, so it cannot become {to.value}; {_NEXT[state]}" if state else "gone"
    raise RefusedError(f"batch {batch_id} is {stands}", Guard.STATE)


async def _feed(feeder: Feeder, batch_id: str) -> None:
    with suppress(OperationalError):  # the workers feed it when the broker is back
        await feeder.feed(batch_id)
