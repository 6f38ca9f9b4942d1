"""``expunge status``, ``watch``, ``batches``, ``pause``, ``resume`` and ``cancel``: how batches stand."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.output import ADVICE, ProgressDisplay, batch_json, counts, emit, say, state_of, tally_lines
from worker.domain.batches import Batch, BatchState
from worker.pipeline import control
from worker.reports.columns import rfc3339
from worker.settings import load_settings
from worker.wiring import Store

_POLL = 0.5  # seconds


def exit_code(batch: Batch) -> int:
    """What a batch means to a script (SPEC 7): 0 all gone, 3 not all, 4 paused or cancelled by a guard."""
    if batch.state in (BatchState.PAUSED, BatchState.AWAITING_APPROVAL):
        return 4
    return 0 if batch.state is BatchState.COMPLETED and batch.tally.all_gone else 3


def status(batch_id: session.BatchId, json: session.Json = False, simulate: session.Simulated = False) -> None:
    """Show how a batch stands."""
    settings = load_settings()
    with session.running_redis(settings, simulate=simulate) as reachable:

        async def read() -> tuple[Batch, int]:
            async with session.opened_store(reachable) as store:
                batch = await session.found(store, batch_id)
                return batch, await session.serving(store, batch)

        batch, workers = asyncio.run(read())
    if json:
        emit(batch_json(batch) | {"workers": workers})
        return
    _print_status(batch)
    if batch.goes_on and not workers and not simulate:
        say(session.no_worker(batch.description.target))


def _print_status(batch: Batch) -> None:
    description = batch.description
    typer.echo(f"batch {batch.id}: {state_of(batch)}")
    typer.echo(f"  {description.source}, {description.rows:,} rows, {session.shown_target(description.target)}")
    ended = f", ended {rfc3339(batch.ended_at)}" if batch.ended_at else ""
    typer.echo(f"  submitted {rfc3339(batch.created_at)}{ended}")
    if batch.state_reason is not None:
        typer.echo(f"  {_pause_of(batch)}")
    for line in tally_lines(batch.tally):
        typer.echo(line)


def _pause_of(batch: Batch) -> str:
    why = ADVICE.get(batch.state_reason, "") if batch.state_reason else ""
    if batch.probe_at is not None:
        return f"{why}; next at {rfc3339(batch.probe_at)}"
    return f"{why}. To go on: expunge resume {batch.id}"


def watch(batch_id: session.BatchId, json: session.Json = False, simulate: session.Simulated = False) -> None:
    """Show a batch's progress until it ends or is paused; the exit code says how."""
    settings = load_settings()
    with session.running_redis(settings, simulate=simulate) as reachable:

        async def until_ended() -> Batch:
            async with session.opened_store(reachable) as store:
                batch = await session.found(store, batch_id)
                follower = session.Follower(store, session.embedded_home(settings, simulate=simulate))
                with ProgressDisplay() as display:
                    while batch.goes_on:
                        display.show(batch)
                        await asyncio.sleep(_POLL)
                        batch = await follower.look(batch)
                return batch

        batch = asyncio.run(until_ended())
    if json:
        emit(batch_json(batch))
    else:
        say(f"batch {batch.id}: {state_of(batch)}: {counts(batch.tally)}")
        if batch.state_reason is not None:
            say(f"paused: {_pause_of(batch)}")
    raise typer.Exit(exit_code(batch))


def batches(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    json: session.Json = False,
    simulate: session.Simulated = False,
) -> None:
    """List the newest batches."""
    with session.running_redis(load_settings(), simulate=simulate) as reachable:

        async def read() -> list[Batch]:
            async with session.opened_store(reachable) as store:
                return await store.batches.recent(limit)

        listed = asyncio.run(read())
    if json:
        emit({"batches": [batch_json(batch) for batch in listed]})
        return
    for batch in listed:
        when, source = rfc3339(batch.created_at), batch.description.source
        typer.echo(f"{batch.id}  {when}  {state_of(batch):<32}  {batch.description.rows:>9,}  {source}")
    if not listed:
        say("there are no batches yet")


def pause(batch_id: session.BatchId, simulate: session.Simulated = False) -> None:
    """Stop sending; when this returns, nothing more is sent until `expunge resume`."""

    async def act(store: Store) -> None:
        await control.pause(store.batches, batch_id)

    _control(batch_id, simulate, act)


def resume(batch_id: session.BatchId, simulate: session.Simulated = False) -> None:
    """Go on with a paused batch."""

    async def act(store: Store) -> None:
        await control.resume(store.batches, store.feeder, batch_id)

    _control(batch_id, simulate, act)


def cancel(batch_id: session.BatchId, simulate: session.Simulated = False) -> None:
    """End a batch for good: nothing more is sent, and what is pending is skipped. It cannot be resumed."""

    async def act(store: Store) -> None:
        told = False

        def in_flight(shards: int) -> None:
            nonlocal told
            if not told:
                say(f"nothing more is sent; waiting for what {shards} shards have in flight ...")
            told = True

        await control.cancel(store.batches, store.shards, batch_id, in_flight)

    _control(batch_id, simulate, act)


def _control(batch_id: str, simulate: bool, act: Callable[[Store], Coroutine[None, None, None]]) -> None:
    with session.running_redis(load_settings(), simulate=simulate) as reachable:

        async def run() -> Batch:
            async with session.opened_store(reachable) as store:
                await session.found(store, batch_id)
                await act(store)
                return await session.found(store, batch_id)

        batch = asyncio.run(run())
    say(f"batch {batch.id}: {state_of(batch)}: {counts(batch.tally)}")
