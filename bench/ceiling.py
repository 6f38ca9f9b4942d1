"""The most that one process can do: a bare asyncio loop with the product's own client, and nothing else.

No Celery, no Redis, no retry, no pacing; of the reply only ``status`` and the request's ID are looked at.
``python -m bench.ceiling URL COUNT``.
"""

import asyncio
import sys
from collections.abc import Iterator

import uvloop

from bench.client import CONCURRENCY, client_of, delete
from bench.customers import ids
from worker.upstream.client import Client


async def _send(client: Client, customers: Iterator[str]) -> None:
    for customer_id in customers:
        await delete(client, customer_id)


async def _main(url: str, count: int) -> None:
    customers = iter(list(ids(count)))
    async with client_of(url) as client, asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(_send(client, customers))


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
