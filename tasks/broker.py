"""Repairs of kombu's Redis transport.

A message whose acknowledgement failed is not one that is still worked on: kombu counts it as such for ever. A worker
that was busy while Redis was away then takes no message again: it listens only while it has fewer of them than
processes, and so does not even notice that its connection is gone.

A Redis that is full refuses the sweep for what died workers had: kombu's log would have a traceback each time.

And what lies in a queue and is no message must not end the worker, nor its connection and with it a shard.
"""

from json import JSONDecodeError
from queue import Empty
from typing import Any
from uuid import uuid4

import structlog
from kombu import message
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from worker.pipeline.duties import Trouble

_Limit = int | float | None
log = structlog.get_logger(__name__)
_channel: Any = redis.Channel
_read = _channel._brpop_read  # noqa: SLF001 - there is no other place to repair it


class _QoS(redis.QoS):
    """Which messages this worker has in hand."""

    _sweeping = Trouble("restoring of messages")

    def restore_visible(self, *amounts: int, **more: int) -> None:
        """Give back what died workers had; what Redis refuses, as when it is full, is asked again at the next turn."""
        try:
            super().restore_visible(*amounts, **more)
        except ResponseError as error:
            self._sweeping.met(error)
        else:
            self._sweeping.over()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge. What Redis could not be told is delivered once more, and finds its shard done."""
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)


class _Message(virtual.Message):
    """One that Celery can drop even if it lacks what a message has."""

    def __init__(self, payload: Any, channel: Any = None, **more: Any) -> None:
        try:
            _check(payload)
            super().__init__(payload, channel, **more)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._raw = None
            nowhere = {"exchange": "", "routing_key": ""}
            message.Message.__init__(self, channel=channel, delivery_tag=str(uuid4()), delivery_info=nowhere)
            self.errors = [(type(error), error, None)]


def _check(payload: Any) -> None:
    """Raise what kombu would where it is not expected.

    Also for what would stop the worker: a header at which Celery stumbles when it has the place of the task already,
    and what could fill the memory when unpacked.
    """
    headers, properties = payload["headers"], payload["properties"]
    delivery, limits = properties["delivery_info"], headers.get("timelimit") or [None, None]
    names = [properties["delivery_tag"], delivery["exchange"], delivery["routing_key"], headers.get("task", "")]
    names += [headers.get(name) or "" for name in ("id", "eta", "expires")]
    hard, soft = limits
    good = all(isinstance(name, str) for name in names)
    if not good or not isinstance(hard, _Limit) or not isinstance(soft, _Limit) or headers.get("compression"):
        raise ValueError("no message of Celery's")


def _brpop_read(self: Any, **options: Any) -> Any:
    try:
        return _read(self, **options)
    except (JSONDecodeError, UnicodeDecodeError, RecursionError):
        log.error("message dropped", reason="it is no JSON")
        raise Empty from None


def repair() -> None:
    """For all channels of this process, Sentinel's too."""
    _channel.QoS = _QoS
    _channel.Message = _Message
    _channel._brpop_read = _brpop_read  # noqa: SLF001
