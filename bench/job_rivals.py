"""What a user of asyncio would write instead of Expunge: one ``arq`` or ``saq`` job a customer.

Written as their documentation teaches it, with their defaults but for 64 jobs at once, and a shorter rest for arq. The
client is the product's own, the loop uvloop's; the outcome is a JSON string in Redis. No retry, no limit, no report,
no tally. Runs in ``.venv-bench``, since arq wants redis-py before 6. ``python -m bench.job_rivals arq|saq COUNT`` fills
the queue.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from bench import client
from bench.customers import ids

_REDIS = os.environ["RIVAL_REDIS"]
_AT_ONCE = 64  # jobs that are enqueued
uvloop.install()  # both take their loop from the policy


async def _open(context: dict[str, Any]) -> None:
    stack = context["stack"] = AsyncExitStack()
    context["client"] = await stack.enter_async_context(client.client_of(os.environ["RIVAL_UPSTREAM"]))


async def _close(context: dict[str, Any]) -> None:
    await context["stack"].aclose()


async def _delete(context: dict[str, Any], redis: Any, customer_id: str) -> None:
    request_id = await client.delete(context["client"], customer_id)
    await redis.set(f"result:{customer_id}", f'{{"outcome":"deleted","request_id":"{request_id}"}}')


async def arq_job(context: dict[str, Any], customer_id: str) -> None:
    """Delete one customer and note what the endpoint said."""
    await _delete(context, context["redis"], customer_id)


class arq:  # noqa: N801 - a case names both by their library
    """``arq bench.job_rivals.arq``."""

    poll_delay = 0.01  # by default it rests for half a second after 320 jobs
    functions = (arq_job,)
    redis_settings = RedisSettings.from_dsn(_REDIS)
    max_jobs = client.CONCURRENCY
    on_startup = _open
    on_shutdown = _close


queue = RedisQueue(Redis.from_url(_REDIS))


async def saq_job(context: dict[str, Any], *, customer_id: str) -> None:
    """Delete one customer and note what the endpoint said."""
    await _delete(context, queue.redis, customer_id)


saq = {
    "queue": queue,
    "functions": [saq_job],
    "concurrency": client.CONCURRENCY,
    "startup": _open,
    "shutdown": _close,
}
"""``saq bench.job_rivals.saq``."""


async def _fill(name: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        if name == "arq":
            pool = await create_pool(arq.redis_settings)
            stack.push_async_callback(pool.aclose)
            await _at_once(count, lambda customer_id: pool.enqueue_job("arq_job", customer_id))
        else:
            await queue.connect()
            stack.push_async_callback(queue.disconnect)
            await _at_once(count, lambda customer_id: queue.enqueue("saq_job", customer_id=customer_id))


async def _at_once(count: int, enqueue: Callable[[str], Awaitable[object]]) -> None:
    customers = iter(list(ids(count)))

    async def enqueue_all() -> None:
        for customer_id in customers:
            await enqueue(customer_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(enqueue_all())


if __name__ == "__main__":
    asyncio.run(_fill(sys.argv[1], int(sys.argv[2])))
