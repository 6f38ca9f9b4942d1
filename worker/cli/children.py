"""The workers that ``expunge run`` starts: kept alive while it runs, and gone when it is gone, however it went."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from worker.cli.output import say
from worker.cli.worker import worker_command
from worker.domain.errors import UsageError
from worker.setting_values import PREFIX
from worker.settings import Settings

STOP_TIMEOUT = 20.0
"""Seconds for requests in flight to end; what is killed after that costs no more than a crash."""
IDLE = 0.3
"""Seconds for a worker with nothing to do; Celery takes two."""
_QUICK = 5.0  # seconds; a worker that ends sooner than this did not start at all
_MOST_QUICK_ENDS = 3


class Children:
    """A Celery worker with its pool processes, as one child process."""

    def __init__(self, settings: Settings, processes: int) -> None:
        self._environment = {**os.environ, **_as_environment(settings), "EXPUNGE_EXIT_WITH_STDIN": "1"}
        self._command = worker_command(processes)
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._quick_ends = 0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def restart_if_dead(self) -> None:
        """Start the worker again if it died; raises ``UsageError`` if it never lives long."""
        if self._child is None or self._child.poll() is None:
            return
        self._quick_ends = self._quick_ends + 1 if time.monotonic() - self._started < _QUICK else 0
        if self._quick_ends >= _MOST_QUICK_ENDS:
            raise UsageError("the worker ends as soon as it is started; what it said stands above")
        say(f"worker ended with {self._child.returncode}; starting it again")
        self._start()

    def stop(self, patience: float = STOP_TIMEOUT) -> None:
        """Let requests in flight end, then end the worker; what takes longer than ``patience`` seconds is killed."""
        child = self._child
        if child is None:
            return
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            child.wait()
        self._child = None
        if child.stdin is not None:
            child.stdin.close()

    def kill(self) -> None:
        """End the worker and its pool processes at once; that costs no more than a crash."""
        child = self._child
        if child is not None and child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # it leads a session of its own

    def _start(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        self._started = time.monotonic()
        self._child = subprocess.Popen(  # noqa: S603 - our own command
            self._command,
            stdin=subprocess.PIPE,  # its end tells the worker that we are gone
            stdout=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for us; the workers are stopped by us
        )


def _as_environment(settings: Settings) -> Mapping[str, str]:
    """What differs from the environment: options of the command line, the embedded server, the simulator."""
    values = {
        "redis_url": settings.redis_url.get_secret_value() if settings.redis_url else "",
        "broker_url": settings.broker_url.get_secret_value() if settings.broker_url else "",
        "upstream_url": settings.upstream_url or "",
        "upstream_name": settings.upstream_name,
        "upstream_path": settings.upstream_path,
        "upstream_headers": json.dumps(
            {name: value.get_secret_value() for name, value in settings.upstream_headers.items()}
        ),
        "merchant_id": settings.merchant_id,
        "environment": settings.environment.value,
        "rate_limit": str(settings.rate_limit),
        "callback_urls": " ".join(url.get_secret_value() for url in settings.callback_urls) or ",",  # "" is not set
        "token": "",  # workers have no use for it
        "digest_key": settings.digest_key.get_secret_value() if settings.digest_key else "",
    }
    return {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
