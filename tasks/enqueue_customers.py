"""What producers of events call (SPEC 8), where it came to the workers' own queue instead of the one for events.

It is taken all the same, but as any Celery task: a worker that is killed may lose it (docs/decisions/0013).
"""

from typing import Any

import structlog
from celery import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded
from redis.exceptions import RedisError

from tasks import process
from tasks.app import app
from worker.intake.celery_message import TASK
from worker.logs import where

log = structlog.get_logger(__name__)


@app.task(name=TASK, bind=True)
def enqueue_customers_task(task: "Task[..., None]", *args: Any, **kwargs: Any) -> None:
    """Take the event, or keep it as a dead letter; Celery hears nothing that could carry an ID."""
    if process.stopping.is_set():
        raise Reject("stopping", requeue=True)
    here = process.current()
    try:
        here.run(here.worker().celery_events.take_call(task.request.id, args, kwargs))
    except (RedisError, SoftTimeLimitExceeded) as error:
        log.warning("event goes back to its queue", error=type(error).__name__)
        raise Reject("not taken", requeue=True) from None
    except Exception as error:  # noqa: BLE001 - the text of an unforeseen error may hold what must not be shown
        log.error("event was not taken", error=where(error))
