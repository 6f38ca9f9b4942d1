"""Runs the application in this process until it is asked to stop."""

import logging
import signal
import socket
import sys
from typing import cast

import uvicorn
from fastapi import FastAPI

from worker import logs
from worker.settings import Settings
from worker.web.app import create_app

_DRAIN = 5  # seconds for answers under way when it is asked to stop


def serve(settings: Settings, host: str, port: int) -> None:
    """Listen until SIGTERM or Ctrl-C; 0 as port takes any free one. Neither bodies nor addresses are logged."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends in order, and then raises it again
    logs.configure(settings.log_level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what somebody sent
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN,
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """Ends streams of events before it waits for answers under way: they would not end by themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cast("FastAPI", self.config.app).state.web.hub.close()
        await super().shutdown(sockets)
