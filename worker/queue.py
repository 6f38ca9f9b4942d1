"""The Celery application: its configuration, the names of its tasks and queues, and how messages are sent.

``worker`` never imports ``tasks``: producers send by name. What was measured behind each setting stands in
docs/decisions/0003.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.domain import sentinels
from worker.domain.batches import Target
from worker.domain.sentinels import SentinelAddress

if TYPE_CHECKING:
    from celery import Celery

DELETE_SHARD = "expunge.delete_shard"
"""The task that works on one shard: arguments batch ID, shard, environment, merchant, upstream."""

SHARD_SOFT_LIMIT = 120
"""Seconds after which Celery asks a task to end; a shard's own budget is far below."""
_KEY_PREFIX = "expunge:celery:"  # SPEC 10: all keys begin with expunge:
_HARD_LIMIT = SHARD_SOFT_LIMIT + 30


def celery_app(redis_url: str) -> "Celery":
    """The application, with a Redis as its broker; nothing connects before the first message."""
    from celery import Celery  # noqa: PLC0415 - takes a while, and most commands send nothing

    broker_url, of_broker = _as_kombu_writes(redis_url)
    app = Celery("expunge", broker=broker_url)
    app.conf.update(
        # A message is acknowledged after the work, and given back when its pool process was killed: else it is lost.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # A hard time limit must not acknowledge the shard.
        task_acks_on_failure_or_timeout=False,
        # Outcomes are ours. Celery's own result store costs 556 bytes a task, and its log line of a result is a leak.
        task_ignore_result=True,
        result_backend=None,
        task_store_errors_even_if_ignored=False,
        # With late acks exactly one message a process is held; a larger prefetch would hide shards from other workers.
        worker_prefetch_multiplier=1,
        task_soft_time_limit=SHARD_SOFT_LIMIT,
        task_time_limit=_HARD_LIMIT,
        # A dead connection must be noticed, and the broker waited for, however long it is away.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # READONLY after a demotion would end the worker
        # After a lost connection the message is delivered again: do not let the first copy run beside the second.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        # A publisher may wait a little for Redis; the reconciler covers what is not sent at all.
        task_publish_retry_policy={"max_retries": 10, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 3.0},
        # Pickle and YAML would run what an intruder puts into Redis.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # Neither events nor remote control are used; both cost Redis traffic, and events carry task arguments.
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        # Our own logging, on stderr; Celery's would print task arguments.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport_options={
            "visibility_timeout": 2 * _HARD_LIMIT,  # never extended by Celery: a shorter one runs a shard twice
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,  # by default the sweep comes only every 100 s
            "unacked_mutex_expire": 30,  # a killed sweeper blocks the others that long
            "socket_timeout": 10,  # a half-open connection: no recovery in 150 s without these three
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "priority_steps": [0],  # one BRPOP key a queue instead of four
            "global_keyprefix": _KEY_PREFIX,
            **of_broker,
        },
    )
    return app


def _as_kombu_writes(url: str) -> tuple[str, dict[str, str]]:
    """kombu's own words for a Unix socket and for Sentinels, and the transport options that belong to them."""
    if url.startswith("unix://"):
        return "redis+socket://" + url.removeprefix("unix://"), {}
    if url.startswith(sentinels.SCHEME):
        address = SentinelAddress.parse(url)
        user = f"{quote(address.user or '', '')}:{quote(address.password, '')}@" if address.password else ""
        hosts = ((f"[{host}]" if ":" in host else host, port) for host, port in address.hosts)
        servers = (f"{sentinels.SCHEME}{user}{host}:{port}/{address.database}" for host, port in hosts)
        return ";".join(servers), {"master_name": address.name}
    return url, {}


def queue_of(target: Target) -> str:
    """The queue that a target's workers listen to: others never see its messages."""
    return f"expunge.{target.environment}.{target.merchant}.{target.upstream}"


def events_queue_of(target: Target) -> str:
    """The queue that producers of events send to; no Celery worker consumes it (docs/decisions/0013)."""
    return f"expunge.events.{target.environment}.{target.merchant}"


def lists_of(queue: str) -> list[str]:
    """Where a queue lies in Redis: of a producer with this project's key prefix and of one without, by priority."""
    from kombu.transport.redis import PRIORITY_STEPS, Channel  # noqa: PLC0415 - as above

    by_priority = (queue if step == 0 else f"{queue}{Channel.sep}{step}" for step in PRIORITY_STEPS)
    return [prefix + name for name in by_priority for prefix in (_KEY_PREFIX, "")]


class Publisher:
    """Sends shards to the workers. A message is a hint: one that is lost is sent again by the reconciler."""

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url

    @cached_property
    def _app(self) -> "Celery":
        return celery_app(self._broker_url)

    def send(self, batch_id: str, target: Target, shards: Iterable[int]) -> None:
        """Send one message a shard; blocks for about 0.4 ms each. Raises ``kombu.exceptions.OperationalError``."""
        for shard in shards:
            self._app.send_task(
                DELETE_SHARD,
                args=[batch_id, shard, target.environment.value, target.merchant, target.upstream],
                ignore_result=True,
                queue=queue_of(target),
            )
