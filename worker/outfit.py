"""Builds from settings what works on batches and reads events, and closes it.

Apart from ``worker.wiring``, since it takes long to import, and most commands only look at the store.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.callbacks.client import Poster, open_poster
from worker.callbacks.message import Signer
from worker.domain.events import MOST_CUSTOMERS, EventRule
from worker.intake.celery_message import CeleryReader
from worker.intake.cloud_events import CloudEventReader
from worker.intake.stream_entry import EntryReader
from worker.pacing.pace import Limiter, Pacer
from worker.pipeline.attempts import RetryPolicy
from worker.pipeline.celery_events import CeleryEvents
from worker.pipeline.shard_run import Tools
from worker.pipeline.telling import Teller
from worker.queue import events_queue_of, lists_of
from worker.settings import Settings
from worker.store.connection import open_redis
from worker.store.event_queue import EventQueue
from worker.upstream.client import Endpoint, open_client
from worker.wiring import Store, broker_url, open_store, rolling_size

_PROBE_MARGIN = 5.0  # seconds, beyond an attempt's, until a probe of the circuit is taken for lost


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process has for its life."""

    store: Store
    tools: Tools
    teller: Teller
    celery_events: CeleryEvents


@asynccontextmanager
async def open_worker(settings: Settings, stopping: Callable[[], bool]) -> AsyncIterator[Worker]:
    """Open all that a worker process needs; call it in the process and the event loop that will use it."""
    endpoint = Endpoint(
        prefix=settings.upstream_prefix,
        headers=_headers(settings),
        rule=settings.id_rule,
        timeout=settings.timeout,
    )
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        client = await stack.enter_async_context(open_client(endpoint, settings.concurrency, settings.upstream_ca_file))
        limiter = Limiter(store.redis, _pace_scope(settings), settings.rate_limit, settings.timeout + _PROBE_MARGIN)
        pacer = Pacer(limiter, settings.concurrency)
        stack.push_async_callback(pacer.close)
        tools = Tools(
            target=settings.target,
            batches=store.batches,
            shards=store.shards,
            ledger=store.ledger,
            holds=store.holds,
            pacer=pacer,
            client=client,
            digester=store.digester,
            policy=RetryPolicy(settings.max_attempts),
            concurrency=settings.concurrency,
            stopping=stopping,
        )
        broker = store.redis
        if settings.broker_url is not None:
            broker = await stack.enter_async_context(open_redis(broker_url(settings)))
        poster = await stack.enter_async_context(open_poster(allow_private=settings.callback_allow_private))
        celery_events = _celery_events(broker, settings, store)
        yield Worker(store, tools, teller(settings, store, poster), celery_events)


def teller(settings: Settings, store: Store, poster: Poster) -> Teller:
    """What tells the callback addresses that are set."""
    return Teller(
        store.callbacks,
        store.audit,
        store.batches,
        settings.target,
        poster,
        Signer(settings.callback_keys),
        settings.callbacks,
    )


def _celery_events(broker: Redis, settings: Settings, store: Store) -> CeleryEvents:
    name = events_queue_of(settings.target)
    queue = EventQueue(broker, lists_of(name), settings.target)
    reader = CeleryReader(_event_rule(settings))
    return CeleryEvents(queue, name, reader, store.gatherer, store.dead_letters)


def _headers(settings: Settings) -> dict[str, str]:
    headers = {name: secret.get_secret_value() for name, secret in settings.upstream_headers.items()}
    headers["X-Type"] = settings.environment.value
    if settings.merchant_id:  # behind its gateway the API takes the merchant from X-token
        headers["X-Merchant-Identifier-Id"] = settings.merchant_id
    return headers


def _pace_scope(settings: Settings) -> str:
    """Workers share a limit if they call the same address for the same merchant and environment."""
    address = hashlib.sha256(settings.upstream_prefix.encode()).hexdigest()[:12]
    return f"{settings.target.owner}:{address}"


def event_reader(settings: Settings) -> CloudEventReader:
    """Reads the CloudEvents that count."""
    return CloudEventReader(settings.event_types, settings.event_customers, _event_rule(settings))


def _event_rule(settings: Settings) -> EventRule:
    return EventRule(settings.id_rule, min(MOST_CUSTOMERS, rolling_size(settings)))


def entry_reader(settings: Settings) -> EntryReader:
    """What reads the entries of a Redis Stream."""
    return EntryReader(event_reader(settings), _event_rule(settings))
