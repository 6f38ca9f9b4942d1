"""``expunge purge``: removes an ended batch at once, and its report with it."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.errors import Guard, RefusedError
from worker.domain.people import Act
from worker.embedded import rewrite
from worker.pipeline import purge as pipeline
from worker.pipeline.purge import Removable
from worker.pipeline.telling import untold
from worker.settings import load_settings
from worker.wiring import Store


def purge(
    batch_id: session.BatchId,
    confirm: Annotated[str | None, typer.Option(metavar="BATCH", help="The batch's ID once more.")] = None,
    me: session.As = None,
    json: session.Json = False,
    simulate: session.Simulated = False,
) -> None:
    """Remove an ended batch and its report for good, before its retention is over. It cannot be undone."""
    caller = Caller(load_settings(), me, Act.PURGE, batch_id, simulate)
    with caller.audited(), session.running_redis(caller.settings, simulate=simulate) as reachable:

        async def act() -> tuple[Removable, int] | None:
            async with session.opened_store(reachable) as store:
                return await _purge(store, caller, confirm)

        gone, home = asyncio.run(act()), session.embedded_home(caller.settings, simulate=simulate)
        if gone is None:
            if home is not None:
                rewrite(home)  # a purge may have been killed just before it
            raise session.no_batch(batch_id)
        removed, count = gone
        say(f"batch {removed.batch_id} is gone: {removed.records:,} records, {count:,} keys")
        _say_what_files_have(home)
    if json:
        emit({"batch": removed.batch_id, "records": removed.records, "keys": count})


def _say_what_files_have(home: Path | None) -> None:
    """Redis' own files have what was removed until they are rewritten: of an embedded server, they are ours."""
    if home is None:
        say("Redis' append-only file has it until it is rewritten (redis-cli BGREWRITEAOF), and backups have it")
    elif not rewrite(home):
        say(f"warning: the append-only file in {home} was not rewritten and still has it; valkey.log there may say why")


async def _purge(store: Store, caller: Caller, confirm: str | None) -> tuple[Removable, int] | None:
    batch_id = caller.batch_id or ""
    name = await caller.admitted(store)
    removable = await pipeline.find(store.batches, store.purging, batch_id)
    if removable is None:
        return None
    for host in await untold(store.callbacks, store.audit, caller.settings.callbacks, batch_id):
        say(f"warning: callback {host} has not been told all of batch {batch_id} yet, and will not be after this")
    _guard(removable, confirm)
    return removable, await pipeline.purge(store.purging, removable, name)


def _guard(removable: Removable, confirm: str | None) -> None:
    """The batch's ID is typed or given; else nothing happens."""
    batch_id = removable.batch_id
    if confirm is None:
        if not sys.stdin.isatty():
            raise RefusedError(
                f"nothing was removed; a purge cannot be undone, and the report goes with the batch: save it, "
                f"then add --confirm {batch_id}",
                Guard.CONFIRMATION,
            )
        confirm = _ask(removable)
    if confirm.strip() != batch_id:
        raise RefusedError(
            f"nothing was removed; the batch is {batch_id}, which is not what was confirmed", Guard.CONFIRMATION
        )


def _ask(removable: Removable) -> str:
    of = f" of {removable.batch.description.source}" if removable.batch is not None else ""
    say(f"This removes batch {removable.batch_id}, {removable.records:,} records{of}, and its report.")
    say("It cannot be undone.")
    try:
        return str(typer.prompt("Type the ID of the batch to go on", err=True, default="", show_default=False))
    except typer.Abort:
        say("\nnothing was removed")
        raise
