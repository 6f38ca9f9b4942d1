"""All that a person's browser has behind it: a store, a simulated payments API, workers, and ``expunge web``."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.web.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.web.served import Served
from worker.domain.people import Role
from worker.embedded import embedded_server

ROLES = {"ada": "admin", "anna": "submitter", "ben": "approver", "vera": "viewer"}
_COMMAND = [sys.executable, "-P", "-m", "worker.cli"]
_RULES = ("--rule", "absent:ids=gone_*", "--rule", "latency:ids=slow_*,latency=500ms")
_MERCHANT = "3kqrchza3j"
_TIMEOUT = 60.0


class Site:
    """A context manager; ``tokens`` has one of each role, by name."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder, self._settings = folder, settings
        self._stack = ExitStack()
        self.tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.redis_url = stack.enter_context(embedded_server(self._folder / "server"))
            self.upstream = self._start_simulator(stack)
            self.environment = {
                "EXPUNGE_REDIS_URL": self.redis_url,
                "EXPUNGE_UPSTREAM_URL": self.upstream,
                "EXPUNGE_MERCHANT_ID": _MERCHANT,
                "EXPUNGE_RATE_LIMIT": "100/s",
                "EXPUNGE_TIMEOUT": "1",
                "EXPUNGE_APPROVAL_ABOVE": "1000",
                "EXPUNGE_WEB_RATE_LIMIT": "1000/s",
                **self._settings,
            }
            self._start("worker", stack)
            self.tokens = {name: self._add_token(name, role) for name, role in ROLES.items()}
            served = Served(self._folder, self.redis_url, **self.environment)
            self.web = stack.enter_context(served)
            self.url = self.web.url
            self._stack = stack.pop_all()
        return self

    def _start_simulator(self, stack: ExitStack) -> str:
        process = self._start(
            "simulator", stack, "--port", "0", "--scenario", "mixed", "--latency", "20ms..60ms", *_RULES
        )
        until = time.monotonic() + _TIMEOUT
        while not (url := (self._folder / "simulator.log").read_text().partition("\n")[0]).startswith("http"):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        return url

    def _start(self, command: str, stack: ExitStack, *arguments: str) -> subprocess.Popen[bytes]:
        log = stack.enter_context((self._folder / f"{command}.log").open("wb"))
        process = subprocess.Popen(
            [*_COMMAND, command, *arguments],
            cwd=self._folder,
            env=_clean() | getattr(self, "environment", {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(_end, process)
        return process

    def _add_token(self, name: str, role: str) -> str:
        admin = {"EXPUNGE_TOKEN": self.tokens["ada"]} if "ada" in self.tokens else {}
        me = ["--as", "ada"] if admin else []
        done = subprocess.run(
            [*_COMMAND, "token", "add", name, "--role", role, *me],
            cwd=self._folder,
            env=_clean() | self.environment | admin,
            check=True,
            capture_output=True,
            text=True,
        )
        self.tokens[name] = done.stdout.strip()
        return self.tokens[name]

    def api(self, name: str) -> httpx.Client:
        """A program that shows somebody's token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.tokens[name]}"}, timeout=60)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class SignedOnSite:
    """The pages alone, and an identity provider at another site: another host, since ports make no site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        provider = IdentityProvider("localhost")
        for name, role in ROLES.items():
            provider.add(name, f"expunge-{role}")
        provider.add("noah")
        with ExitStack() as stack:
            self.issuer = stack.enter_context(provider.running_beside())
            settings = {
                "EXPUNGE_OIDC_ISSUER": self.issuer,
                "EXPUNGE_OIDC_CLIENT_ID": CLIENT_ID,
                "EXPUNGE_OIDC_CLIENT_SECRET": CLIENT_SECRET,
                "EXPUNGE_OIDC_ROLES": "realm_access.roles:" + ";".join(f"{role}=expunge-{role}" for role in Role),
                "EXPUNGE_OIDC_NAME_CLAIM": "preferred_username",
            }
            redis_url = stack.enter_context(embedded_server(self._folder / "server"))
            self.url = stack.enter_context(Served(self._folder, redis_url, **settings)).url
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
