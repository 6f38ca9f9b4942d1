"""What a worker does with messages in its own queue that it cannot read: drops them, and shows nothing of them.

Celery itself would print the message, and so the customers that it may name (SPEC 4, promise 8). And it would try
without a pause to take messages from a Redis that is full, with a traceback every second.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker import consumer
from celery.worker.consumer.consumer import CONNECTION_RETRY  # type: ignore[attr-defined] # not in the stubs
from kombu.message import Message
from redis.exceptions import ResponseError

from worker.pipeline.duties import Trouble

_PAUSE = 1.0  # seconds until what was refused is tried again

log = structlog.get_logger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    return CONNECTION_RETRY not in (record.args or ())


logging.getLogger(consumer.Consumer.__module__).addFilter(_is_news)  # told by ``Consumer`` itself, once


class Consumer(consumer.Consumer):
    """Celery's, with other words for what it cannot read."""

    connection_errors: tuple[type[Exception], ...]
    _taking = Trouble("taking of messages")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Told once, as the other one."""
        self._wait(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Celery connects anew after it, which waits while nobody answers, but not when somebody refuses."""
        super().on_connection_error_after_connected(exc)
        self._wait(exc)

    def on_ready(self) -> None:
        """Messages are taken from now on."""
        super().on_ready()
        self._taking.over()

    def _wait(self, error: Exception) -> None:
        self._taking.met(error)
        if isinstance(error, ResponseError):
            time.sleep(_PAUSE)

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
