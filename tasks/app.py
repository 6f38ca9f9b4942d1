"""The Celery application that workers run: ``celery -A tasks.app worker -P prefork``; ``expunge worker`` starts it."""

import warnings

from celery.platforms import SecurityWarning  # type: ignore[attr-defined] # not in the stubs

from tasks.broker import repair
from worker.logs import configure
from worker.queue import celery_app
from worker.settings import load_settings
from worker.wiring import broker_url

warnings.simplefilter("ignore", SecurityWarning)  # about root and pickle; only JSON is accepted here
settings = load_settings()
configure(settings.log_level)
repair()
app = celery_app(broker_url(settings))
app.conf.imports = ("tasks.process", "tasks.delete_shard", "tasks.enqueue_customers")
app.conf.worker_consumer = "tasks.consumer:Consumer"
