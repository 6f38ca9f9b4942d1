"""Bad input is one clear line and exit code 2 (4 for a guard), and nothing is submitted."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.conftest import Expunge
from worker.embedded import embedded_server
from worker.simulator import Scenario, SimulatorThread


@dataclass(frozen=True)
class Case:
    arguments: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    content: bytes = b"customer_id\nc1\nc2\n"
    environment: dict[str, str] = field(default_factory=dict)


MANY = {"EXPUNGE_CONCURRENCY": "many"}
UPSTREAM = {"EXPUNGE_UPSTREAM_URL": "http://127.0.0.1:9"}
NO_REDIS = {"EXPUNGE_REDIS_URL": "redis://127.0.0.1:9/0"}
CASES = {
    "no file": Case(("run", "nope.csv", "--simulate"), 2, ("nope.csv", "does not exist")),
    "a folder": Case(("run", ".", "--simulate"), 2, ("directory",)),
    "empty file": Case(("run", "in.csv", "--simulate"), 2, ("in.csv", "is empty"), b""),
    "no rows": Case(("run", "in.csv", "--simulate"), 2, ("no rows",), b"customer_id\n"),
    "no such column": Case(("run", "in.csv", "--simulate"), 2, ("'customer_id'", "'id'", "'x'"), b"id,x\n1,2\n"),
    "not UTF-8": Case(("run", "in.csv", "--simulate"), 2, ("line 3", "UTF-8"), b"customer_id\nc1\n\xff\xfe\xfd\n"),
    "unclosed quote": Case(("run", "in.csv", "--simulate"), 2, ("line 2", "quote"), b'customer_id,x\n"c1,2\nc2,3\n'),
    "no upstream": Case(("run", "in.csv"), 2, ("EXPUNGE_UPSTREAM_URL", "--simulate")),
    "upstream not there": Case(("run", "in.csv"), 2, ("127.0.0.1:9", "EXPUNGE_UPSTREAM_URL"), environment=UPSTREAM),
    "http upstream": Case(
        ("run", "in.csv"), 2, ("https://",), environment={"EXPUNGE_UPSTREAM_URL": "http://api.example.com"}
    ),
    "wrong setting": Case(
        ("run", "in.csv", "--simulate"), 2, ("EXPUNGE_CONCURRENCY", "'many'"), environment=MANY
    ),
    "wrong rate": Case(("run", "in.csv", "--simulate", "--rate", "fast"), 2, ("--rate", "'fast'", "50/s")),
    "scenario without rehearsal": Case(
        ("run", "in.csv", "--scenario", "clean"), 2, ("--simulate",), environment=UPSTREAM
    ),
    "no workers anywhere": Case(("run", "in.csv", "--workers", "0"), 2, ("EXPUNGE_REDIS_URL",), environment=UPSTREAM),
    "no place for the report": Case(("run", "in.csv", "--simulate", "--out", "nowhere/r.csv"), 2, ("nowhere", "--out")),
    "report into a device": Case(("run", "in.csv", "--simulate", "--out", "/dev/stdin"), 2, ("no ordinary file",)),
    "sandbox, wrong number": Case(("run", "in.csv", "--confirm", "7"), 4, ("2 records",), environment=UPSTREAM),
    "report over the input": Case(("run", "in.csv", "--simulate", "--out", "./in.csv"), 2, ("--out", "is the input")),
    "no role": Case(("token", "add", "ada"), 2, ("--role", "viewer, submitter, approver, admin", "--help")),
    "trail of no batch": Case(("audit", "--batch", "nope"), 2, ("'nope'", "expunge batches")),
    "short checksum": Case(("approve", "6h0sgvnab11e7", "--sha256", "abc"), 2, ("--sha256", "64 hex digits")),
    "unknown option": Case(("run", "in.csv", "--fast"), 2, ("--fast",)),
    "no Redis": Case(
        ("submit", "in.csv"), 2, ("127.0.0.1:9", "EXPUNGE_REDIS_URL"), environment=UPSTREAM | NO_REDIS
    ),
    "no Redis set": Case(("submit", "in.csv"), 2, ("EXPUNGE_REDIS_URL",), environment=UPSTREAM),
    "worker without upstream": Case(("worker",), 2, ("EXPUNGE_UPSTREAM_URL",)),
    "no such batch": Case(("status", "nope"), 2, ("EXPUNGE_REDIS_URL",)),
    "production": Case(("run", "in.csv", "--environment", "production"), 4, ("--confirm 2",), environment=UPSTREAM),
    "production, wrong number": Case(
        ("run", "in.csv", "--environment", "production", "--confirm", "3"), 4, ("2 records",), environment=UPSTREAM
    ),
    "production submit": Case(
        ("submit", "in.csv", "--environment", "production"), 4, ("--confirm 2",),
        environment=UPSTREAM | NO_REDIS,
    ),
    "too many rows": Case(
        ("run", "in.csv", "--simulate"), 4, ("EXPUNGE_MAX_BATCH",), environment={"EXPUNGE_MAX_BATCH": "1"}
    ),
    "unknown scenario": Case(("run", "in.csv", "--simulate", "--scenario", "nope"), 2, ("--scenario", "nope")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_nothing_is_submitted(name: str, expunge: Expunge) -> None:
    case = CASES[name]
    (expunge.folder / "in.csv").write_bytes(case.content)
    ended = expunge(*case.arguments, **case.environment)
    assert ended.returncode == case.code, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("expunge: ")
    for word in case.says:
        assert word in ended.stderr
    assert not (expunge.folder / ".expunge").exists()


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[str]:
    """A server that asks for a password, by TCP."""
    from redis import Redis  # noqa: PLC0415

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_server(tmp_path / "server") as url, Redis.from_url(url) as redis:
        redis.config_set("port", port)
        redis.config_set("requirepass", "pw-51c2")
        yield f"127.0.0.1:{port}"
        redis.config_set("requirepass", "")


def test_a_redis_that_asks_for_a_password_is_one_line(expunge: Expunge, guarded_redis: str) -> None:
    expunge.environment |= UPSTREAM
    expunge.csv(["c1"], "in.csv")
    for user in ("", ":wrong-77aa@"):
        ended = expunge("submit", "in.csv", EXPUNGE_REDIS_URL=f"redis://{user}{guarded_redis}/0")
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "password" in ended.stderr
        assert "wrong-77aa" not in ended.stderr
    accepted = expunge("submit", "in.csv", EXPUNGE_REDIS_URL=f"redis://:pw-51c2@{guarded_redis}/0")
    assert accepted.returncode == 0, accepted.stderr


def test_a_broken_row_late_in_the_file_submits_nothing(expunge: Expunge) -> None:
    (expunge.folder / "in.csv").write_bytes(b"customer_id\n" + b"c1234567\n" * 5000 + b'"open\n')
    with SimulatorThread(Scenario()) as upstream:
        ended = expunge("run", "in.csv", EXPUNGE_UPSTREAM_URL=upstream.url)
        assert ended.returncode == 2
        assert "line 5002" in ended.stderr
        assert not upstream.log
