"""The one task that workers run: a thin layer that calls the pipeline."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

import structlog
from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import process
from tasks.app import app, settings
from worker.logs import where
from worker.outfit import Worker
from worker.pipeline.delete_shard import delete_shard
from worker.pipeline.shard_run import Ending
from worker.queue import DELETE_SHARD

log = structlog.get_logger(__name__)


@app.task(name=DELETE_SHARD)
def delete_shard_task(batch_id: str, shard: int, environment: str, merchant: str, upstream: str) -> None:
    """Work on a shard, then send the next messages of its batch.

    Nothing is returned or raised that could carry a reply or an ID. A message is a hint: however this ends, what is
    pending is sent again by the reconciler.
    """
    if process.stopping.is_set():
        raise Reject("stopping", requeue=True)
    ours = settings.target
    if (environment, merchant, upstream) != (ours.environment, ours.merchant, ours.upstream):
        log.error(
            "shard refused: this worker serves another merchant, environment or upstream", batch=batch_id, shard=shard
        )
        return
    here = process.current()
    worker = here.worker()
    try:
        here.run(_delete_and_feed(worker, batch_id, shard))
    except* RedisError as error:
        log.warning("shard left to its lease", batch=batch_id, shard=shard, error=where(error))
    except* SoftTimeLimitExceeded:
        log.error("shard left: it took too long", batch=batch_id, shard=shard)
    except* Exception as error:  # noqa: BLE001 - the text of an unforeseen error may hold what must not be shown
        log.error("shard failed", batch=batch_id, shard=shard, error=where(error))


async def _delete_and_feed(worker: Worker, batch_id: str, shard: int) -> None:
    """The next messages are sent while this shard is worked on, so that one is there when it ends."""
    feeding = asyncio.create_task(_feed(worker.store.feeder.feed(batch_id)))
    try:
        ending = await delete_shard(worker.tools, batch_id, shard)
    finally:
        await feeding
    log.debug("shard ended", batch=batch_id, shard=shard, ending=ending.value)
    if ending is Ending.GIVEN_BACK:
        await _feed(worker.store.feeder.feed_all())


async def _feed(feeding: Coroutine[None, None, object]) -> None:
    with suppress(RedisError, OperationalError):  # the reconciler will
        await feeding
