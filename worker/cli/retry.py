"""``expunge retry``: sends again what of an ended batch may end otherwise."""

import asyncio

import typer

from worker.cli import session
from worker.cli.output import batch_json, emit, say
from worker.cli.submit import feed
from worker.domain.batches import Batch
from worker.domain.errors import UsageError
from worker.pipeline import retry as pipeline
from worker.settings import Settings, load_settings


def retry(batch_id: session.BatchId, confirm: session.Confirm = None, json: session.Json = False) -> None:
    """Make a new batch of the records that may end otherwise, and print its ID. Asked twice, it is the same batch."""
    settings = load_settings()
    if settings.redis_url is None:
        raise UsageError(
            "retry needs workers elsewhere, and so EXPUNGE_REDIS_URL; else feed the report to `expunge run`"
        )
    made = asyncio.run(_retry(settings, batch_id, confirm))
    if json:
        emit(batch_json(made))
    else:
        typer.echo(made.id)


async def _retry(settings: Settings, batch_id: str, confirm: str | None) -> Batch:
    async with session.opened_store(settings) as store:
        old = await session.found(store, batch_id)
        description = pipeline.describe(old, settings.shard_size, settings.brakes)
        session.guard_production(description, confirm)
        accepted = await pipeline.retry(store.batches, store.holds, old, description)
        made = await session.found(store, accepted.batch_id)
        if accepted.known_by is not None:
            say(f"batch {old.id} was retried before: this is batch {made.id} ({made.state.value})")
        else:
            await feed(store, made)
            await session.say_if_unserved(store, made, settings)
        return made
