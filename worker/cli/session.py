"""What commands share: where the results store is, how it is opened, which batch is meant, what guards a submission."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import typer
from pydantic import SecretStr
from redis.exceptions import RedisError

from worker.cli.output import awaits, say
from worker.domain.batch_ids import is_batch_id
from worker.domain.batches import Batch, BatchState, Description, Environment, Lane, Target
from worker.domain.errors import Guard, RefusedError, UnreachableError, UsageError
from worker.embedded import embedded_server, has_data, revive
from worker.intake.csv_file import CsvFile
from worker.pipeline import submission
from worker.settings import Settings
from worker.store.connection import problems, readable_errors
from worker.store.shards import Presence
from worker.wiring import NO_REDIS, Store, open_store, redis_url

CONNECT_TIMEOUT = 5.0
_PATIENCE = 3.0  # seconds without an answer of Redis after which that is said

File: TypeAlias = Annotated[
    str, typer.Argument(help="CSV file of customer IDs (.csv or .csv.gz), or - for standard input.")
]
BatchId: TypeAlias = Annotated[
    str, typer.Argument(metavar="BATCH", help="ID of the batch, as `expunge batches` lists it.")
]
Column: TypeAlias = Annotated[str, typer.Option("--column", metavar="NAME", help="Column that holds the customer IDs.")]
SkipBadRows: TypeAlias = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Take rows that are no CSV as skipped instead of refusing the file.")
]
Merchant: TypeAlias = Annotated[str | None, typer.Option(metavar="ID", help="Merchant whose customers are meant.")]
EnvironmentOption: TypeAlias = Annotated[
    Environment | None, typer.Option("--environment", help="The upstream's environment; sandbox unless it is set.")
]
Reference: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Your name for the batch: the same one twice is one batch.")
]
LaneOption: TypeAlias = Annotated[
    Lane, typer.Option("--lane", help="`urgent` goes ahead of `bulk` where batches share workers and a rate.")
]
Due: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="When it is to be done: 2026-12-24, 2026-12-24T18:00:00Z, +30d or +1month."),
]
Keep: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", metavar="NAME", help="Column to store besides the IDs, for reports without the file; repeatable."
    ),
]
Confirm: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="N|PLAN", help="In production: exactly the number of records, or the ID of the plan."),
]
As: TypeAlias = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who you are; your token is in EXPUNGE_TOKEN.")
]
Again: TypeAlias = Annotated[bool, typer.Option("--again", help="Take a file that was taken before.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout (docs/json.md).")]
Simulated: TypeAlias = Annotated[
    bool, typer.Option("--simulate", help="Look into the rehearsals' store, not the real one.")
]
Rate: TypeAlias = Annotated[
    str | None, typer.Option(metavar="RATE", help="Limit for all workers together, such as 50/s or 50/s,1000/m.")
]


def open_csv(file: str, column: str, settings: Settings, *, skip_bad_rows: bool) -> CsvFile:
    """The input, by the settings' rules."""
    return CsvFile.open(
        file, column=column, rule=settings.id_rule, skip_bad_rows=skip_bad_rows, max_rows=settings.max_batch
    )


def embedded_home(settings: Settings, *, simulate: bool) -> Path | None:
    """The folder of the embedded server, if that is the store; rehearsals keep theirs apart from any real one."""
    if simulate:
        return settings.home / "simulate"
    return settings.home if settings.redis_url is None else None


@contextmanager
def running_redis(settings: Settings, *, simulate: bool = False, start: bool = False) -> Iterator[Settings]:
    """Settings with the address of a store: the one that is set, else the embedded server of the home.

    Without ``start``, a home that never kept anything is refused rather than made.
    """
    home = embedded_home(settings, simulate=simulate)
    if home is None:
        yield settings
        return
    if not start and not has_data(home):
        raise UsageError(f"there is no store in {home}; " + ("no rehearsal was run there" if simulate else NO_REDIS))
    with embedded_server(home) as url:
        yield settings.model_copy(update={"redis_url": SecretStr(url), "broker_url": None})


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """The store; what Redis complains of becomes one line."""
    with readable_errors(redis_url(settings)):
        async with open_store(settings) as store:
            yield store


async def warn_of_problems(store: Store, settings: Settings) -> None:
    """Say what of Redis' configuration may lose records, or stops them from being sent."""
    for problem in await problems(store.redis, settings.replicas):
        say(f"warning: Redis: {problem}")


async def found(store: Store, batch_id: str) -> Batch:
    """The batch; raises ``UsageError`` if there is none."""
    batch = await store.batches.get(batch_id) if is_batch_id(batch_id) else None
    if batch is None:
        raise no_batch(batch_id)
    return batch


