"""``expunge retry``: sends again what of an ended batch may end otherwise."""

import asyncio

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.batches import Batch
from worker.domain.errors import UsageError
from worker.domain.people import Act
from worker.pipeline import retry as pipeline
from worker.pipeline.admission import signed
from worker.pipeline.submission import feed
from worker.reports.as_json import batch_json
from worker.settings import load_settings


def retry(
    batch_id: session.BatchId, confirm: session.Confirm = None, me: session.As = None, json: session.Json = False
) -> None:
    """Make a new batch of the records that may end otherwise, and print its ID. Asked twice, it is the same batch."""
    settings = load_settings()
    if settings.redis_url is None:
        raise UsageError(
            "retry needs workers elsewhere, and so EXPUNGE_REDIS_URL; else feed the report to `expunge run`"
        )
    caller = Caller(settings, me, Act.SUBMIT, batch_id)
    with caller.audited():
        made = asyncio.run(_retry(caller, batch_id, confirm))
    if json:
        emit(batch_json(made))
    else:
        typer.echo(made.id)


async def _retry(caller: Caller, batch_id: str, confirm: str | None) -> Batch:
    settings = caller.settings
    async with session.opened_store(settings) as store:
        old, name = await session.found(store, batch_id), await caller.admitted(store)
        description = pipeline.describe(
            old, settings.shard_size, settings.brakes(old.description.target.environment), settings.approval
        )
        session.guard_production(description, confirm)
        accepted = await pipeline.retry(store.batches, store.holds, old, signed(description, name))
        made = await session.found(store, accepted.batch_id)
        if accepted.known_by is not None:
            say(f"batch {old.id} was retried before: this is batch {made.id} ({made.state.value})")
        else:
            session.say_if_not_fed(await feed(store.feeder, made))
            await session.say_what_it_waits_for(store, made, settings)
        return made
