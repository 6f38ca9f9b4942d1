"""The simulator as a server: the endpoint over HTTP, with hangs and resets, and its log."""

import asyncio
import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
from aiohttp import web

from worker.simulator import replies
from worker.simulator.endpoint import Answer, Endpoint
from worker.simulator.faults import Ending
from worker.simulator.journal import Entry, Journal, as_json_lines
from worker.simulator.replies import Reply
from worker.simulator.scenario import Scenario

FLUSH_SECONDS = 0.5
_STOP_SECONDS = 0.5
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SimulatorError(RuntimeError):
    """The simulator cannot run here; the message is one line that says why."""


class Simulator:
    """A fake of the endpoint *Delete customer* that plays ``scenario``.

    Everything is served under ``prefix``: ``DELETE {prefix}/customer/customer/{id}``, and for whoever watches,
    ``GET {prefix}/_simulator/log`` (JSON lines, as Entry) and ``GET {prefix}/_simulator/stats``. A request takes effect
    and is logged when it arrives; latency comes after that. ``log`` is a file to which entries are appended, at
    least each second. A stopped simulator can be started again and remembers its customers and its log.
    """

    def __init__(self, scenario: Scenario, *, prefix: str = "", log: Path | None = None) -> None:
        self._prefix = prefix.rstrip("/")
        self._endpoint = Endpoint(scenario, self._prefix)
        self._journal = Journal(log)
        self._in_flight = 0
        self._runner: web.ServerRunner | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def log(self) -> Sequence[Entry]:
        """Every DELETE so far; grows while requests arrive."""
        return self._journal.entries

    def stats(self) -> dict[str, object]:
        """Return requests, executed, by_status, in_flight and peak_per_second (the fullest second, sliding)."""
        return self._journal.stats(self._in_flight)

    def use(self, scenario: Scenario) -> None:
        """Play another scenario from the next request on; who is deleted stays deleted. Safe from any thread."""
        self._endpoint.use(scenario)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, on a free port if ``port`` is 0, and return the base URL, prefix included; raises SimulatorError."""
        if self._runner is not None:
            raise SimulatorError("the simulator runs already")
        try:
            self._journal.open()
        except OSError as error:
            raise SimulatorError(f"cannot write the log {error.filename}: {error.strerror}") from None
        self._stopping = asyncio.Event()
        # Cancelling the handler of a client that left is what ends a hang.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, backlog=1024).start()
        except OSError as error:
            await self.stop()
            raise SimulatorError(_why_not(error, host, port)) from None
        self._flusher = asyncio.create_task(self._flush_regularly())
        bound = self._runner.addresses[0][1]
        return f"http://{f'[{host}]' if ':' in host else host}:{bound}{self._prefix}"

    async def stop(self) -> None:
        """Stop listening, end every hang, let replies under way finish for half a second, and close the log.

        Does nothing if it is not running. Raises OSError if the log cannot be written.
        """
        runner, self._runner = self._runner, None
        flusher, self._flusher = self._flusher, None
        self._stopping.set()
        if flusher is not None:
            flusher.cancel()
            await asyncio.gather(flusher, return_exceptions=True)  # a log that fails does so again below
        if runner is not None:
            await runner.cleanup()
            self._journal.close()

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._journal.flush()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "DELETE":
            return self._look(request)
        now, headers = time.monotonic(), request.headers
        merchant, kind = headers.get("X-Merchant-Identifier-Id"), headers.get("X-Type")
        answer = self._endpoint.delete(request.raw_path, merchant, kind, now)
        entry = Entry(
            time.time(),
            answer.customer_id,
            answer.attempt,
            answer.executed,
            None if answer.reply is None else answer.reply.status,
            answer.fault,
            headers.get("Idempotency-Key"),
            # A header value is the same in a million requests: keep it once.
            None if merchant is None else sys.intern(merchant),
            None if kind is None else sys.intern(kind),
        )
        self._journal.record(entry, now)
        self._in_flight += 1
        try:
            return await self._carry_out(answer, request)
        finally:
            self._in_flight -= 1

    async def _carry_out(self, answer: Answer, request: web.BaseRequest) -> web.StreamResponse:
        if answer.ending is Ending.HANG:
            await self._stopping.wait()
        elif answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.reply is None:
            _reset(request.transport)
            return web.Response(status=500)  # never sent: the connection is gone
        return _response(answer.reply)

    def _look(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if request.method == "GET" and path == f"{self._prefix}/_simulator/log":
            body = b"".join(as_json_lines(self._journal.entries))
            return web.Response(body=body, content_type="application/x-ndjson")
        if request.method == "GET" and path == f"{self._prefix}/_simulator/stats":
            return web.Response(body=orjson.dumps(self.stats()), content_type="application/json")
        if self._endpoint.names_customer(path):
            return _response(replies.proxy_page(405, Allow="DELETE"))
        return _response(replies.proxy_page(404))


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body)


def _reset(transport: asyncio.Transport | None) -> None:
    """Close a connection so that the client gets RST, not a clean end."""
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another, or 0 for any free one"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
