"""``python -m bench.memory``: how much of Redis' memory a finished record takes.

Fills a fresh embedded server through the product's own code, and reads ``used_memory`` after each stage. The ledger's
65,536 hashes are there however few the records, so only about a million records tell the figure that counts.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from pydantic import SecretStr
from redis.asyncio import Redis

from bench import filling, promises
from bench.customers import write_csv
from bench.promises import Part, at_most
from worker.embedded import embedded_server
from worker.settings import Settings
from worker.store import keys
from worker.wiring import Store, open_store

DUE = 100.0
"""Bytes a record."""
RECORDS = 1_000_000
_SAMPLES = 2_000
_SETTLE = 1.0  # seconds; buffers of the append-only file and of connections are given back


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that one kind of thing takes."""

    name: str
    size: float


def measure(smoke: bool) -> Part:
    """A million records; a thousand to show that it works."""
    records = RECORDS // 1_000 if smoke else RECORDS
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        path = Path(name) / "customers.csv"
        write_csv(path, records)
        with embedded_server(Path(name) / "home") as url:
            stored = uvloop.run(_fill(Settings(redis_url=SecretStr(url), merchant_id="bench", _env_file=None), path))
    due = at_most(f"Redis memory: bytes a finished record, of {records:,}", DUE, stored[-1].size / records, "{:.1f}")
    return Part("Redis memory", [due], _table(stored, records))


async def _fill(settings: Settings, path: Path) -> list[Stored]:
    async with open_store(settings) as store:
        await store.ledger.lookup(["warm"], 0.0)  # connection and scripts are there before the first figure
        empty = await _used(store.redis)
        batch_id = await filling.take_in(store, path)
        accepted = await _used(store.redis)
        await filling.finish(store, batch_id)
        finished = await _used(store.redis)
        outcomes = await _sampled(store.redis, _outcome_keys(store, batch_id))
        ledger = await _sampled(store.redis, store.redis.scan_iter(f"{keys.LEDGER}*", count=10_000))
    return [
        Stored("IDs, shards, batch (measured)", accepted - empty),
        Stored("outcomes (sampled)", outcomes),
        Stored("ledger (sampled)", ledger),
        Stored("the rest: tables of keys and of expiries, allocator", finished - accepted - outcomes - ledger),
        Stored("all (measured)", finished - empty),
    ]


async def _used(redis: Redis) -> int:
    await asyncio.sleep(_SETTLE)
    return int((await redis.info("memory"))["used_memory"])


async def _outcome_keys(store: Store, batch_id: str) -> AsyncIterator[bytes]:
    batch = await store.batches.get(batch_id)
    for shard in range(batch.description.shards if batch else 0):
        yield keys.of_batch(batch_id, f"out:{shard}").encode()


async def _sampled(redis: Redis, names: AsyncIterator[bytes]) -> float:
    """What all of these keys take, by evenly spread ones of them."""
    all_of_them = [name async for name in names]
    some = all_of_them[:: max(1, len(all_of_them) // _SAMPLES)]
    pipe = redis.pipeline(transaction=False)
    for name in some:
        pipe.memory_usage(name, samples=0)
    sizes: list[int] = await pipe.execute()
    return sum(sizes) / max(1, len(some)) * len(all_of_them)


def _table(stored: list[Stored], records: int) -> str:
    lines = ["| what | bytes | bytes a finished record |", "|---|--:|--:|"]
    lines += [f"| {part.name} | {part.size:,.0f} | {part.size / records:.1f} |" for part in stored]
    return "\n".join(lines)


if __name__ == "__main__":
    promises.alone("bench.memory", __doc__, measure)
