"""``expunge hold add``, ``remove`` and ``list``: customers that must not be deleted now (SPEC 6)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.batches import Batch
from worker.domain.errors import InputError, UsageError
from worker.domain.holds import Hold, Term, read_ground
from worker.domain.people import Act
from worker.intake.csv_file import Inspection
from worker.intake.problems import problem_of
from worker.pipeline.accept import describe
from worker.pipeline.admission import signed
from worker.pipeline.holds import (
    MOST,
    HeldBack,
    held_back,
    overlapping,
    place,
    refuse_those_not_held,
    release,
    some,
    standing,
    until,
)
from worker.pipeline.submission import moment
from worker.reports.as_json import hold_json
from worker.reports.columns import rfc3339
from worker.settings import Settings, load_settings
from worker.store.holds import Overlaps
from worker.wiring import Store

CustomerId: TypeAlias = Annotated[str | None, typer.Argument(metavar="[ID]", help="One customer's ID.")]
HoldFile: TypeAlias = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="CSV file of customer IDs instead, or - for stdin.")
]


class _Customers(NamedTuple):
    """Whom a command is about, each once."""

    ids: list[str]
    places: list[str]
    """Where the user finds each of them."""


def hold() -> None:
    """Keep customers from being deleted: add, remove or list holds."""


def add(
    ground: Annotated[str, typer.Option(metavar="TEXT", help="Why; shown in lists and reports.")],
    customer_id: CustomerId = None,
    file: HoldFile = None,
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
    term = _term(ground, until)
    customers = _customers(customer_id, file, column, settings)
    caller = Caller(settings, me, Act.HOLD)
    with caller.audited():
        with session.running_redis(settings, start=True) as reachable:
            placed = asyncio.run(_add(caller, reachable, customers.ids, term, replace))
        if isinstance(placed, Overlaps):
            raise overlapping(placed, customers.places)
    if json:
        emit(_of(settings) | {"on_hold": len(customers.ids), "changed": placed})
    say(f"{len(customers.ids):,} on hold {_where(settings)}, {standing(term)}; {placed:,} of these new or changed")


async def _add(caller: Caller, reachable: Settings, ids: Sequence[str], term: Term, replace: bool) -> int | Overlaps:
    async with session.opened_store(reachable) as store:
        return await place(store.holds, ids, term, replace=replace, actor=await caller.admitted(store))


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
        found, batch = asyncio.run(_remove(caller, reachable, customers, resubmit, confirm))
    if json:
        records = [{"batch": each.batch_id, "row": each.row, "customer_id": each.customer_id} for each in found]
        emit(
            _of(settings)
            | {"released": len(customers.ids), "held_back": records, "resubmitted": batch.id if batch else None}
        )
    else:
        for each in found:
            typer.echo(f"{each.batch_id}  {each.row:>9}  {each.customer_id}")
    say(
        f"{len(customers.ids):,} released {_where(settings)}; "
        f"{len(found):,} records of ended batches had been held back"
    )
    if batch:
        say(f"batch {batch.id}: {batch.description.rows:,} customers resubmitted")


async def _remove(
    caller: Caller, reachable: Settings, customers: _Customers, resubmit: bool, confirm: str | None
) -> tuple[list[HeldBack], Batch | None]:
    async with session.opened_store(reachable) as store:
        name = await caller.admitted(store)
        await refuse_those_not_held(store.holds, customers.ids, customers.places)
        found = await held_back(store.batches, reachable.target, customers.ids)
        if resubmit and found:
            ids = list(dict.fromkeys(each.customer_id for each in found))
            submitter = Caller(caller.settings, caller.name, Act.SUBMIT)
            return found, await _resubmit(store, submitter, reachable, customers, ids, confirm)
        await release(store.holds, customers.ids, customers.places, name)
        return found, None


async def _resubmit(
    store: Store, caller: Caller, reachable: Settings, customers: _Customers, ids: Sequence[str], confirm: str | None
) -> Batch:
    """Release, and make a batch of what was held back; the guards of a submission come first."""
    name = await caller.admitted(store)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "released.csv"
        path.write_text("\n".join(["customer_id", *ids]) + "\n")
        with session.open_csv(str(path), "customer_id", reachable, skip_bad_rows=False) as csv_file:
            description = signed(describe(csv_file.inspect(), reachable.rules), name)
            session.guard_production(description, confirm)
            await release(store.holds, customers.ids, customers.places, name)
            batch, _ = await session.take_in(store, csv_file, description, again=True)
            await session.say_what_it_waits_for(store, batch, reachable)
    return batch


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


def _term(ground: str, until: str | None) -> Term:
    try:
        return Term(read_ground(ground), moment("--until", until))
    except ValueError as error:
        raise UsageError(f"--ground: {error}") from None


def _customers(customer_id: str | None, file: str | None, column: str, settings: Settings) -> _Customers:
    """Raises ``UsageError`` when any ID is wrong."""
    if (customer_id is None) == (file is None):
        raise UsageError("name one customer's ID, or a file with --file")
    if customer_id is not None:
        if not settings.id_rule.accepts(customer_id):
            raise UsageError(f"the ID is not acceptable: {problem_of(customer_id)}; nothing was done")
        return _Customers([customer_id], ["the customer"])
    with session.open_csv(file or "", column, settings, skip_bad_rows=False) as csv_file:
        inspection = csv_file.inspect()
        _check(inspection)
        rows = [row for row in csv_file.rows() if row.reason is None]
    return _Customers([row.customer_id for row in rows], [f"row {row.number} of {inspection.source}" for row in rows])


def _check(inspection: Inspection) -> None:
    if inspection.invalid:
        problems = [f"line {line} {problem}" for line, problem in inspection.invalid_samples]
        raise InputError(inspection.source, f"has invalid IDs: {some(problems, inspection.invalid)}; nothing was done")
    if inspection.valid > MOST:
        raise InputError(inspection.source, f"has more than {MOST:,} customers: split it; nothing was done")


def _of(settings: Settings) -> dict[str, Any]:
    return {"environment": settings.environment.value, "merchant": settings.merchant_id}


def _where(settings: Settings) -> str:
    """Holds of one merchant and environment do not count in another, and nobody shall think so."""
    return f"for merchant '{settings.merchant_id}' in {settings.environment}"
