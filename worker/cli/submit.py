"""``expunge submit``: hands a file to workers that run elsewhere."""

import asyncio

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.cli.plan import announce
from worker.domain.batches import Batch, Description, Lane
from worker.domain.people import Act
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import describe
from worker.pipeline.submission import moment, repeated
from worker.reports.as_json import batch_json
from worker.settings import Settings, load_settings


def submit(
    file: session.File,
    column: session.Column = "customer_id",
    skip_bad_rows: session.SkipBadRows = False,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    reference: session.Reference = None,
    lane: session.LaneOption = Lane.BULK,
    due: session.Due = None,
    keep: session.Keep = None,
    confirm: session.Confirm = None,
    again: session.Again = False,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Hand a file to the workers of EXPUNGE_REDIS_URL, and print the batch's ID. Does not wait."""
    settings = load_settings(environment=environment, merchant_id=merchant)
    _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    deadline = moment("--due", due)
    caller = Caller(settings, me, Act.SUBMIT)
    with caller.audited(), session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows) as csv_file:
        description = describe(
            csv_file.inspect(), settings.rules, reference=reference, lane=lane, due=deadline, keep=keep or ()
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
        batch, known_by = await session.take_in(store, csv_file, description, again=again)
        if known_by == "file":
            raise repeated(batch)
        if known_by == "reference":
            say(f"the reference names this batch already: {batch.id} ({batch.state.value})")
        else:
            await session.say_what_it_waits_for(store, batch, settings)
        return batch
