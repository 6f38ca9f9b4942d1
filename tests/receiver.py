"""Somebody who is told: a real HTTP server in a thread, which reads what it gets with the stock libraries only."""

import asyncio
import base64
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"the first secret of 32 bytes....").decode()
SECOND_SECRET = "whsec_" + base64.b64encode(b"the other secret of 32 bytes....").decode()
_PATIENCE = 60.0


@dataclass(frozen=True)
class Reply:
    """How a request is answered."""

    status: int = 204
    headers: Mapping[str, str] | None = None
    hang: bool = False
    """Not at all, until the receiver ends."""
    endless: bool = False
    """With a body that does not end before the receiver does."""


@dataclass(frozen=True)
class Request:
    """What was received, and how it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    reply: Reply

    @property
    def event(self) -> BaseCloudEvent:
        return from_structured(HTTPMessage(self.headers, self.body), JSONFormat())

    @property
    def type(self) -> str:
        return self.event.get_type()

    @property
    def data(self) -> dict[str, Any]:
        data = self.event.get_data()
        assert isinstance(data, dict)
        return data

    def verified(self, secret: str = SECRET) -> Any:
        """Its JSON; raises if the signature by the secret is not right."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """A context manager; ``reply`` may be changed at any time and is asked for each request."""

    def __init__(
        self, reply: Callable[[Request], Reply] = lambda _: Reply(), tls: ssl.SSLContext | None = None
    ) -> None:
        self.reply = reply
        self._tls = tls
        self.requests: list[Request] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="receiver")

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/told?key=in-the-query"

    @property
    def taken(self) -> list[Request]:
        """What was answered with 2xx, in the order of arrival."""
        return [request for request in self.requests if not request.reply.hang and request.reply.status < 300]

    def script(self, *replies: Reply | int) -> None:
        """Answer the next requests so, and well after them."""
        left = [Reply(reply) if isinstance(reply, int) else reply for reply in replies]
        self.reply = lambda _: left.pop(0) if left else Reply()

    def wait_for(self, condition: Callable[[Self], bool]) -> None:
        """Wait until it is so."""
        until = time.monotonic() + _PATIENCE
        while not condition(self):
            assert time.monotonic() < until, [(request.type, request.reply) for request in self.requests]
            time.sleep(0.02)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        got = Request(request.path_qs, headers, await request.read(), Reply())
        reply = self.reply(got)
        self.requests.append(Request(got.path, got.headers, got.body, reply))
        if reply.hang:
            await self._stop.wait()
        if reply.endless:
            response = web.StreamResponse(status=reply.status)
            await response.prepare(request)
            await self._stop.wait()
            return response
        return web.Response(status=reply.status, headers=reply.headers)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
