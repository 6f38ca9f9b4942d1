"""What an operator asks of a batch: pause, resume. Only the transitions of SPEC 5 exist."""

import asyncio

from worker.domain.batches import BatchState, StateReason
from worker.domain.errors import RefusedError
from worker.pacing.pace import AHEAD
from worker.pipeline.delete_shard import FLUSH_EVERY
from worker.pipeline.reconcile import Feeder
from worker.store.batches import Batches

_NOTICED = 2 * FLUSH_EVERY + AHEAD
"""Seconds after which every worker that can reach Redis has seen a pause, and its reserved permits are used or gone."""


async def pause(batches: Batches, batch_id: str) -> None:
    """Pause a running batch; when it returns, no DELETE starts beyond those in flight (SPEC 4, promise 7)."""
    await _move(batches, batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    await asyncio.sleep(_NOTICED)


async def resume(batches: Batches, feeder: Feeder, batch_id: str) -> None:
    """Go on with a paused batch."""
    await _move(batches, batch_id, BatchState.PAUSED, BatchState.RUNNING)
    await feeder.feed(batch_id)


async def _move(
    batches: Batches, batch_id: str, source: BatchState, to: BatchState, reason: StateReason | None = None
) -> None:
    moved, state = await batches.move(batch_id, source, to, reason)
    if not moved:
        raise RefusedError(f"batch {batch_id} is {state.value if state else 'gone'}, so it cannot become {to.value}")
