"""``expunge web`` as a process of its own, and people who use it over a socket."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.acceptance.servers import free_port

_START_TIMEOUT = 30.0


class Served:
    """The command in a folder of its own; a context manager that ends it, and may be entered again."""

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "web.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
        given = {
            "EXPUNGE_REDIS_URL": redis_url,
            "EXPUNGE_UPSTREAM_URL": "http://127.0.0.1:1",
            "EXPUNGE_MERCHANT_ID": "m1",
            "EXPUNGE_WEB_RATE_LIMIT": "100000/s",
        }
        if "EXPUNGE_OIDC_ISSUER" in environment:
            given["EXPUNGE_WEB_URL"] = self.url
        self._folder, self._environment = folder, {**inherited, **given, **environment}

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text()

    def peak(self) -> float:
        """The most memory that it had so far, in megabytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def cpu(self) -> float:
        """Seconds of a core that it used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "worker.cli", "web", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + _START_TIMEOUT
        while not self._is_ready():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def kill(self) -> None:
        """``kill -9``; entered again, it serves the same address."""
        self._process.kill()
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.stop()
