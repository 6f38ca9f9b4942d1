"""What tests of several rooms share: a Valkey server, empty at the start of every test, and batches to put into it."""

import asyncio
import hashlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from worker.domain.batch_ids import make_batch_id
from worker.domain.batches import Batch, BatchState, Description, Environment, Target
from worker.domain.outcomes import Reason
from worker.domain.rates import Rate
from worker.domain.records import Result
from worker.embedded import embedded_server
from worker.settings import Settings
from worker.store import keys
from worker.store.batches import Batches, Line
from worker.store.connection import open_redis
from worker.store.loading import Accepted, Loading
from worker.store.shards import Claim, Shards, Written
from worker.wiring import Store, open_store

UPSTREAM = "tests"
TARGET = Target(Environment.SANDBOX, "m1", hashlib.sha256(UPSTREAM.encode()).hexdigest()[:12])
DELETED = Result(Reason.CONFIRMED, http_status=200, attempts=1)
INVALID = Result(Reason.INVALID_ID)
HOLDER = "t1"

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # how long an example takes says how busy the machine is


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that all tests of the session share: the embedded one, or another for a second opinion."""
    other = os.environ.get("TEST_REDIS_SERVER")
    with _started(other) if other else embedded_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@contextmanager
def _started(command: str) -> Iterator[str]:
    """Run another server on a socket, whose path must be short."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        options = ["--port", "0", "--unixsocket", f"{folder}/redis.sock", "--dir", folder, "--appendonly", "yes"]
        process = subprocess.Popen([command, *options, "--logfile", f"{folder}/log"])
        try:
            url = f"unix://{folder}/redis.sock"
            with BlockingRedis.from_url(url, retry=Retry(ConstantBackoff(0.1), 100)) as redis:
                redis.ping()
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def redis_url(server: str) -> str:
    """The URL of an empty server."""
    with BlockingRedis.from_url(server) as redis:
        redis.flushall()
        redis.config_resetstat()
    return server


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty server."""
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """The whole results store, as wiring builds it, on an empty server."""
    async with open_store(make_settings(redis_url)) as opened:
        yield opened


def make_settings(redis_url: str, **others: Any) -> Settings:
    """Settings for tests: fast, patient only where asked, and blind to a developer's own environment file."""
    given: dict[str, Any] = {
        "redis_url": redis_url,
        "broker_url": None,
        "merchant_id": TARGET.merchant,
        "environment": TARGET.environment,
        "upstream_name": UPSTREAM,
        "rate_limit": Rate.parse("2000/s"),
        "retention_days": 30,
        "ledger_days": 365,
        "digest_key": "a key for tests",
    }
    return Settings(_env_file=None, **(given | others))


def new_batch_id() -> str:
    """An ID that no other batch has."""
    return make_batch_id(time.time(), secrets.randbits(32))


def describe(ids: Sequence[str], shard_size: int = 3, **others: Any) -> Description:
    """A description of a file with these IDs, which is like no other file unless ``sha256`` is given."""
    given: dict[str, Any] = {
        "target": TARGET,
        "source": "customers.csv",
        "sha256": secrets.token_hex(32),
        "rows": len(ids),
        "shard_size": shard_size,
        "id_column": "customer_id",
        "columns": ("customer_id",),
    }
    return Description(**(given | others))


async def load(
    batches: Batches,
    ids: Sequence[str],
    description: Description,
    known: Mapping[int, Result] | None = None,
    batch_id: str | None = None,
) -> Loading:
    """Load a batch without committing it; ``known`` are outcomes by position in ``ids``."""
    loading = batches.load(batch_id or new_batch_id())
    for shard in range(description.shards):
        numbers = [row - 1 for row in description.rows_of(shard)]
        outcomes = {at: known[number] for at, number in enumerate(numbers) if known and number in known}
        await loading.add_shard(shard, [ids[number] for number in numbers], outcomes)
    return loading


async def submit(
    batches: Batches,
    ids: Sequence[str],
    shard_size: int = 3,
    known: Mapping[int, Result] | None = None,
    *,
    again: bool = False,
    **others: Any,
) -> Accepted:
    """Load and commit a batch."""
    description = describe(ids, shard_size, **others)
    return await (await load(batches, ids, description, known)).commit(description, again=again)


async def claimed(shards: Shards, batch_id: str, shard: int = 0, token: str = HOLDER) -> Claim:
    """Claim a shard that must be free."""
    claim = await shards.claim(batch_id, shard, token)
    assert isinstance(claim, Claim), claim
    return claim


def written(claim: Claim, results: Mapping[int, Result] | None = None) -> list[Written]:
    """Results to record, by offset; without any, every record of the shard is deleted."""
    given = dict.fromkeys(range(len(claim.ids)), DELETED) if results is None else results
    return [Written(offset, claim.ids[offset], result) for offset, result in given.items()]


async def finish(shards: Shards, batch_id: str, count: int) -> None:
    """Delete every record of a batch's shards 0 to ``count - 1``."""
    for shard in range(count):
        claim = await claimed(shards, batch_id, shard)
        assert (await shards.record(claim, written(claim), time.time())).ours


async def existing(batches: Batches, batch_id: str) -> Batch:
    """The batch as it stands; its tally must add up, whatever it is (SPEC 4, promise 1)."""
    batch = await batches.get(batch_id)
    assert batch is not None
    assert batch.tally.total == batch.description.rows
    assert batch.tally.pending >= 0
    assert all(count > 0 for count in batch.tally.reasons.values())
    assert batch.state is not BatchState.COMPLETED or batch.tally.pending == 0
    return batch


async def lines(batches: Batches, batch_id: str) -> list[Line]:
    """Every record of a batch."""
    batch = await existing(batches, batch_id)
    return [line async for page in batches.pages(batch) for line in page]


async def outcomes(batches: Batches, batch_id: str) -> dict[str, str | None]:
    """The reason of every record, by customer ID; ``None`` while pending."""
    found = await lines(batches, batch_id)
    return {line.customer_id: line.result.reason.text if line.result else None for line in found}


async def all_keys(redis: Redis, pattern: str = "*") -> list[str]:
    """The names of the keys that match; those of the ledger hold bytes that are no text."""
    return sorted([key.decode("utf-8", "surrogateescape") async for key in redis.scan_iter(pattern, count=1000)])


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait for what nothing tells us of; raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not (await found if isinstance(found := condition(), Awaitable) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def lifetimes(redis: Redis, names: Sequence[str]) -> dict[str, int]:
    """Seconds until each key expires; -1 if it never does."""
    return {name: int(await redis.ttl(name.encode("utf-8", "surrogateescape"))) for name in names}


async def expire_lease(redis: Redis, batch_id: str, shard: int = 0) -> None:
    """Let a shard's holder be dead: its lease ended long ago."""
    holders = keys.of_batch(batch_id, "holders")
    held: bytes | None = await redis.hget(holders, str(shard))  # type: ignore[assignment]
    assert held is not None
    token, _, was_interrupted = held.decode().split()
    await redis.hset(holders, str(shard), f"{token} 1 {was_interrupted}")
    await redis.zadd(keys.of_batch(batch_id, "shards"), {str(shard): 1})
