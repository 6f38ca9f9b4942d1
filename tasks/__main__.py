"""``python -m tasks PROCESSES``: a worker. Celery's own command line would take half a second more to import."""

import multiprocessing
import signal
import sys
import tempfile

from tasks import process
from tasks.app import app, settings
from worker.queue import queue_of


def main(processes: int) -> int:
    """Work until SIGTERM or SIGINT; returns the exit code."""
    # Else multiprocessing makes a folder for a file without a name, and a worker that is killed leaves it behind.
    multiprocessing.current_process()._config["tempdir"] = tempfile.gettempdir()  # type: ignore[attr-defined] # noqa: SLF001
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
