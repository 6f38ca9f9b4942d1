"""``python -m tasks PROCESSES``: a worker. Celery's own command line would take half a second more to import."""

import signal
import sys

from tasks import process
from tasks.app import app, settings
from worker.queue import queue_of


def main(processes: int) -> int:
    """Work until SIGTERM or SIGINT; returns the exit code."""
    worker = app.Worker(
        pool_cls="prefork",
        concurrency=processes,
        queues=[queue_of(settings.target)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return 128 + signal.SIGINT if process.stopped_by == "SIGINT" else int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
