"""What an operator asks of a batch: pause, resume, cancel. Only the transitions of SPEC 5 exist."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from kombu.exceptions import OperationalError

from worker.domain.batches import BatchState, StateReason
from worker.domain.errors import RefusedError
from worker.pacing.pace import AHEAD
from worker.pipeline.cancel import settle_cancelled
from worker.pipeline.reconcile import Feeder
from worker.pipeline.shard_run import FLUSH_EVERY
from worker.store.batches import Batches
from worker.store.shards import NotClaimed, Shards

_NOTICED = 2 * FLUSH_EVERY + AHEAD
"""Seconds after which every worker that can reach Redis has seen a stop, and its reserved permits are used or gone."""
_ASK_AGAIN = 0.5


async def pause(batches: Batches, batch_id: str) -> None:
    """Pause a running batch; when it returns, no DELETE starts beyond those in flight (SPEC 4, promise 7)."""
    await _move(batches, batch_id, [BatchState.RUNNING], BatchState.PAUSED, StateReason.OPERATOR)
    await asyncio.sleep(_NOTICED)


async def resume(batches: Batches, feeder: Feeder, batch_id: str) -> None:
    """Go on with a paused batch."""
    await _move(batches, batch_id, [BatchState.PAUSED], BatchState.RUNNING)
    with suppress(OperationalError):  # the workers feed it when the broker is back
        await feeder.feed(batch_id)


async def cancel(batches: Batches, shards: Shards, batch_id: str, in_flight: Callable[[int], None]) -> None:
    """End a batch for good: nothing more is sent, and every record has its outcome when it returns.

    What is in flight ends first; ``in_flight`` is told again and again how many shards that concerns. Should this
    process die on the way, the workers finish it, or the same call again.
    """
    batch = await batches.get(batch_id)
    if batch is None or batch.state is not BatchState.CANCELLED or not batch.goes_on:
        sources = [BatchState.RUNNING, BatchState.PAUSED, BatchState.AWAITING_APPROVAL]
        await _move(batches, batch_id, sources, BatchState.CANCELLED)
    await asyncio.sleep(_NOTICED)
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
    batches: Batches, batch_id: str, sources: list[BatchState], to: BatchState, reason: StateReason | None = None
) -> None:
    for source in sources:
        moved, state = await batches.move(batch_id, source, to, reason)
        if moved:
            return
    if state is to:
        raise RefusedError(f"batch {batch_id} is {to.value} already")
    raise RefusedError(f"batch {batch_id} is {state.value if state else 'gone'}, so it cannot become {to.value}")
