"""A worker under a supervisor, as in production: started again whenever it exits."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from tests.acceptance.conftest import Expunge

_RESTART_AFTER = 0.5  # seconds
_STOP_TIMEOUT = 40.0


class SupervisedWorker:
    """``expunge worker``, for as long as the context lasts."""

    def __init__(self, expunge: Expunge, *arguments: str) -> None:
        self._expunge = expunge
        self._arguments = arguments
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self.lines: list[str] = []
        """What it said on stderr."""
        self.exits = 0
        """How often it exited by itself."""
        self._process = self._start()

    def kill(self) -> None:
        """``kill -9`` of the worker and its pool processes; it is started again."""
        os.killpg(self._process.pid, signal.SIGKILL)

    @contextmanager
    def not_listening(self) -> Iterator[None]:
        """Its parent process, which takes messages, stands still; those of its pool go on."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def _start(self) -> "subprocess.Popen[str]":
        return self._expunge.start("worker", *self._arguments)

    def _supervise(self) -> None:
        while True:
            assert self._process.stderr is not None
            assert self._process.stdout is not None
            self.lines += self._process.stderr  # else a full pipe would stop it
            self._process.stdout.close()
            self._process.stderr.close()
            self._process.wait()
            with suppress(ProcessLookupError):  # what a crashed parent left
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._stopping.wait(_RESTART_AFTER):
                return
            self.exits += 1
            self._process = self._start()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._process.terminate()
        self._thread.join(_STOP_TIMEOUT)
        if self._thread.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()
            raise AssertionError("the worker did not end on SIGTERM")
