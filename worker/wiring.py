"""The one place that builds things from settings, and closes them."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.callbacks.client import Poster, open_poster
from worker.callbacks.message import Signer
from worker.domain.customer_ids import Digester
from worker.domain.errors import SettingsError
from worker.domain.events import MOST_CUSTOMERS, EventRule
from worker.intake.celery_message import CeleryReader
from worker.intake.cloud_events import CloudEventReader
from worker.intake.stream_entry import EntryReader
from worker.pacing.pace import Limiter, Pacer
from worker.pipeline.attempts import RetryPolicy
from worker.pipeline.celery_events import CeleryEvents
from worker.pipeline.gather import Gatherer
from worker.pipeline.reconcile import Feeder
from worker.pipeline.shard_run import Tools
from worker.pipeline.telling import Teller
from worker.queue import Publisher, celery_app, events_queue_of, lists_of
from worker.settings import Settings
from worker.store import keys
from worker.store.audit import Audit
from worker.store.batches import Batches
from worker.store.callbacks import Callbacks
from worker.store.connection import open_redis
from worker.store.dead_letters import DeadLetters
from worker.store.event_queue import EventQueue
from worker.store.finished import Finished
from worker.store.gatherings import Gatherings
from worker.store.holds import Holds
from worker.store.ledger import Ledger
from worker.store.purging import Purging
from worker.store.requests import Requests
from worker.store.sessions import Sessions
from worker.store.shards import Presence, Shards
from worker.store.tokens import Tokens
from worker.store.trips import Trips
from worker.upstream.client import Endpoint, open_client

_PROBE_MARGIN = 5.0  # seconds, beyond an attempt's, until a probe of the circuit is taken for lost

NO_REDIS = (
    "no Redis is set: set EXPUNGE_REDIS_URL, such as redis://localhost:6379/0; "
    "only `expunge run` starts a server itself"
)


@dataclass(frozen=True, slots=True)
class Store:
    """The results store, and what feeds the queue from it."""

    redis: Redis
    batches: Batches
    shards: Shards
    ledger: Ledger
    holds: Holds
    presence: Presence
    feeder: Feeder
    digester: Digester
    tokens: Tokens
    sessions: Sessions
    trips: Trips
    audit: Audit
    requests: Requests
    purging: Purging
    finished: Finished
    gatherer: Gatherer
    dead_letters: DeadLetters
    callbacks: Callbacks


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process has for its life."""

    store: Store
    tools: Tools
    teller: Teller
    celery_events: CeleryEvents


def redis_url(settings: Settings) -> str:
    """The results store's address; raises ``SettingsError`` when none is set."""
    if settings.redis_url is None:
        raise SettingsError(NO_REDIS)
    return settings.redis_url.get_secret_value()


def broker_url(settings: Settings) -> str:
    """Celery's broker, by default the results store."""
    return settings.broker_url.get_secret_value() if settings.broker_url is not None else redis_url(settings)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the results store; its first command may raise ``RedisError``."""
    async with open_redis(redis_url(settings)) as redis:
        digester = Digester(await _digest_key(redis, settings), settings.target.owner)
        ledger = Ledger(redis, digester, settings.ledger_days)
        batches = Batches(redis, settings.retention_days, settings.replicas)
        holds = Holds(redis, settings.target, settings.replicas)
        shards = Shards(redis, ledger, holds, settings.retention_days, settings.replicas)
        presence = Presence(redis, settings.target)
        publisher = Publisher(celery_app(broker_url(settings)))
        feeder = Feeder(batches, shards, presence, publisher, settings.target)
        tokens = Tokens(redis)
        yield Store(
            redis,
            batches,
            shards,
            ledger,
            holds,
            presence,
            feeder,
            digester,
            tokens=tokens,
            sessions=Sessions(redis, tokens, settings.sign_on.mark if settings.sign_on else ""),
            trips=Trips(redis),
            audit=Audit(redis),
            requests=Requests(redis),
            purging=Purging(redis, settings.replicas),
            finished=Finished(redis),
            dead_letters=DeadLetters(redis, settings.target, settings.retention_days),
            gatherer=_gatherer(redis, settings, digester, batches, holds, feeder),
            callbacks=Callbacks(redis, settings.target),
        )


def _gatherer(
    redis: Redis, settings: Settings, digester: Digester, batches: Batches, holds: Holds, feeder: Feeder
) -> Gatherer:
    remembered = settings.ledger_days or settings.retention_days
    gatherings = Gatherings(
        redis,
        settings.target,
        digester,
        _rolling_size(settings),
        settings.event_batch_age,
        remembered,
        settings.replicas,
    )
    return Gatherer(gatherings, batches, holds, feeder, settings.rules)


def event_reader(settings: Settings) -> CloudEventReader:
    """Reads the CloudEvents that count."""
    return CloudEventReader(settings.event_types, settings.event_customers, _event_rule(settings))


def _event_rule(settings: Settings) -> EventRule:
    return EventRule(settings.id_rule, min(MOST_CUSTOMERS, _rolling_size(settings)))


def _rolling_size(settings: Settings) -> int:
    return min(settings.event_batch_size, settings.max_batch)


def entry_reader(settings: Settings) -> EntryReader:
    """What reads the entries of a Redis Stream."""
    return EntryReader(event_reader(settings), _event_rule(settings))


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


async def _digest_key(redis: Redis, settings: Settings) -> bytes:
    if settings.digest_key is not None:
        return settings.digest_key.get_secret_value().encode()
    await redis.set(keys.DIGEST_KEY, secrets.token_bytes(32), nx=True)
    key: bytes | None = await redis.get(keys.DIGEST_KEY)  # type: ignore[assignment]
    return key or b""
