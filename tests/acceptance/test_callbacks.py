"""Other systems are told what becomes of batches, whatever becomes of workers and receivers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis

from tests.acceptance.accounting import wait_for
from tests.acceptance.conftest import Expunge
from tests.receiver import SECRET, Receiver, Reply, Request
from worker.simulator import SimulatorThread
from worker.store import keys

MakeIds = Callable[[int], list[str]]
NIGHTLY = Path(__file__).parents[2] / "examples" / "nightly.sh"
LIFE = ["batch.planned", "batch.completed"]


@pytest.fixture
def told(expunge: Expunge, upstream: SimulatorThread) -> Iterator[Receiver]:
    """Somebody who is told, set for the command."""
    with Receiver() as receiver:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_CALLBACK_URLS": receiver.url,
            "EXPUNGE_CALLBACK_SECRETS": SECRET,
            "EXPUNGE_CALLBACK_ALLOW_PRIVATE": "true",
        }
        yield receiver


@contextmanager
def worker(expunge: Expunge) -> Iterator[subprocess.Popen[str]]:
    process = expunge.start("worker")
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def submit(expunge: Expunge, ids: list[str], name: str) -> str:
    answer = expunge("submit", expunge.csv(ids, name))
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def wait_for_end(redis_server: str, *batches: str) -> None:
    with Redis.from_url(redis_server) as redis:
        ends = [keys.of_batch(batch, "meta") for batch in batches]
        wait_for(lambda: [redis.hget(end, "state") for end in ends] == [b"completed"] * len(ends), 60)


def wait_until_begun(redis_server: str) -> None:
    """Until a worker has begun with the address: what was done before is not told."""
    with Redis.from_url(redis_server) as redis:
        wait_for(lambda: bool(redis.keys("expunge:callback:*")))


def test_a_worker_that_is_killed_while_it_tells_loses_nothing_and_repeats_by_the_same_id(
    expunge: Expunge, told: Receiver, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    batches: list[str] = []
    with worker(expunge):
        wait_until_begun(redis_server)
        batches.append(submit(expunge, make_ids(20), "a.csv"))
        told.wait_for(lambda one: len(one.taken) == 2)
        told.reply = lambda _: Reply(hang=True)
        batches.append(submit(expunge, make_ids(20), "b.csv"))
        told.wait_for(lambda one: len(one.requests) == 3)
        batches.append(submit(expunge, make_ids(20), "c.csv"))
        wait_for_end(redis_server, *batches)
    told.reply = lambda _: Reply()
    with worker(expunge):
        told.wait_for(lambda one: len(one.taken) == 6)
    of_each = [(request.data["batch"], request.type) for request in told.taken]
    assert sorted(of_each) == sorted((batch, kind) for batch in batches for kind in LIFE)
    assert of_each[:2] == [(batches[0], kind) for kind in LIFE]
    assert told.requests[2].event.get_id() == told.taken[2].event.get_id()
    assert len({request.event.get_id() for request in told.taken}) == 6
    assert [request.event.get_time() for request in told.taken] == sorted(
        at for request in told.taken if (at := request.event.get_time())
    )
    for request in told.taken:
        request.verified()


def test_deleting_goes_on_while_a_receiver_hangs(
    expunge: Expunge, told: Receiver, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    told.reply = lambda _: Reply(hang=True)
    with worker(expunge):
        wait_until_begun(redis_server)
        batch = submit(expunge, make_ids(1000), "many.csv")
        told.wait_for(lambda one: bool(one.requests))
        wait_for_end(redis_server, batch)
    assert {request.type for request in told.requests} == {"batch.planned"}


def test_a_worker_that_is_stopped_while_a_receiver_hangs_stops_and_leaves_the_turn_to_others(
    expunge: Expunge, told: Receiver, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    told.reply = lambda _: Reply(hang=True)
    with worker(expunge) as process:
        wait_until_begun(redis_server)
        submit(expunge, make_ids(5), "few.csv")
        told.wait_for(lambda one: bool(one.requests))
        process.terminate()
        assert process.wait(30) == 0
    with Redis.from_url(redis_server) as redis:
        (name,) = redis.keys("expunge:callback:*")
        seconds, _ = redis.time()
        assert int(redis.hget(name, "until") or 0) / 1000 <= seconds + 1


def test_a_run_tells_the_whole_life_of_its_batch_before_it_ends(
    expunge: Expunge, told: Receiver, make_ids: MakeIds
) -> None:
    def slowly(_: Request) -> Reply:
        time.sleep(3)  # longer than an idle worker takes to stop
        return Reply()

    told.reply = slowly
    answer = expunge("run", expunge.csv(make_ids(20)))
    assert answer.returncode == 0, answer.stderr
    assert [request.type for request in told.taken] == LIFE
    assert told.taken[-1].data["tally"]["deleted"] == 20


def test_a_run_ends_although_its_receiver_is_away_and_the_next_one_tells(
    expunge: Expunge, told: Receiver, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    told.reply = lambda _: Reply(500)
    answer = expunge("run", expunge.csv(make_ids(20)))
    assert answer.returncode == 0, answer.stderr
    assert f"callback 127.0.0.1:{told.port} has not been told all yet" in answer.stderr
    assert "in-the-query" not in answer.stderr
    told.reply = lambda _: Reply()
    with Redis.from_url(redis_server) as redis:
        (name,) = redis.keys("expunge:callback:*")
        redis.hset(name, mapping={"failures": 0, "next_at": 0})  # a run does not wait for what is tried later
    answer = expunge("run", expunge.csv(make_ids(20), "next.csv"))
    assert answer.returncode == 0, answer.stderr
    assert [request.type for request in told.taken] == [*LIFE, *LIFE]


def test_a_rehearsal_tells_nobody(expunge: Expunge, told: Receiver, make_ids: MakeIds) -> None:
    (expunge.folder / ".env").write_text(f"EXPUNGE_CALLBACK_URLS={told.url}\n")
    answer = expunge("run", expunge.csv(make_ids(20)), "--simulate", "--scenario", "clean")
    assert answer.returncode == 0, answer.stderr
    assert told.requests == []


# --- the commands ---


def test_the_addresses_can_be_tried(expunge: Expunge, told: Receiver) -> None:
    answer = expunge("events", "test-callback")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"ok    127.0.0.1:{told.port} answered 204 after ")
    (request,) = told.requests
    assert request.type == "callback.test"
    assert request.verified()["data"].keys() == {"at", "environment", "merchant"}


def test_an_address_that_does_not_take_it_is_named_with_what_to_do(expunge: Expunge, told: Receiver) -> None:
    told.reply = lambda _: Reply(401)
    with Receiver() as well:
        expunge.environment["EXPUNGE_CALLBACK_URLS"] += f" {well.url}"
        answer = expunge("events", "test-callback")
        assert answer.returncode == 2
        bad, good = answer.stdout.splitlines()
        assert bad.startswith(f"FAIL  127.0.0.1:{told.port} answered 401 (")
        assert bad.endswith("must have one of EXPUNGE_CALLBACK_SECRETS, and a clock that is right")
        assert good.startswith("ok    ")
        answer = expunge("events", "test-callback", "--json", "--host", f"127.0.0.1:{well.port}")
        assert answer.returncode == 0
    (shown,) = json.loads(answer.stdout)["callbacks"]
    assert (shown["host"], shown["ok"], shown["status"]) == (f"127.0.0.1:{well.port}", True, 204)
    assert (shown["problem"], shown["next_step"]) == (None, None)


def test_what_cannot_be_tried_is_refused_in_one_line(expunge: Expunge, told: Receiver) -> None:
    answer = expunge("events", "test-callback", "--host", "hooks.example.com")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        f"expunge: --host: no callback goes to 'hooks.example.com'; EXPUNGE_CALLBACK_URLS has: 127.0.0.1:{told.port}\n"
    )
    answer = expunge("events", "test-callback", EXPUNGE_CALLBACK_URLS="")
    assert (answer.returncode, answer.stderr) == (
        2,
        "expunge: EXPUNGE_CALLBACK_URLS is not set, so nobody is told anything\n",
    )
    answer = expunge("worker", EXPUNGE_CALLBACK_SECRETS="")
    assert answer.returncode == 2
    assert answer.stderr.startswith("expunge: EXPUNGE_CALLBACK_SECRETS: must be set")
    assert len(answer.stderr.splitlines()) == 1


def test_doctor_says_which_address_takes_nothing(
    expunge: Expunge, told: Receiver, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    host = f"127.0.0.1:{told.port}"
    assert f"ok    callback {host}: no worker has begun to tell it" in expunge("doctor").stdout
    told.reply = lambda _: Reply(503)
    with worker(expunge):
        wait_until_begun(redis_server)
        assert f"ok    callback {host} takes what it is told" in expunge("doctor").stdout
        submit(expunge, make_ids(5), "few.csv")
        with Redis.from_url(redis_server) as redis:
            (name,) = redis.keys("expunge:callback:*")
            wait_for(lambda: int(redis.hget(name, "failures") or 0) > 0)
    with Redis.from_url(redis_server) as redis:
        assert f"ok    callback {host} answered 503; it has taken nothing for " in expunge("doctor").stdout
        redis.hset(name, "since", 1)
        assert f"FAIL  callback {host} answered 503; it has taken nothing for " in expunge("doctor").stdout
        redis.hset(name, "stopped", 1)
        answer = expunge("doctor")
    assert f"FAIL  callback {host} answered 410: it is told again when a worker is restarted" in answer.stdout
    assert "in-the-query" not in answer.stdout + answer.stderr


# --- schedules ---


def test_the_nightly_job_run_twice_is_one_batch_and_its_report(
    expunge: Expunge, upstream: SimulatorThread, redis_server: str, make_ids: MakeIds
) -> None:
    ids = make_ids(20)
    expunge.csv(ids, "closed-2026-01-31.csv")
    (expunge.folder / "closed-2026-01-31.count").write_text("20\n")
    expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_REDIS_URL": redis_server}
    reports = []
    with worker(expunge):
        for _ in range(2):
            job = nightly(expunge)
            assert job.returncode == 0, job.stderr
            assert job.stdout == ""
            reports.append((expunge.folder / "closed-2026-01-31.report.csv").read_text())
    assert reports[0] == reports[1]
    assert reports[0].count(",deleted,") == 20
    assert json.loads((expunge.folder / "closed-2026-01-31.json").read_text())["state"] == "completed"
    assert len(json.loads(expunge("batches", "--json").stdout)["batches"]) == 1


def test_the_nightly_job_refuses_a_file_of_another_size_and_one_that_is_not_there(
    expunge: Expunge, upstream: SimulatorThread, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_REDIS_URL": redis_server}
    assert nightly(expunge).returncode == 2
    expunge.csv(make_ids(19), "closed-2026-01-31.csv")
    (expunge.folder / "closed-2026-01-31.count").write_text("20\n")
    assert nightly(expunge).returncode == 4


def test_the_nightly_job_says_who_it_is_where_people_have_tokens(
    expunge: Expunge, upstream: SimulatorThread, redis_server: str, make_ids: MakeIds
) -> None:
    expunge.csv(make_ids(20), "closed-2026-01-31.csv")
    (expunge.folder / "closed-2026-01-31.count").write_text("20\n")
    expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_REDIS_URL": redis_server}
    ada = expunge("token", "add", "ada", "--role", "admin").stdout.strip()
    added = expunge("token", "add", "nightly", "--role", "submitter", "--as", "ada", EXPUNGE_TOKEN=ada)
    expunge.environment |= {"EXPUNGE_TOKEN": added.stdout.strip()}
    with worker(expunge):
        assert nightly(expunge).returncode == 4
        expunge.environment |= {"NIGHTLY_AS": "nightly"}
        job = nightly(expunge)
    assert job.returncode == 0, job.stderr
    assert (expunge.folder / "closed-2026-01-31.report.csv").read_text().count(",deleted,") == 20


def nightly(expunge: Expunge) -> subprocess.CompletedProcess[str]:
    """The example script, with the day as an argument and this environment's command."""
    bin_folder = expunge.folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    command = bin_folder / "expunge"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m worker.cli "$@"\n')
    command.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
    path = f"{bin_folder}:{os.environ['PATH']}"
    return subprocess.run(
        [NIGHTLY, expunge.folder, "2026-01-31"],
        env={**inherited, **expunge.environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
