"""What acceptance tests share: the real command in processes, a real server, and an upstream that logs each DELETE."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from worker.embedded import embedded_server
from worker.simulator import Scenario, SimulatorThread

TIMEOUT = 120.0


@dataclass
class Expunge:
    """The command ``expunge`` in a folder of its own, with its own environment."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    stdin: int = subprocess.DEVNULL

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.cli", *arguments],  # -P: as the installed command has it
            cwd=self.folder,
            env={**inherited, **self.environment, **more},
            stdin=self.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"expunge {' '.join(arguments)} did not end:\n{err}")
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def csv(self, ids: list[str], name: str = "customers.csv", header: str = "customer_id") -> str:
        """Write a file of one column; returns its name."""
        (self.folder / name).write_text("\n".join([header, *ids]) + "\n")
        return name


@pytest.fixture
def expunge(tmp_path: Path) -> Expunge:
    return Expunge(tmp_path, {"EXPUNGE_MERCHANT_ID": "m1", "EXPUNGE_RATE_LIMIT": "5000/s"})


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[str]:
    with embedded_server(tmp_path / "server") as url:
        yield url


@pytest.fixture
def upstream() -> Iterator[SimulatorThread]:
    with SimulatorThread(Scenario()) as simulator:
        yield simulator


@pytest.fixture
def site(expunge: Expunge, redis_server: str, upstream: SimulatorThread) -> Expunge:
    """A deployment whose Redis and upstream run, and where nobody has a token yet."""
    expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": upstream.url}
    return expunge


@pytest.fixture
def make_ids() -> Callable[[int], list[str]]:
    return lambda count: [f"customer_{secrets.token_hex(16)}" for _ in range(count)]
