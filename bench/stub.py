"""The fastest honest upstream: answers every DELETE with the documented reply, after a given latency.

``python -m bench.stub [--latency 0.05]`` prints its URL and serves until it is terminated. ``GET /count`` there tells
how many DELETEs came, ``GET /arrivals`` when each did: seconds by one clock.
"""

import argparse
import asyncio
import functools
import time
from array import array
from typing import cast

import orjson
import uvloop

_BODY = (
    b'{"status":true,"message":"OK","data":{"request_id":"badd8bdd8a3d161f71b3eb9ad9d1c6b0",'
    b'"request_time":"2024-12-30T02:58:47.085Z","success":true,"status_code":200,"status_text":"OK","data":'
    b'{"customer_id":"%s","org_id":"org_0","type":"individual","is_active":false,"is_wallet_ready":false,'
    b'"individual":{' + b",".join(b'"field_%d":"made up"' % number for number in range(40)) + b"}}}}"
)


class Stub(asyncio.Protocol):
    """One connection: requests without a body, one after the other."""

    def __init__(self, latency: float, arrivals: "array[float]") -> None:
        self._latency = latency
        self._arrivals = arrivals
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            method, path, _ = request.split(b" ", 2)
            if method == b"GET":
                self._answer(_reply(_tell(path, self._arrivals)))
                continue
            self._arrivals.append(time.monotonic())
            reply = _reply(_BODY % path.rpartition(b"/")[2])
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._answer, reply)
            else:
                self._answer(reply)

    def _answer(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


def _reply(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _tell(path: bytes, arrivals: "array[float]") -> bytes:
    return orjson.dumps(list(arrivals) if path == b"/arrivals" else len(arrivals))


async def _serve(latency: float) -> None:
    factory = functools.partial(Stub, latency, array("d"))
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    uvloop.run(_serve(parser.parse_args().latency))
