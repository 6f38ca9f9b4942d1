"""Builds the results store from settings, and closes it. What only a worker needs is in ``worker.outfit``."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from worker.domain.customer_ids import Digester
from worker.domain.errors import SettingsError
from worker.pipeline.gather import Gatherer
from worker.pipeline.reconcile import Feeder
from worker.queue import Publisher
from worker.settings import Settings
from worker.store import keys
from worker.store.audit import Audit
from worker.store.batches import Batches
from worker.store.callbacks import Callbacks
from worker.store.connection import open_redis
from worker.store.dead_letters import DeadLetters
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
        feeder = Feeder(batches, shards, presence, Publisher(broker_url(settings)), settings.target)
        yield Store(
            redis,
            batches,
            shards,
            ledger,
            holds,
            presence,
            feeder,
            digester,
            tokens=Tokens(redis),
            sessions=Sessions(redis, settings.sign_on.mark if settings.sign_on else ""),
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
        rolling_size(settings),
        settings.event_batch_age,
        remembered,
        settings.replicas,
    )
    return Gatherer(gatherings, batches, holds, feeder, settings.rules)


def rolling_size(settings: Settings) -> int:
    """Records of a batch that events become, at most."""
    return min(settings.event_batch_size, settings.max_batch)


async def _digest_key(redis: Redis, settings: Settings) -> bytes:
    if settings.digest_key is not None:
        return settings.digest_key.get_secret_value().encode()
    await redis.set(keys.DIGEST_KEY, secrets.token_bytes(32), nx=True)
    key: bytes | None = await redis.get(keys.DIGEST_KEY)  # type: ignore[assignment]
    return key or b""
