"""``expunge audit``: who did what to which batch, and when."""

import asyncio
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.audit import Entry
from worker.domain.batch_ids import is_batch_id
from worker.domain.errors import UsageError
from worker.domain.people import Act
from worker.reports.as_json import entry_json
from worker.reports.columns import rfc3339
from worker.settings import load_settings


def audit(
    batch_id: Annotated[str | None, typer.Option("--batch", metavar="BATCH", help="Only of this batch.")] = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Show who did what to which batch, and what was refused; the newest last."""
    if batch_id is not None and not is_batch_id(batch_id):
        raise UsageError(f"'{batch_id}' is no batch's ID; `expunge batches` lists them, and the trail keeps older ones")
    caller = Caller(load_settings(), me, Act.LOOK, batch_id)
    with caller.audited(), session.running_redis(caller.settings) as reachable:

        async def read() -> list[Entry]:
            async with session.opened_store(reachable) as store:
                await caller.admitted(store)
                return [entry async for entry in store.audit.entries(batch_id)]

        entries = asyncio.run(read())
    if json:
        emit({"entries": [entry_json(entry) for entry in entries]})
        return
    for entry in entries:
        detail = " ".join(f"{name}={value}" for name, value in entry.detail.items() if value)
        who, batch = entry.actor or "-", entry.batch_id or "-"
        typer.echo(f"{rfc3339(entry.at)}  {who:<16}  {entry.deed:<13}  {batch:<13}  {detail}".rstrip())
    if not entries:
        say(f"nothing is noted of batch {batch_id}" if batch_id else "nothing is noted yet")
