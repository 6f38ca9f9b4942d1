"""``expunge status``, ``watch``, ``batches``, ``approve``, ``pause``, ``resume`` and ``cancel``: how batches stand."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer
from redis.exceptions import RedisError

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import (
    ProgressDisplay,
    awaits,
    counts,
    emit,
    say,
    state_of,
    tally_lines,
    to_go_on,
)
from worker.domain.batches import Batch, BatchState
from worker.domain.brakes import Despite
from worker.domain.deadlines import expected_end, is_on_time
from worker.domain.errors import Guard, RefusedError, UsageError
from worker.domain.people import Act
from worker.pipeline import control
from worker.pipeline.admission import FIRST_TOKEN
from worker.reports.advice import why_paused
from worker.reports.as_json import batch_json, status_json
from worker.reports.columns import rfc3339
from worker.settings import load_settings
from worker.wiring import Store

_POLL = 0.5  # seconds


def exit_code(batch: Batch) -> int:
    """What a batch means to a script (SPEC 7): 0 all gone, 3 not all, 4 paused or cancelled by a guard."""
    if batch.state in (BatchState.PAUSED, BatchState.AWAITING_APPROVAL):
        return 4
    return 0 if batch.state is BatchState.COMPLETED and batch.tally.all_gone else 3


def status(
    batch_id: session.BatchId,
    me: session.As = None,
    json: session.Json = False,
    simulate: session.Simulated = False,
) -> None:
    """Show how a batch stands."""
    settings = load_settings()
    caller = Caller(settings, me, Act.LOOK, batch_id, simulate)
    with caller.audited(), session.running_redis(settings, simulate=simulate) as reachable:

        async def read() -> tuple[Batch, int]:
            async with session.opened_store(reachable) as store:
                await caller.admitted(store)
                found = await session.found(store, batch_id)
                return found, await session.serving(store, found)

        batch, workers = asyncio.run(read())
    rate, now = settings.rate_limit.sustained, time.time()
    if json:
        emit(status_json(batch, workers, rate, now))
        return
    _print_status(batch, expected_end(batch, rate, now))
    if batch.goes_on and not workers and not simulate:
        say(session.no_worker(batch.description.target, settings))


def _print_status(batch: Batch, expected: float | None) -> None:
    description = batch.description
    typer.echo(f"batch {batch.id}: {state_of(batch)}")
    target = session.shown_target(description.target)
    typer.echo(f"  {description.source}, {description.rows:,} rows, {target}")
    by = f" by {description.submitted_by}" if description.submitted_by else ""
    ended = f", ended {rfc3339(batch.ended_at)}" if batch.ended_at else ""
    typer.echo(f"  submitted {rfc3339(batch.created_at)}{by}{ended}")
    if batch.approved_at:
        typer.echo(f"  approved {rfc3339(batch.approved_at)} by {batch.approved_by}")
    if batch.state is BatchState.AWAITING_APPROVAL:
        typer.echo(f"  sha256 {description.sha256}")
        typer.echo(f"  {awaits(batch)}")
    if description.due is not None:
        typer.echo(f"  due {rfc3339(description.due)}: {_punctuality(batch, expected)}")
    if batch.state_reason is not None:
        typer.echo(f"  {_pause_of(batch)}")
    if description.retry_of is not None:
        typer.echo(f"  sends again what could be retried of batch {description.retry_of}")
    if batch.retried_by is not None:
        typer.echo(f"  what could be retried is sent again by batch {batch.retried_by}")
    if batch.canary_left:
        typer.echo(f"  a canary of {description.brakes.canary} goes first; {batch.canary_left} of it are still to come")
    for line in tally_lines(batch.tally):
        typer.echo(line)


def _punctuality(batch: Batch, expected: float | None) -> str:
    if expected is None:
        return "not in time as things stand, since it does not go on by itself"
    in_time = "in time" if is_on_time(batch, expected) else "too late"
    return in_time if batch.ended_at else f"{in_time} at the present pace, which ends {rfc3339(expected)}"


def _pause_of(batch: Batch) -> str:
    if batch.probe_at is not None:
        return f"{why_paused(batch)}; next at {rfc3339(batch.probe_at)}"
    return f"{why_paused(batch)}. To go on: {to_go_on(batch)}"


def watch(
    batch_id: session.BatchId,
    me: session.As = None,
    json: session.Json = False,
    simulate: session.Simulated = False,
) -> None:
    """Show a batch's progress until it ends, is paused or waits for approval; the exit code says how."""
    settings = load_settings()
    caller = Caller(settings, me, Act.LOOK, batch_id, simulate)
    with caller.audited(), session.running_redis(settings, simulate=simulate) as reachable:

        async def until_ended() -> Batch:
            async with session.opened_store(reachable) as store:
                await caller.admitted(store)
                batch, told = await session.found(store, batch_id), simulate
                follower = session.Follower(store, session.embedded_home(settings, simulate=simulate))
                with ProgressDisplay() as display:
                    while batch.goes_on:
                        display.show(batch)
                        await asyncio.sleep(_POLL)
                        batch = await follower.look(batch)
                        if not told and batch.goes_on and not await _served(store, batch):
                            say(session.no_worker(batch.description.target, settings))
                            told = True
                return batch

        batch = asyncio.run(until_ended())
    if json:
        emit(batch_json(batch))
    else:
        say(f"batch {batch.id}: {state_of(batch)}: {counts(batch.tally)}")
        if batch.state is BatchState.AWAITING_APPROVAL:
            say(awaits(batch))
        if batch.state_reason is not None:
            say(f"paused: {_pause_of(batch)}")
    raise typer.Exit(exit_code(batch))


