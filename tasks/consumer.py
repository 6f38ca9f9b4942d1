"""What a worker does with messages in its own queue that it cannot read: drops them, and shows nothing of them.

Celery itself would print the message, and so the customers that it may name (SPEC 4, promise 8). It would also say at
each try that Redis is away, and try without a pause to take messages from one that is full.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker import consumer
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY  # type: ignore[attr-defined] # not in the stubs
from kombu.message import Message
from redis.exceptions import ResponseError

from worker.pipeline.duties import Trouble

_PAUSE = 1.0  # seconds until what was refused is tried again

log = structlog.get_logger(__name__)
taking = Trouble("taking of messages")
"""Of this worker's own queue."""


def _is_news(record: logging.LogRecord) -> bool:
    """What Celery says at each try to connect is told once instead."""
    parts = record.args if isinstance(record.args, tuple) else ()
    tries = record.msg == CONNECTION_ERROR or CONNECTION_RETRY in parts
    for error in parts if tries else ():
        if isinstance(error, Exception):
            taking.met(error)
    return not tries


logging.getLogger(consumer.Consumer.__module__).addFilter(_is_news)


def _pause_if_refused(error: Exception) -> None:
    if isinstance(error, ResponseError):
        time.sleep(_PAUSE)


class Consumer(consumer.Consumer):
    """Celery's, with other words for what it cannot read."""

    connection_errors: tuple[type[Exception], ...]

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Celery connects anew after it, which waits while nobody answers, but not when somebody refuses."""
        super().on_connection_error_before_connected(exc)
        _pause_if_refused(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same after it was connected."""
        super().on_connection_error_after_connected(exc)
        _pause_if_refused(exc)

    def on_ready(self) -> None:
        """Messages are taken from now on."""
        super().on_ready()
        taking.over()

    def create_task_handler(self, *promise: Any) -> Callable[[Message], None]:
        """Also what Celery stumbles over is dropped: else it would end the worker, or cut off its shards."""
        handle = super().create_task_handler(*promise)

        def on_task_received(message: Message) -> None:
            try:
                handle(message)
            except (LookupError, TypeError, ValueError, AttributeError):
                self._drop(message, "it is no valid task")

        return on_task_received

    def on_decode_error(self, message: Message, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        self._drop(message, "it cannot be read")

    def on_unknown_message(self, body: Any, message: Message) -> None:  # noqa: ARG002
        self._drop(message, "it is no task")

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:  # noqa: ARG002
        self._drop(message, "there is no such task")

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:  # noqa: ARG002
        self._drop(message, "it is no valid task")

    def _drop(self, message: Message, reason: str) -> None:
        log.error("message dropped", reason=reason)
        if not message.acknowledged:
            message.reject_log_error(logging.getLogger(__name__), self.connection_errors)
