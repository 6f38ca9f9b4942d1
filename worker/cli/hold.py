"""``expunge hold add``, ``remove`` and ``list``: customers that must not be deleted now (SPEC 6)."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.errors import UsageError
from worker.domain.holds import Hold, Term
from worker.domain.people import Act
from worker.pipeline.holds import (
    Gone,
    Release,
    deleted_earlier,
    place,
    release,
    release_and_resubmit,
    releasing,
    standing,
    too_late,
    until,
)
from worker.pipeline.naming import Customers, in_file, one, terms
from worker.pipeline.submission import Taken
from worker.reports.as_json import hold_json
from worker.reports.columns import rfc3339
from worker.settings import Settings, load_settings

CustomerId: TypeAlias = Annotated[str | None, typer.Argument(metavar="[ID]", help="One customer's ID.")]
HoldFile: TypeAlias = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="CSV file of customer IDs instead, or - for stdin.")
]


def hold() -> None:
    """Keep customers from being deleted: add, remove or list holds."""


def add(
    customer_id: CustomerId = None,
    file: HoldFile = None,
    ground: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why; shown in lists and reports."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Last day or moment of the hold, or +30d, +1month; else until removed."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Give holds that stand this ground and end.")] = False,
    column: session.Column = "customer_id",
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Put customers on hold; when this returns, none of them is sent any more."""
    settings = load_settings(environment=environment, merchant_id=merchant)
    customers = _customers(customer_id, file, column, settings)
    by = terms(customers, ground, until)
    caller = Caller(settings, me, Act.HOLD)
    with caller.audited(), session.running_redis(settings, start=True) as reachable:
        placed, gone = asyncio.run(_add(caller, reachable, customers, by, replace))
    if json:
        counts = {"on_hold": len(customers.ids), "changed": placed}
        emit(_of(settings) | counts | {"deleted_earlier": [each.as_json() for each in gone]})
    how = standing(by[0]) if len(set(by)) == 1 else f"by {len(set(by)):,} different grounds and ends"
    say(f"{len(customers.ids):,} on hold {_where(settings)}, {how}; {placed:,} of these new or changed")
    if gone:
        say(f"hint: {too_late(gone)}")


async def _add(
    caller: Caller, reachable: Settings, customers: Customers, by: Sequence[Term], replace: bool
) -> tuple[int, list[Gone]]:
    async with session.opened_store(reachable) as store:
        placed = await place(store.holds, customers, by, replace=replace, actor=await caller.admitted(store))
        return placed, await deleted_earlier(store.ledger, customers, time.time())


def remove(
    customer_id: CustomerId = None,
    file: HoldFile = None,
    resubmit: Annotated[bool, typer.Option("--resubmit", help="Make a new batch of the records it held back.")] = False,
    confirm: session.Confirm = None,
    column: session.Column = "customer_id",
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Release customers from hold, and list the records of ended batches that it held back."""
    settings = load_settings(environment=environment, merchant_id=merchant)
    if resubmit and settings.redis_url is None:
        raise UsageError("--resubmit needs workers elsewhere, and so EXPUNGE_REDIS_URL; nothing was released")
    if resubmit:
        _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    customers = _customers(customer_id, file, column, settings)
    caller = Caller(settings, me, Act.RELEASE)
    with caller.audited(), session.running_redis(settings) as reachable:
        ending, taken = asyncio.run(_remove(caller, reachable, customers, resubmit, confirm))
    if json:
        records = {"released": len(ending.ids), "held_back": [each.as_json() for each in ending.held_back]}
        emit(_of(settings) | records | {"resubmitted": taken.batch.id if taken else None})
    else:
        for each in ending.held_back:
            typer.echo(f"{each.batch_id}  {each.row:>9}  {each.customer_id}")
    say(
        f"{len(ending.ids):,} released {_where(settings)}; "
        f"{len(ending.held_back):,} records of ended batches had been held back"
    )
    if taken:
        before = "" if taken.known_by is None else " before"
        say(f"batch {taken.batch.id}: {taken.batch.description.rows:,} customers resubmitted{before}")


async def _remove(
    caller: Caller, reachable: Settings, customers: Customers, resubmit: bool, confirm: str | None
) -> tuple[Release, Taken | None]:
    async with session.opened_store(reachable) as store:
        name = await caller.admitted(store)
        ending = await releasing(store.holds, store.batches, reachable.target, customers, resubmit=resubmit)
        if not (resubmit and ending.held_back):
            await release(store.holds, ending, name)
            return ending, None
        await Caller(caller.settings, caller.name, Act.SUBMIT).admitted(store)
        taken = await release_and_resubmit(
            store.batches,
            store.holds,
            store.feeder,
            ending,
            reachable.rules,
            name,
            lambda description: session.guard_production(description, confirm),
        )
        session.say_if_not_fed(taken.fed)
        await session.say_what_it_waits_for(store, taken.batch, reachable)
        return ending, taken


def list_(
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """List the customers on hold, those first that are longest."""
    settings = load_settings(environment=environment, merchant_id=merchant)

    caller = Caller(settings, me, Act.LOOK)

    async def read() -> list[Hold]:
        async with session.opened_store(reachable) as store:
            await caller.admitted(store)
            return await store.holds.all()

    with caller.audited(), session.running_redis(settings) as reachable:
        found = asyncio.run(read())
    if json:
        emit(_of(settings) | {"holds": [hold_json(each) for each in found]})
        return
    for each in found:
        typer.echo(f"{rfc3339(each.since)}  {until(each.term):<26}  {each.customer_id}  {each.term.ground}")
    say(f"{len(found):,} on hold {_where(settings)}")


SUBCOMMANDS = {"add": add, "remove": remove, "list": list_}


def _customers(customer_id: str | None, file: str | None, column: str, settings: Settings) -> Customers:
    """Raises ``UsageError`` when any ID is wrong."""
    if (customer_id is None) == (file is None):
        raise UsageError("name one customer's ID, or a file with --file")
    if customer_id is not None:
        return one(customer_id, settings.id_rule)
    with session.open_csv(file or "", column, settings, skip_bad_rows=False) as csv_file:
        return in_file(csv_file)


def _of(settings: Settings) -> dict[str, Any]:
    return {"environment": settings.environment.value, "merchant": settings.merchant_id}


def _where(settings: Settings) -> str:
    """Holds of one merchant and environment do not count in another, and nobody shall think so."""
    return f"for merchant '{settings.merchant_id}' in {settings.environment}"
