"""``expunge submit``: hands a file to workers that run elsewhere."""

import asyncio

import typer
from kombu.exceptions import OperationalError

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import awaits, batch_json, emit, say
from worker.domain.batches import Batch, BatchState, Description, Lane
from worker.domain.errors import Guard, RefusedError, StoreError
from worker.domain.people import Act
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept, describe
from worker.settings import load_settings
from worker.wiring import Store


def submit(
    file: session.File,
    column: session.Column = "customer_id",
    skip_bad_rows: session.SkipBadRows = False,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    reference: session.Reference = None,
    lane: session.LaneOption = Lane.BULK,
    confirm: session.Confirm = None,
    again: session.Again = False,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Hand a file to the workers of EXPUNGE_REDIS_URL, and print the batch's ID. Does not wait."""
    settings = load_settings(environment=environment, merchant_id=merchant)
    caller = Caller(settings, me, Act.SUBMIT)
    with caller.audited(), session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows) as csv_file:
        inspection = csv_file.inspect()
        session.guard_production(settings, inspection.rows, confirm)
        description = describe(
            inspection, settings.target, settings.shard_size, reference, lane, approval=settings.approval
        )
        batch = asyncio.run(_submit(csv_file, caller, description, again))
    if json:
        emit(batch_json(batch))
    else:
        typer.echo(batch.id)


async def _submit(csv_file: CsvFile, caller: Caller, description: Description, again: bool) -> Batch:
    async with session.opened_store(caller.settings) as store:
        description = caller.signed(description, await caller.admitted(store))
        await session.warn_of_problems(store, caller.settings)
        batch, known_by = await take_in(store, csv_file, description, again=again)
        if known_by == "file":
            raise RefusedError(
                f"this file was submitted before: batch {batch.id} ({batch.state.value}); --again submits it once more",
                Guard.REPEAT,
            )
        if known_by == "reference":
            say(f"the reference names this batch already: {batch.id} ({batch.state.value})")
        elif batch.state is BatchState.AWAITING_APPROVAL:
            say(f"accepted; {awaits(batch)}")
        elif not await store.presence.count():
            say("accepted, but no worker is running: start `expunge worker`")
        return batch


async def take_in(
    store: Store, csv_file: CsvFile, description: Description, *, again: bool
) -> tuple[Batch, str | None]:
    """Accept a file and send its first messages; returns the batch, and by what it was known if it existed before."""
    accepted = await accept(store.batches, csv_file, description, again=again)
    batch = await store.batches.get(accepted.batch_id)
    if batch is None:
        raise StoreError(f"batch {accepted.batch_id} has expired; try again")
    if accepted.known_by is None and batch.goes_on:
        try:
            await store.feeder.feed(batch.id)
        except OperationalError:  # it is accepted: the workers feed it when the broker is back
            say("accepted, but the broker takes no messages now; the batch begins when it does")
    return batch, accepted.known_by
