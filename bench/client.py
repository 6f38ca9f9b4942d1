"""The product's own client, for those that are compared with it: same connections, same request, same reply read."""

from contextlib import AbstractAsyncContextManager

import orjson

from worker.domain.customer_ids import IdRule
from worker.upstream.client import Client, Endpoint, open_client
from worker.upstream.reply import Reply

CONCURRENCY = 64
"""Requests in flight per process, as the product has by default."""
_KEY = "0" * 32


def client_of(url: str) -> AbstractAsyncContextManager[Client]:
    """A client of the stub at this address."""
    endpoint = Endpoint(
        prefix=f"{url}/customer/customer/",
        headers={"X-Merchant-Identifier-Id": "bench", "X-Type": "sandbox"},
        rule=IdRule.of(),
        timeout=10.0,
    )
    return open_client(endpoint, CONCURRENCY)


async def delete(client: Client, customer_id: str) -> str:
    """Delete one customer; returns the request's ID. Raises ``RuntimeError`` unless it is confirmed."""
    reply = await client.delete(customer_id, _KEY)
    if isinstance(reply, Reply) and reply.status == 200:
        body = orjson.loads(reply.body)
        if body["status"] is True:
            return str(body["data"]["request_id"])
    raise RuntimeError(f"unexpected: {reply}")
