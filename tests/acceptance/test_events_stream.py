"""Deletions asked for by a Redis Stream (SPEC 8): a plain client adds entries; listeners and a worker do the rest."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from tests.acceptance.accounting import MakeIds, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.servers import RedisServer
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import SimulatorThread

STREAM, GROUP = "closed-accounts", "purge"
TYPE = "com.example.account.closed"
LISTEN = ("events", "listen", "--stream", STREAM, "--group", GROUP, "--claim-after", "1")
Listen = Callable[..., "subprocess.Popen[str]"]
BAD: dict[str, dict[Any, Any]] = {
    "it names no customer": {"reference": "A-1"},
    "its customer ID is not accepted by EXPUNGE_ID_PATTERN": {"customer_id": "../accounts"},
    "its fields must be event alone, or some of customer_id, id, source, reference, due, lane": {"customer": "c1"},
    "its type 'com.example.other' is none of EXPUNGE_EVENT_TYPES": {
        "event": '{"specversion":"1.0","id":"1","source":"/crm","type":"com.example.other","data":{"customer_id":"c1"}}'
    },
    "it is no CloudEvent 1.0 as JSON": {"event": "not JSON"},
    "it has no id": {"event": f'{{"specversion":"1.0","source":"/crm","type":"{TYPE}","data":{{"customer_id":"c1"}}}}'},
    "it has 1,000,005 bytes; at most 262,144 are taken": {"event": "x" * 1_000_000},
}
"""The reason by which each is refused."""


@pytest.fixture
def site(site: Expunge) -> Expunge:
    site.environment |= {
        "EXPUNGE_EVENT_TYPES": TYPE,
        "EXPUNGE_EVENT_BATCH_SIZE": "700",
        "EXPUNGE_EVENT_BATCH_AGE": "2",
    }
    return site


@pytest.fixture
def listen(site: Expunge) -> Iterator[Listen]:
    """Starts listeners; those that still run at the end are killed."""
    started = []

    def start(*arguments: str, **more: str) -> "subprocess.Popen[str]":
        started.append(site.start(*LISTEN, *arguments, **more))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            process.communicate()


@pytest.fixture
def redis(redis_server: str) -> Iterator[Redis]:
    with Redis.from_url(redis_server) as client:
        yield client


def fields_of(number: int, customer: str) -> dict[Any, Any]:
    """Flat, or every third one a CloudEvent."""
    if number % 3:
        return {"customer_id": customer, "reference": f"ticket-{number}"}
    event = {
        "specversion": "1.0", "id": f"e{number}", "source": "/crm", "type": TYPE, "reference": f"ticket-{number}",
        "data": {"customer_id": customer},
    }  # fmt: skip
    return {"event": json.dumps(event)}


def group(redis: Redis) -> dict[str, Any]:
    found: list[dict[str, Any]] = redis.xinfo_groups(STREAM) if redis.exists(STREAM) else []
    return next(iter(found), {})


def all_is_done(redis: Redis) -> bool:
    state = group(redis)
    return bool(state) and state["lag"] == 0 and state["pending"] == 0


def stopped(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a listener that is asked to stop."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def all_rows(expunge: Expunge) -> list[dict[str, str]]:
    """The reports of all batches together."""
    rows = []
    for batch in json.loads(expunge("batches", "--json").stdout)["batches"]:
        path = Path(expunge.folder / f"{batch['batch']}.csv")
        assert expunge("report", batch["batch"], "--out", path.name).returncode == 0
        rows += read_report(path)
    return rows


def gathered(expunge: Expunge, redis: Redis) -> None:
    """Wait until all events that were taken are in batches, and these have ended."""

    def ended() -> bool:
        return all(each["ended_at"] for each in json.loads(expunge("batches", "--json").stdout)["batches"])

    wait_for(lambda: not redis.keys("expunge:gatherings:*") and ended(), 90)


def test_every_entry_is_in_one_report_and_deleted_once_though_a_listener_is_killed_and_every_bad_one_is_a_dead_letter(
    site: Expunge, listen: Listen, redis: Redis, upstream: SimulatorThread, make_ids: MakeIds
) -> None:
    ids = make_ids(4000)
    added: dict[str, str] = {}
    with SupervisedWorker(site):
        one, two = listen(), listen()
        wait_for(lambda: group(redis).get("consumers") == 4)  # two side by side in each process
        for number, customer in enumerate(ids):
            redis.xadd(STREAM, fields_of(number, customer))
            if number % 100 == 50:
                reason, bad = list(BAD.items())[number // 100 % len(BAD)]
                added[f"{STREAM} {cast('bytes', redis.xadd(STREAM, bad)).decode()}"] = reason
            if number == 2000:
                os.kill(one.pid, signal.SIGKILL)
                one.communicate()
                one = listen()
        wait_for(lambda: all_is_done(redis))
        gathered(site, redis)
        for number in range(50, len(ids), 100):  # not before: two batches side by side would both ask for the customer
            redis.xadd(STREAM, fields_of(number, ids[number]))  # number % 3: mostly another event for the customer
        wait_for(lambda: all_is_done(redis))
        gathered(site, redis)
        for process in (one, two):
            code, _, err = stopped(process)
            assert code == 0, err
            assert "stopped: taken" in err
        rows = all_rows(site)

    first = [row for row in rows if row["expunge_reason"] not in {"duplicate", "deleted_earlier"}]
    assert Counter(row["customer_id"] for row in first) == Counter(ids)
    assert {row["expunge_outcome"] for row in first} == {"deleted"}
    assert Counter(entry.id for entry in upstream.log if entry.executed) == Counter(ids)
    assert Counter(entry.id for entry in upstream.log) == Counter(ids)
    events = Counter((row["event_source"], row["event_id"]) for row in rows)
    assert set(events.values()) == {1}, "an event is one row, once"
    assert {row["reference"] for row in rows} == {f"ticket-{number}" for number in range(len(ids))}

    letters = json.loads(site("events", "dead-letters", "--json").stdout)["dead_letters"]
    assert {each["place"]: each["reason"] for each in letters} == added
    assert len(letters) == len(added)
    assert group(redis)["pending"] == 0


def test_while_redis_is_away_a_listener_waits_and_says_so_once_and_a_stop_is_a_stop(
    site: Expunge, listen: Listen, tmp_path: Path, make_ids: MakeIds
) -> None:
    ids = make_ids(20)
    with RedisServer(tmp_path / "valkey") as valkey:
        site.environment["EXPUNGE_REDIS_URL"] = valkey.url
        listener = listen("--json", "--claim-after", "600")  # else after a pause it repeats what it has itself
        with valkey.client() as redis:
            for number, customer in enumerate(ids[:10]):
                redis.xadd(STREAM, fields_of(number, customer))
            wait_for(lambda: all_is_done(redis))
        assert listener.stderr is not None
        for _ in range(2):
            valkey.kill()
            said = ""
            while "waiting for it" not in said:
                said = listener.stderr.readline()
                assert said, "it ended"
            valkey.start()
            while "Redis is back" not in said:
                said = listener.stderr.readline()
                assert said, "it ended"
                assert "waiting for it" not in said, "it is said once"
        with valkey.client() as redis:
            for number, customer in enumerate(ids[10:], 10):
                redis.xadd(STREAM, fields_of(number, customer))
            wait_for(lambda: all_is_done(redis))
        code, out, err = stopped(listener, signal.SIGINT)
        assert code == 130, err
        assert json.loads(out) == {"stream": STREAM, "group": GROUP, "taken": 20, "repeated": 0, "refused": 0}

        valkey_away = listen()
        with valkey.client() as redis:
            wait_for(lambda: group(redis).get("consumers") == 2)  # two side by side in one process
        valkey.kill()
        code, _, err = stopped(valkey_away)
        assert code == 0, err


def test_a_stream_that_becomes_something_else_is_told_once_and_waited_for(
    listen: Listen, redis: Redis, make_ids: MakeIds
) -> None:
    first, second = make_ids(2)
    listener = listen()
    redis.xadd(STREAM, fields_of(0, first))
    wait_for(lambda: all_is_done(redis))
    assert listener.stderr is not None
    redis.set(STREAM, "x")
    said = [listener.stderr.readline()]
    while said[-1] and "waiting until" not in said[-1]:
        said.append(listener.stderr.readline())
    time.sleep(3)  # several tries
    redis.delete(STREAM)
    while said[-1] and "the stream is back" not in said[-1]:
        said.append(listener.stderr.readline())
    redis.xadd(STREAM, fields_of(1, second))
    wait_for(lambda: all_is_done(redis))
    code, _, err = stopped(listener)
    assert code == 0, err
    assert [line for line in said if "is a stream again" in line or "is back" in line] == [
        f"--stream: the key '{STREAM}' holds something else than a stream; waiting until it is a stream again ...\n",
        "the stream is back\n",
    ]
    assert sum("the stream's group was gone" in line for line in said) == 1, said


def test_it_stops_although_nobody_reads_what_it_says(listen: Listen, redis: Redis) -> None:
    listener = listen()
    wait_for(lambda: group(redis).get("consumers") == 2)  # two side by side in one process
    for pipe in (listener.stdout, listener.stderr):
        assert pipe is not None
        pipe.close()
    listener.terminate()
    listener.wait(timeout=60)
    assert group(redis)["consumers"] == 0, "it has left as on any other stop"


def test_letters_are_listed_taken_in_again_and_removed(site: Expunge, listen: Listen, redis: Redis) -> None:
    listener = listen(EXPUNGE_ID_PATTERN="c[0-9]+")
    for customer in ("x1", "x2", "x 3"):
        redis.xadd(STREAM, {"customer_id": customer})
    wait_for(lambda: all_is_done(redis))
    assert stopped(listener)[0] == 0

    listed = site("events", "dead-letters").stdout.splitlines()
    assert len(listed) == 3
    assert all(f"stream  {STREAM} " in line and "x1" not in line for line in listed)
    ids = [line.split()[0] for line in listed]

    assert site("events", "dead-letters", "--again", ids[0]).returncode == 0
    again = site("events", "dead-letters", "--again", "--all", "--json")
    assert again.returncode == 3, again.stderr
    left = [{"id": ids[2], "reason": "its customer ID is not accepted by EXPUNGE_ID_PATTERN"}]
    assert json.loads(again.stdout) == {"taken": 1, "left": left}
    gone = site("events", "dead-letters", "--remove", ids[2], "--json")
    assert json.loads(gone.stdout) == {"removed": 1}
    assert "there are no dead letters" in site("events", "dead-letters").stderr


def test_what_cannot_be_listened_to_is_one_line(site: Expunge, redis: Redis, redis_server: str) -> None:
    redis.set("text", "x")
    redis.acl_setuser("narrow", enabled=True, nopass=True, keys=["expunge:*"], commands=["+@all"])
    narrow = redis_server.replace("//", "//narrow:x@", 1)
    nobody = {"EXPUNGE_REDIS_URL": "redis://127.0.0.1:1/0"}
    expected: list[tuple[Sequence[str], dict[str, str], str]] = [
        (("listen", "--stream", "text"), {}, "the key 'text' holds something else than a stream"),
        (("listen", "--stream", "expunge:audit"), {}, "is a key of Expunge itself"),
        (("listen", "--stream", ""), {}, "must be 1 to 200 printable characters"),
        (("listen",), {}, "--stream"),
        (("listen", "--stream", STREAM), nobody, "does not answer"),
        (("listen", "--stream", STREAM), {"EXPUNGE_REDIS_URL": narrow}, "does not let this user do what is needed"),
        (("dead-letters", "--again"), {}, "name the IDs that are meant, or --all"),
        (("dead-letters", "--all"), {}, "is for --again or --remove"),
        (("dead-letters", "--again", "--remove", "--all"), {}, "choose one"),
        (("dead-letters", "--remove", "1-1"), {}, "there is no dead letter 1-1"),
        (("dead-letters", "--remove", "x"), {}, "'x' is no ID of a dead letter"),
    ]
    for arguments, settings, said in expected:
        ended = site("events", *arguments, **settings)
        assert (ended.returncode, ended.stdout) == (2, ""), (arguments, ended.stderr)
        assert said in ended.stderr.splitlines()[-1], (arguments, ended.stderr)
        assert ended.stderr.count("\n") == 1, (arguments, ended.stderr)


def test_who_listens_or_reads_what_letters_hold_must_be_one_who_may_submit(site: Expunge, redis: Redis) -> None:
    admin = site("token", "add", "ada", "--role", "admin").stdout.strip()
    viewer = site("token", "add", "vera", "--role", "viewer", "--as", "ada", EXPUNGE_TOKEN=admin).stdout.strip()
    vera = {"EXPUNGE_TOKEN": viewer}
    assert site(*LISTEN).returncode == 4
    for refused in (LISTEN, ("events", "dead-letters", "--json"), ("events", "dead-letters", "--remove", "--all")):
        ended = site(*refused, "--as", "vera", **vera)
        assert (ended.returncode, ended.stdout) == (4, ""), ended.stderr
        assert "vera is viewer; submit is for submitter or admin" in ended.stderr
    assert site("events", "dead-letters", "--as", "vera", **vera).returncode == 0
    assert not redis.exists(STREAM), "a refused listener makes no group"
