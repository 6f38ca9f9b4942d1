"""``expunge doctor``: checks a deployment's parts, and says what to mend."""

import asyncio
import time
from collections.abc import AsyncIterator

import typer

from worker.cli import session
from worker.cli.output import emit
from worker.domain.batches import Environment
from worker.domain.callbacks import Standing
from worker.domain.errors import ExpungeError
from worker.queue import events_queue_of
from worker.reports.advice import duration
from worker.settings import Settings, load_settings
from worker.store.connection import problems, shown
from worker.wiring import broker_url, redis_url

_OVERDUE = 300.0  # seconds; a gathering whose maker died has another one in a minute
_STUCK = 600.0  # seconds; a callback that is away for less is mended by trying again


def doctor(json: session.Json = False) -> None:
    """Check settings, Redis, workers and upstream. Exit code 2 if something must be mended."""
    settings = load_settings()
    found = asyncio.run(_all(settings))
    bad = any(not good for good, _ in found)
    if json:
        emit({"ok": not bad, "checks": [{"ok": good, "text": text} for good, text in found]})
    else:
        for good, text in found:
            typer.echo(f"{'ok  ' if good else 'FAIL'}  {text}")
    raise typer.Exit(2 if bad else 0)


async def _all(settings: Settings) -> list[tuple[bool, str]]:
    parts = (_settings(settings), _redis(settings), _upstream(settings))
    return [check for part in parts async for check in part]


async def _settings(settings: Settings) -> AsyncIterator[tuple[bool, str]]:
    yield True, f"settings: {settings.environment.value}, rate {settings.rate_limit}, merchant '{settings.merchant_id}'"
    if settings.digest_key is None and settings.environment is Environment.PRODUCTION:
        yield False, "EXPUNGE_DIGEST_KEY is not set: the key of the ledger's digests lies in Redis beside them"


async def _redis(settings: Settings) -> AsyncIterator[tuple[bool, str]]:
    try:
        url = redis_url(settings)
        async with session.opened_store(settings) as store:
            await store.redis.ping()
            found, workers = await problems(store.redis, settings.replicas), await store.presence.count()
            overdue = await store.gatherer.gatherings.overdue()
            told = [(callback.host, await store.callbacks.standing(callback)) for callback in settings.callbacks]
    except ExpungeError as error:
        yield False, str(error)
        return
    yield True, f"Redis at {shown(url)} answers"
    queue, broker = events_queue_of(settings.target), shown(broker_url(settings))
    yield True, f"events: Celery producers send expunge.enqueue_customers to the queue {queue} at {broker}"
    if overdue > _OVERDUE:
        yield False, _not_a_batch(overdue)
    for problem in found:
        yield False, f"Redis: {problem}"
    yield (
        workers > 0,
        f"{workers} worker processes are alive" if workers else session.no_worker(settings.target, settings),
    )

    for host, standing in told:
        yield _callback(host, standing, time.time())


def _not_a_batch(seconds: float) -> str:
    who = "a worker, web or a listener makes it: one must run, and its log says what failed"
    return f"events that were taken should be a batch since {duration(seconds)}; {who} (`events were not made a batch`)"


def _callback(host: str, standing: Standing | None, now: float) -> tuple[bool, str]:
    if standing is None:
        return True, f"callback {host}: no worker has begun to tell it"
    if standing.stopped:
        return False, f"callback {host} answered 410: it is told again when a worker is restarted"
    if standing.since is None:
        return True, f"callback {host} takes what it is told"
    away = now - standing.since
    text = f"callback {host} {standing.problem}; it has taken nothing for {duration(away)}, tries: {standing.failures}"
    return away < _STUCK, f"{text}; see expunge events test-callback"


async def _upstream(settings: Settings) -> AsyncIterator[tuple[bool, str]]:
    try:
        await session.check_upstream(settings)
        yield True, f"the upstream at {settings.upstream_url} accepts connections"
    except ExpungeError as error:
        yield False, str(error)