async def _served(store: Store, batch: Batch) -> bool:
    """Whether anybody works on it, as far as Redis can tell."""
    try:
        return await session.serving(store, batch) > 0
    except RedisError:
        return True


def batches(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    me: session.As = None,
    json: session.Json = False,
    simulate: session.Simulated = False,
) -> None:
    """List the newest batches."""
    caller = Caller(load_settings(), me, Act.LOOK, simulate=simulate)
    with caller.audited(), session.running_redis(caller.settings, simulate=simulate) as reachable:

        async def read() -> list[Batch]:
            async with session.opened_store(reachable) as store:
                await caller.admitted(store)
                return await store.batches.recent(limit)

        listed = asyncio.run(read())
    if json:
        emit({"batches": [batch_json(batch) for batch in listed]})
        return
    for batch in listed:
        when, about = rfc3339(batch.created_at), batch.description
        of = f"{about.target.environment.value} {about.target.merchant}"
        typer.echo(f"{batch.id}  {when}  {state_of(batch):<32}  {about.rows:>9,}  {of}  {about.source}")
    if not listed:
        say("there are no batches yet")


def approve(
    batch_id: session.BatchId,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Only if the submitted file has this SHA-256, as sha256sum says.")
    ] = None,
    me: session.As = None,
) -> None:
    """Let a batch run that somebody else submitted, and that waits for this."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError("--sha256: must be 64 hex digits, as `sha256sum FILE` prints them")

    async def act(store: Store, batch: Batch, name: str | None) -> None:
        if name is None:
            raise RefusedError(
                f"an approval needs a name, and nobody has one; the first token is made by: {FIRST_TOKEN}",
                Guard.APPROVAL,
            )
        await control.approve(store.batches, store.feeder, batch.id, name, sha256=sha256)

    _control(Caller(load_settings(), me, Act.APPROVE, batch_id), act)


def pause(batch_id: session.BatchId, me: session.As = None, simulate: session.Simulated = False) -> None:
    """Stop sending; when this returns, nothing more is sent until `expunge resume`."""

    async def act(store: Store, batch: Batch, name: str | None) -> None:
        await control.pause(store.batches, batch.id, name)

    _control(Caller(load_settings(), me, Act.PAUSE, batch_id, simulate), act)


def resume(
    batch_id: session.BatchId,
    despite: Annotated[Despite | None, typer.Option(help="Go on although this brake holds the batch.")] = None,
    me: session.As = None,
    simulate: session.Simulated = False,
) -> None:
    """Go on with a paused batch."""

    async def act(store: Store, batch: Batch, name: str | None) -> None:
        await control.resume(store.batches, store.feeder, batch.id, name, despite=despite)

    _control(Caller(load_settings(), me, Act.RESUME, batch_id, simulate), act)


def cancel(batch_id: session.BatchId, me: session.As = None, simulate: session.Simulated = False) -> None:
    """End a batch for good: nothing more is sent, and what is pending is skipped. It cannot be resumed."""

    async def act(store: Store, batch: Batch, name: str | None) -> None:
        told = False

        def in_flight(shards: int) -> None:
            nonlocal told
            if not told:
                say(f"nothing more is sent; waiting for what {shards} shards have in flight ...")
            told = True

        await control.cancel(store.batches, store.shards, batch.id, in_flight, name)

    _control(Caller(load_settings(), me, Act.CANCEL, batch_id, simulate), act)


def _control(caller: Caller, act: Callable[[Store, Batch, str | None], Coroutine[None, None, None]]) -> None:
    with caller.audited(), session.running_redis(caller.settings, simulate=caller.simulate) as reachable:

        async def run() -> Batch:
            async with session.opened_store(reachable) as store:
                batch = await session.found(store, caller.batch_id or "")
                await act(store, batch, await caller.admitted(store, batch))
                return await session.found(store, batch.id)

        batch = asyncio.run(run())
    say(f"batch {batch.id}: {state_of(batch)}: {counts(batch.tally)}")
