"""What a worker does with messages in its own queue that it cannot read: drops them, and shows nothing of them.

Celery itself would print the message, and so the customers that it may name (SPEC 4, promise 8).
"""

import logging
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker import consumer
from kombu.message import Message

log = structlog.get_logger(__name__)


class Consumer(consumer.Consumer):
    """Celery's, with other words for what it cannot read."""

    connection_errors: tuple[type[Exception], ...]

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
