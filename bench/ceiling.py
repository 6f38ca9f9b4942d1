"""The most that one process can do: a bare asyncio loop with the product's own client, and nothing else.

No Celery, no Redis, no retry, no pacing; of the reply only ``status`` is looked at.
``python -m bench.ceiling URL COUNT``.
"""

import asyncio
import sys
from collections.abc import Iterator

import orjson
import uvloop

from bench.customers import ids
from worker.domain.customer_ids import IdRule
from worker.upstream.client import Client, Endpoint, open_client
from worker.upstream.reply import Reply

CONCURRENCY = 64
_KEY = "0" * 32


async def _send(client: Client, customers: Iterator[str]) -> None:
    for customer_id in customers:
        reply = await client.delete(customer_id, _KEY)
        if not isinstance(reply, Reply) or reply.status != 200 or orjson.loads(reply.body)["status"] is not True:
            raise SystemExit(f"unexpected: {reply}")


async def _main(url: str, count: int) -> None:
    endpoint = Endpoint(
        prefix=f"{url}/customer/customer/",
        headers={"X-Merchant-Identifier-Id": "bench", "X-Type": "sandbox"},
        rule=IdRule.of(),
        timeout=10.0,
    )
    customers = iter(list(ids(count)))
    async with open_client(endpoint, CONCURRENCY) as client, asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(_send(client, customers))


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
