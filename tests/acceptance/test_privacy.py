"""No personal data rests here (SPEC 4, promise 8): canaries in the whole reply, on every path, found nowhere."""

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from tests.acceptance.accounting import wait_for
from tests.acceptance.conftest import Expunge
from worker.simulator import PERSONAL_VALUES, Rule, Scenario, SimulatorThread

CANARIES = [*PERSONAL_VALUES, "CANARY"]
_FILE = (
    '{"status": %s, "message": "CANARY message", "extra": "CANARY", "data": {"success": %s, "status_text": "CANARY", '
    '"errors": ["CANARY"], "data": {"first_name": "CANARY", "email": "CANARY@example.com", "is_active": %s}}}'
)
EVERYTHING = Scenario(
    rules=[
        Rule(fault="status", ids="ok_*", status=200, body=_FILE % ("true", "true", "false")),
        Rule(fault="status", ids="active_*", status=200, body=_FILE % ("true", "true", "true")),
        Rule(fault="status", ids="refused_*", status=200, executed=False, body=_FILE % ("false", "false", "true")),
        Rule(fault="status", ids="bad_*", status=422, body=_FILE % ("false", "false", "true")),
        Rule(fault="status", ids="gone_*", status=404, body=_FILE % ("false", "false", "null")),
        Rule(fault="status", ids="page_*", status=404, body="<html>CANARY</html>"),
        Rule(fault="status", ids="html_*", status=200, body="<html>CANARY</html>", times=1),
        Rule(fault="status", ids="torn_*", status=200, body='{"status": true, "data": {"email": "CANARY', times=1),
        Rule(fault="status", ids="down_*", status=503, body=_FILE % ("false", "false", "true"), times=1),
        Rule(fault="status", ids="other_*", status=200, body='{"status": true, "data": {"customer_id": "CANARY"}}'),
    ]
)
KINDS = ("ok", "active", "refused", "bad", "gone", "page", "html", "torn", "down")


def everything_in(redis: Any) -> bytes:
    """Every key and value, unpacked where it is compressed."""
    parts: list[bytes] = []
    for key in redis.scan_iter(count=1000):
        parts.append(key)
        match redis.type(key):
            case b"string":
                parts.append(redis.get(key) or b"")
            case b"hash":
                for name, value in redis.hgetall(key).items():
                    parts += [name, value, zlib.decompress(value) if value[:1] == b"\x78" else b""]
            case b"zset":
                parts += redis.zrange(key, 0, -1)
            case b"list":
                parts += redis.lrange(key, 0, -1)
            case b"set":
                parts += redis.smembers(key)
    return b"\n".join(parts)


def found_in(text: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.encode() in text]


def test_nothing_of_a_reply_is_found_in_logs_redis_or_reports(
    expunge: Expunge, make_ids: Callable[[int], list[str]], redis_server: str
) -> None:
    ids = [*make_ids(30), *(f"{kind}_{number}" for kind in KINDS for number in range(5))]
    expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_LOG_LEVEL": "debug", "PYTHONDEVMODE": "1"}
    with SimulatorThread(EVERYTHING) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        ended = expunge("run", expunge.csv(ids), "--json")
        paused = expunge("run", expunge.csv(["other_1", *make_ids(5)], "other.csv"), "--json")
        assert sum(entry.executed for entry in upstream.log) > 30
    assert ended.returncode == 3, ended.stderr
    assert paused.returncode == 4, paused.stderr
    with Redis.from_url(redis_server) as redis:
        stored = everything_in(redis)
    assert ids[0].encode() in stored, "the search sees what is stored"
    assert found_in(stored) == []
    said = "".join([ended.stdout, ended.stderr, paused.stdout, paused.stderr])
    assert found_in(said.encode()) == []
    written = b"".join(path.read_bytes() for path in expunge.folder.glob("*.report.csv*"))
    assert b"expunge_outcome" in written
    assert found_in(written) == []
    assert found_in(files_of(expunge.folder)) == []


def files_of(folder: Path) -> bytes:
    """Whatever lies in the folder, the server's append-only file included."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_customer_ids_do_not_appear_in_logs(expunge: Expunge, make_ids: Callable[[int], list[str]]) -> None:
    ids = make_ids(20)
    with SimulatorThread(Scenario(rules=[Rule(fault="unauthorized")])) as upstream:
        ended = expunge("run", expunge.csv(ids), EXPUNGE_UPSTREAM_URL=upstream.url, EXPUNGE_LOG_LEVEL="debug")
    assert "batch paused" in ended.stderr
    assert [customer_id for customer_id in ids if customer_id in ended.stderr] == []


def test_secrets_appear_nowhere(expunge: Expunge, make_ids: Callable[[int], list[str]]) -> None:
    """A header's value must reach the upstream, and neither the process list nor any output or file."""
    secret = "token-4f9a1c"
    with SimulatorThread(Scenario(latency="300ms")) as upstream:
        process = expunge.start(
            "run", expunge.csv(make_ids(40)), EXPUNGE_UPSTREAM_URL=upstream.url,
            EXPUNGE_UPSTREAM_HEADERS=f"X-token: {secret}", EXPUNGE_LOG_LEVEL="debug", EXPUNGE_CONCURRENCY="4",
        )  # fmt: skip
        wait_for(lambda: process.poll() is not None or bool(upstream.log))
        listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert secret not in listed + out + err
    assert secret.encode() not in files_of(expunge.folder)
