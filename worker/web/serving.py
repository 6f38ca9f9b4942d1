"""Runs the application in this process until it is asked to stop."""

import asyncio
import logging
import signal
import socket
import sys
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker import logs
from worker.settings import Settings
from worker.web.app import create_app

_HEAD = 10  # seconds for the head of a request
_DRAIN = 5  # seconds for answers under way when it is asked to stop


def serve(settings: Settings, host: str, port: int) -> None:
    """Listen until SIGTERM or Ctrl-C; 0 as port takes any free one. Neither bodies nor addresses are logged."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends in order, and then raises it again
    logs.configure(settings.log_level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what somebody sent
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN,
    )
    _Server(config).run()


class _Protocol(H11Protocol):
    """Cuts off who does not send the whole head of a request in time: uvicorn waits for it without an end."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        before_the_first = self.cycle is None
        if not before_the_first and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD, self.timeout_keep_alive_handler)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Ends streams of events before it waits for answers under way: they would not end by themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cast("FastAPI", self.config.app).state.web.hub.close()
        await super().shutdown(sockets)
