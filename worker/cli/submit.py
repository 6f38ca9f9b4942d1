"""``expunge submit``: hands a file to workers that run elsewhere."""

import asyncio

import typer
from kombu.exceptions import OperationalError

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.cli.plan import announce
from worker.domain.batches import Batch, Description, Lane
from worker.domain.errors import Guard, RefusedError, StoreError
from worker.domain.people import Act
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept, describe
from worker.reports.as_json import batch_json
from worker.settings import Settings, load_settings
from worker.wiring import Store


def submit(
    file: session.File,
    column: session.Column = "customer_id",
    skip_bad_rows: session.SkipBadRows = False,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    reference: session.Reference = None,
    lane: session.LaneOption = Lane.BULK,
    due: session.Due = None,
    confirm: session.Confirm = None,
    again: session.Again = False,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Hand a file to the workers of EXPUNGE_REDIS_URL, and print the batch's ID. Does not wait."""
    settings = load_settings(environment=environment, merchant_id=merchant)
    _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    deadline = session.moment("--due", due)
    caller = Caller(settings, me, Act.SUBMIT)
    with caller.audited(), session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows) as csv_file:
        description = describe(
            csv_file.inspect(),
            settings.target,
            settings.shard_size,
            reference,
            lane,
            settings.brakes,
            deadline,
            approval=settings.approval,
        )
        session.refuse_unattended(description, confirm)
        description = announce(csv_file, caller, settings, description, again=again)
        session.guard_production(description, confirm)
        batch = asyncio.run(_submit(csv_file, settings, description, again))
    if json:
        emit(batch_json(batch))
    else:
        typer.echo(batch.id)


async def _submit(csv_file: CsvFile, settings: Settings, description: Description, again: bool) -> Batch:
    async with session.opened_store(settings) as store:
        await session.warn_of_problems(store, settings)
        batch, known_by = await take_in(store, csv_file, description, again=again)
        if known_by == "file":
            raise RefusedError(
                f"this file was submitted before: batch {batch.id} ({batch.state.value}); --again submits it once more",
                Guard.REPEAT,
            )
        if known_by == "reference":
            say(f"the reference names this batch already: {batch.id} ({batch.state.value})")
        else:
            await session.say_what_it_waits_for(store, batch, settings)
        return batch


async def take_in(
    store: Store, csv_file: CsvFile, description: Description, *, again: bool
) -> tuple[Batch, str | None]:
    """Accept a file and send its first messages; returns the batch, and by what it was known if it existed before."""
    accepted = await accept(store.batches, store.holds, csv_file, description, again=again)
    batch = await store.batches.get(accepted.batch_id)
    if batch is None:
        raise StoreError(f"batch {accepted.batch_id} has expired; try again")
    if accepted.known_by is None:
        await feed(store, batch)
    return batch, accepted.known_by


async def feed(store: Store, batch: Batch) -> None:
    """Send a batch's first messages, if it runs."""
    if not batch.goes_on:
        return
    try:
        await store.feeder.feed(batch.id)
    except OperationalError:  # it is accepted: the workers feed it when the broker is back
        say("accepted, but the broker takes no messages now; the batch begins when it does")
