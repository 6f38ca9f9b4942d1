"""Child processes of a measurement: each has a time limit, writes into a log, and is ended by its own PID."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

ROOT = Path(__file__).resolve().parent.parent
_STOP_TIMEOUT = 30.0  # seconds; longer than `expunge run` gives its own children
_TAIL = 2_000  # characters of a log that are shown


class MeasureError(Exception):
    """A measurement did not end as it must; a figure of it would mean nothing."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process and where it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def check_alive(self) -> None:
        """Raise ``MeasureError`` if it ended."""
        if (code := self.process.poll()) is not None:
            raise MeasureError(f"{self._name()} ended with {code}:\n{self._tail()}")

    def wait(self, timeout: float) -> None:
        """Wait until it ends well; raises ``MeasureError`` if it does not or not in time."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MeasureError(f"{self._name()} took more than {timeout:.0f} s:\n{self._tail()}") from None
        if code:
            raise MeasureError(f"{self._name()} ended with {code}:\n{self._tail()}")

    def stop(self) -> None:
        """SIGTERM; SIGKILL to its process group when that does not help."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session, so its own group
            self.process.wait()

    def _name(self) -> str:
        return " ".join(map(str, self.process.args)) if isinstance(self.process.args, list) else "a child"

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-_TAIL:]


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] = {},
    *,
    cwd: Path | None = None,
) -> Iterator[Child]:
    """A child while the context lasts; its output goes into a new file of ``folder``."""
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd or folder,
            env=_environment(env),
            start_new_session=True,
        )
    child = Child(process, log)
    try:
        yield child
    finally:
        child.stop()


def _environment(changes: Mapping[str, str]) -> Mapping[str, str]:
    """Ours without the settings of whoever starts the measurement, so that defaults are measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
    return {**kept, **changes}


def expunge(*arguments: str) -> list[str]:
    """A command line of the product, of this interpreter's environment."""
    return [str(Path(sys.executable).with_name("expunge")), *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """A command line that runs a module of ours; needs ``cwd=ROOT``."""
    return [sys.executable, "-m", name, *arguments]


def bench_venv(name: str) -> str:
    """A program of the environment that only benchmarks have; raises ``MeasureError`` if it was not made."""
    program = ROOT / ".venv-bench" / "bin" / name
    if not program.exists():
        raise MeasureError(f"{program.relative_to(ROOT)} is not there; `make install-bench` makes it")
    return str(program)


def say(line: str) -> None:
    """Tell how far it is; figures go to stdout."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running stub."""

    url: str

    def seen(self) -> int:
        """How many DELETEs came so far."""
        return int(self._ask("/count"))

    def arrivals(self) -> list[float]:
        """When each DELETE came, in seconds, in order."""
        times: list[float] = self._ask("/arrivals")
        return times

    def wait_for(self, count: int, timeout: float, check: Callable[[], None]) -> None:
        """Wait until that many DELETEs came; ``check`` raises when it is no use to wait."""
        until = time.monotonic() + timeout
        while (seen := self.seen()) < count:
            if time.monotonic() > until:
                raise MeasureError(f"{seen} of {count} requests came within {timeout:.0f} s")
            check()
            time.sleep(0.25)

    def _ask(self, path: str) -> Any:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request("GET", path)
            return orjson.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def stub(latency: float, folder: Path) -> Iterator[Upstream]:
    """A stub of that latency in seconds, on a free port."""
    with started(module("bench.stub", "--latency", str(latency)), folder, cwd=ROOT) as child:
        until = time.monotonic() + 15
        while not (url := child.log.read_text().strip()):
            child.check_alive()
            if time.monotonic() > until:
                raise MeasureError("the stub did not start")
            time.sleep(0.02)
        yield Upstream(url)
