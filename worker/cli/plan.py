"""``expunge plan``: what a run would do; sends and stores nothing."""

import asyncio
import time
from typing import Any

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.batches import Description
from worker.domain.people import Act
from worker.embedded import has_data
from worker.intake.csv_file import CsvFile, Inspection
from worker.pipeline.admission import signed
from worker.pipeline.plan import Known, compared, look_into, plan_json
from worker.reports.advice import duration
from worker.settings import Settings, load_settings


def plan(
    file: session.File,
    column: session.Column = "customer_id",
    skip_bad_rows: session.SkipBadRows = False,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    rate: session.Rate = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Check a file and say what a run of it would do. Sends nothing."""
    settings = load_settings(environment=environment, merchant_id=merchant, rate_limit=rate)
    with session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows) as csv_file:
        result = plan_json(
            csv_file.inspect(), settings.target, settings.rate_limit, _known(csv_file, Caller(settings, me, Act.LOOK))
        )
    if json:
        emit(result)
        return
    for name, value in result.items():
        if name != "invalid_lines":
            typer.echo(f"{_words(name):<18}{_shown(name, value)}")
    for invalid in result["invalid_lines"]:
        typer.echo(f"  line {invalid['line']}: {invalid['problem']}")
    if len(result["invalid_lines"]) < result["invalid"]:
        typer.echo(f"  and {result['invalid'] - len(result['invalid_lines']):,} more")


def _known(csv_file: CsvFile, caller: Caller) -> Known | None:
    """``None`` where there is no store to ask."""
    settings = caller.settings
    home = session.embedded_home(settings, simulate=False)
    if home is not None and not has_data(home):
        return None
    with caller.audited(), session.running_redis(settings) as reachable:
        return asyncio.run(_ask(csv_file, caller, reachable))


async def _ask(csv_file: CsvFile, caller: Caller, settings: Settings) -> Known:
    async with session.opened_store(settings) as store:
        await caller.admitted(store)  # it tells who is on hold, and who was deleted
        return await look_into(csv_file, store.batches, store.holds, store.ledger, settings.target, time.time())


def announce(
    csv_file: CsvFile, caller: Caller, settings: Settings, description: Description, *, again: bool
) -> Description:
    """The first step of a submission: who makes it, and on one line what it is about to do, unless it exists already.

    Returns the description with its submitter. Raises ``RefusedError`` if it is not for them to submit.
    """
    mine, known = asyncio.run(_begin(csv_file, caller, settings, description, again))
    if known is not None:
        say(_line(csv_file.inspect(), settings, known))
    return mine


async def _begin(
    csv_file: CsvFile, caller: Caller, settings: Settings, description: Description, again: bool
) -> tuple[Description, Known | None]:
    async with session.opened_store(settings) as store:
        mine = signed(description, await caller.admitted(store))
        existing = await store.batches.known(mine)
        if existing is not None and not (existing.known_by == "file" and again):
            return mine, None
        return mine, await look_into(csv_file, store.batches, store.holds, store.ledger, settings.target, time.time())


def _line(inspection: Inspection, settings: Settings, known: Known) -> str:
    planned = plan_json(inspection, settings.target, settings.rate_limit, known)
    special = ("invalid", "duplicates", "on_hold", "deleted_earlier")
    counts = [f"{inspection.rows:,} rows", *(f"{planned[name]:,} {_words(name)}" for name in special if planned[name])]
    takes = f"{planned['to_send']:,} to send in about {duration(planned['seconds'])} at {settings.rate_limit}"
    return f"{planned['plan']}: {', '.join(counts)}; {takes}; {compared(known)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown (no results store yet)"
    if name == "seconds":
        return duration(value)
    if name == "earlier":
        return compared(Known(0, 0, **value))
    return f"{value:,}" if isinstance(value, int) else str(value)