def no_batch(batch_id: str) -> UsageError:
    """What to say of an ID that no batch has."""
    return UsageError(f"there is no batch '{batch_id}'; `expunge batches` lists them, and they expire")


async def serving(store: Store, batch: Batch) -> int:
    """How many worker processes are set up for the batch, whatever this command is set up for."""
    return await Presence(store.redis, batch.description.target).count()


async def say_what_it_waits_for(store: Store, batch: Batch, settings: Settings) -> None:
    """Behind a submission: somebody must approve it, or no worker is set up for it."""
    if batch.state is BatchState.AWAITING_APPROVAL:
        say(f"accepted; {awaits(batch)}")
    elif batch.goes_on and not await serving(store, batch):
        say(f"accepted, but {no_worker(batch.description.target, settings)}")


def no_worker(target: Target, settings: Settings) -> str:
    """What to say when nobody works on a batch that could go on."""
    missing = f"no worker is running for {shown_target(target)}"
    if target == settings.target:
        return f"{missing}: start `expunge worker`"
    return (
        f"{missing}, and here is set {shown_target(settings.target)}: start `expunge worker` with what the batch needs"
    )


def shown_target(target: Target) -> str:
    """Where a batch's customers are, for a person."""
    upstream = f"upstream {target.upstream}" if target.upstream else "no upstream"
    return f"merchant '{target.merchant}' in {target.environment}, {upstream}"


class Follower:
    """Looks at a batch again and again, whatever becomes of Redis meanwhile.

    While it is away, the batch shows as it stood; an embedded server that died is started again.
    """

    def __init__(self, store: Store, home: Path | None) -> None:
        self._store = store
        self._home = home
        self._away = False

    async def look(self, batch: Batch) -> Batch:
        """The batch as it stands now; raises ``UsageError`` if it is gone, or its server cannot be started."""
        asking = asyncio.ensure_future(found(self._store, batch.id))
        await asyncio.wait([asking], timeout=_PATIENCE)
        if not asking.done():
            self._tell_away()
        try:
            now = await asking
        except RedisError:
            self._tell_away()
            if self._home is not None:
                await asyncio.to_thread(revive, self._home)
            return batch
        if self._away:
            say("Redis is back")
        self._away = False
        return now

    def _tell_away(self) -> None:
        if not self._away:
            say("Redis does not answer; nothing is lost, waiting for it ...")
        self._away = True


def guard_production(description: Description, confirm: str | None) -> None:
    """In production the number of records is typed, or it or the plan is given; else nothing happens (SPEC 6)."""
    refuse_unattended(description, confirm)
    target, rows = description.target, description.rows
    if confirm is not None or target.environment is not Environment.PRODUCTION:
        return
    say(f"This deletes {rows:,} customers of merchant '{target.merchant}' in production. It cannot be undone.")
    try:
        typed = typer.prompt("Type the number of records to go on", err=True, default="", show_default=False)
    except typer.Abort:
        say("\nnothing was sent")
        raise
    if typed.strip() != str(rows):
        raise RefusedError(
            f"production: nothing was sent; there are {rows:,} records, which is not what was typed", Guard.CONFIRMATION
        )


def refuse_unattended(description: Description, confirm: str | None) -> None:
    """As far as it takes nobody to decide: a confirmation that does not fit, or none where nobody can be asked."""
    submission.check_confirmation(description, confirm, asked=sys.stdin.isatty())


async def take_in(
    store: Store, csv_file: CsvFile, description: Description, *, again: bool
) -> tuple[Batch, str | None]:
    """Accept a file; returns the batch, and by what it was known if it existed before."""
    batch, known_by, fed = await submission.take_in(
        store.batches, store.holds, store.feeder, csv_file, description, again=again
    )
    say_if_not_fed(fed)
    return batch, known_by


def say_if_not_fed(fed: bool) -> None:
    """Behind a submission that is accepted while the broker takes no messages."""
    if not fed:
        say("accepted, but the broker takes no messages now; the batch begins when it does")


async def check_upstream(settings: Settings) -> None:
    """Refuse to begin when nothing listens at the upstream's address."""
    parts = urlsplit(settings.upstream_prefix)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        why = "it does not answer" if isinstance(error, TimeoutError) else os.strerror(error.errno or 0)
        raise UnreachableError(
            f"the upstream at {host}:{port} is not there ({why}); check EXPUNGE_UPSTREAM_URL"
        ) from None
    writer.close()
