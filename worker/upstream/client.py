"""The one way to the network: sends the DELETE of one customer and tells whether it was answered.

httpx makes the request, aiohttp carries it (docs/decisions/0002). Requests go straight to the transport: no redirect
is followed, no proxy variable read, no cookie kept.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from worker.domain.customer_ids import IdRule
from worker.upstream.reply import NoReply, Reply

MAX_BODY = 1 << 20
"""Bytes of a reply that are read; a longer one cannot be the API's and reads as unreadable."""

_KEEP_ALIVE = 15.0  # seconds; below the idle timeout of common gateways, so that they rarely close under a request
_NOT_SENT = (
    aiohttp.ClientConnectorError,  # refused, DNS
    aiohttp.ClientSSLError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ConnectionTimeoutError,  # connecting, or waiting for a place in the pool
)
_NO_REPLY = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError, TimeoutError, ValueError)


class UnsafeIdError(ValueError):
    """An ID that the pattern does not accept came as far as the client. Its text does not show the ID."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how *Delete customer* is called."""

    prefix: str
    """Everything before the ID: ``https://host/customer/customer/``."""
    headers: Mapping[str, str] = field(repr=False)
    rule: IdRule
    timeout: float
    """Seconds for one attempt, from connecting to the last byte of the reply."""


class Client:
    """Sends one DELETE at a time for each caller; many callers may use it at once."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._headers = httpx.Headers(
            {**endpoint.headers, "Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "expunge"}
        )
        self._path = httpx.URL(endpoint.prefix).raw_path
        half = endpoint.timeout / 2
        self._extensions = {
            "timeout": {"connect": half, "pool": half, "read": endpoint.timeout, "write": endpoint.timeout}
        }

    async def delete(self, customer_id: str, idempotency_key: str) -> Reply | NoReply:
        """Send ``DELETE prefix + customer_id`` once.

        Raises ``UnsafeIdError`` before anything is sent if the ID could change which resource is hit (SPEC 2).
        """
        request = self._request(customer_id, idempotency_key)
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                response = await self._transport.handle_async_request(request)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except _NO_REPLY as error:
            return NoReply.NOT_SENT if _was_not_sent(error) else NoReply.UNANSWERED
        return Reply(response.status_code, body, response.headers.get("Retry-After"))

    def _request(self, customer_id: str, idempotency_key: str) -> httpx.Request:
        if not self._endpoint.rule.accepts(customer_id):
            raise UnsafeIdError("an ID that the pattern does not accept must not be sent")
        headers = self._headers.copy()
        headers["Idempotency-Key"] = idempotency_key
        request = httpx.Request(
            "DELETE", self._endpoint.prefix + customer_id, headers=headers, extensions=self._extensions
        )
        if request.url.raw_path != self._path + customer_id.encode():
            raise UnsafeIdError("the request's path would not be exactly prefix + ID")
        return request


async def _read(response: httpx.Response) -> bytes:
    """The body, decoded; nothing at all of one that is longer than ``MAX_BODY``, so that it confirms nothing."""
    body = b""
    async for chunk in response.aiter_bytes():
        body = body + chunk if body else chunk
        if len(body) > MAX_BODY:
            return b""
    return body


def _was_not_sent(error: BaseException) -> bool:
    """Whether no connection was made.

    Told from aiohttp's own exception: the transport turns a connection lost *after* sending into
    ``httpx.ConnectTimeout`` as well, which would pass for "never sent".
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _NOT_SENT):
            return True
        cause = cause.__cause__
    return False


@asynccontextmanager
async def open_client(endpoint: Endpoint, concurrency: int, ca_file: Path | None = None) -> AsyncIterator[Client]:
    """The factory: a client with a pool of ``concurrency`` connections, closed on leaving."""
    context = ssl.create_default_context(cafile=ca_file)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=_KEEP_ALIVE, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )
    # aiohttp sends a DELETE again by itself when a kept connection breaks: an attempt that nobody counted, and its 404
    # would read "not found". There is no public switch; tests/unit/test_client.py watches the wire.
    session._retry_connection = False  # noqa: SLF001
    transport = AiohttpTransport(verify=context, trust_env=False, client=session)
    try:
        yield Client(endpoint, transport)
    finally:
        await transport.aclose()
