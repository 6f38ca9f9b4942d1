"""A crash costs time, never a record (SPEC 4, promises 1, 2 and 4): kill -9 and the same ``run`` again."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from tests.acceptance.accounting import IN_FLIGHT, MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.conftest import TARGET, UPSTREAM
from worker.queue import queue_of
from worker.simulator import Entry, Scenario, SimulatorThread


def processes_below(parent: int) -> list[int]:
    """PIDs of all descendants, children first."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, level = [], [parent]
    while level:
        level = [pid for pid, above in pairs if above in level]
        found += level
    return found


def kill(pids: Sequence[int], *, spare: Sequence[int] = ()) -> None:
    for pid in pids:
        if pid not in spare:
            with suppress(ProcessLookupError):  # it ended by itself, as when its parent is gone
                os.kill(pid, signal.SIGKILL)


def kill_all(process: "subprocess.Popen[str]", *, spare: Sequence[int] = ()) -> None:
    kill([process.pid, *processes_below(process.pid)], spare=spare)
    process.communicate()


def assert_accounted(ids: list[str], report: Path, log: Sequence[Entry], kills_of: int) -> None:
    """Repeats are within what was in flight at each kill, and answered but not yet written."""
    assert_agree(ids, read_report(report), log, most_repeated=kills_of * (IN_FLIGHT + 128))


@pytest.mark.parametrize("also_server", [False, True], ids=["server survives", "server killed too"])
def test_killed_whole_and_run_again_goes_on_where_it_stopped(
    expunge: Expunge, make_ids: MakeIds, also_server: bool
) -> None:
    ids = make_ids(1500)
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "300/s"}
        arguments = ("run", expunge.csv(ids), "--workers", "1")
        process = expunge.start(*arguments)
        wait_for(lambda: len(upstream.log) > 500)
        server = embedded_pid(expunge)
        kill_all(process, spare=[] if also_server else [server])
        assert also_server or embedded_pid(expunge) == server
        answered = {entry.id for entry in upstream.log}
        ended = expunge(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        assert "going on after" in ended.stderr
        assert_accounted(ids, expunge.folder / "customers.report.csv", upstream.log, kills_of=1)
    assert len(answered) < len(ids)
    absent = json.loads(ended.stdout)["reasons"].keys() & {"not_found", "after_unanswered_attempt"}
    assert not absent, "a 404 after a crash is after_interrupted_attempt"


def embedded_pid(expunge: Expunge) -> int:
    socket = (expunge.folder / ".expunge" / "redis" / "socket").read_text()
    with Redis(unix_socket_path=socket) as redis:
        return int(redis.info("server")["process_id"])


def test_a_killed_worker_is_replaced_while_run_goes_on(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(1000)
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "300/s"}
        process = expunge.start("run", expunge.csv(ids), "--workers", "2", "--json")
        wait_for(lambda: len(upstream.log) > 200)
        kill(processes_below(process.pid), spare=[embedded_pid(expunge)])
        out, err = process.communicate(timeout=110)
        assert process.returncode == 0, err
        assert_accounted(ids, expunge.folder / "customers.report.csv", upstream.log, kills_of=2)
    assert json.loads(out)["tally"]["pending"] == 0


def test_an_embedded_server_that_dies_is_started_again_and_run_goes_on(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(900)
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "200/s"}
        process = expunge.start("run", expunge.csv(ids), "--workers", "1", "--json")
        for sent in (200, 500):
            wait_for(lambda: len(upstream.log) > sent)  # noqa: B023 - asked before the next round
            os.kill(embedded_pid(expunge), signal.SIGKILL)
        watched = expunge("watch", json.loads(expunge("batches", "--json").stdout)["batches"][0]["batch"])
        assert watched.returncode == 0, watched.stderr
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Redis is back" in err
        assert_accounted(ids, expunge.folder / "customers.report.csv", upstream.log, kills_of=2)
    assert json.loads(out)["tally"]["pending"] == 0


def test_messages_that_are_lost_are_sent_again(expunge: Expunge, make_ids: MakeIds, redis_server: str) -> None:
    """The queue and the unacknowledged set deleted by hand: the batch in Redis is the record."""
    ids = make_ids(1200)
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_UPSTREAM_NAME": UPSTREAM,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_RATE_LIMIT": "200/s",
        }
        batch = expunge("submit", expunge.csv(ids)).stdout.strip()
        worker = expunge.start("worker")
        wait_for(lambda: len(upstream.log) > 100)
        worker.terminate()  # at work it would look for shards without any message
        worker.communicate(timeout=30)
        with Redis.from_url(redis_server) as redis:
            names = [f"expunge:celery:{name}" for name in (queue_of(TARGET), "unacked", "unacked_index")]
            assert redis.delete(*names) > 0
        assert {entry.id for entry in upstream.log} < set(ids)
        worker = expunge.start("worker")
        try:
            watched = expunge("watch", batch, "--json")
            assert watched.returncode == 0, watched.stderr
        finally:
            worker.terminate()
            worker.communicate(timeout=30)
        expunge("report", batch, "--out", "report.csv")
        assert_accounted(ids, expunge.folder / "report.csv", upstream.log, kills_of=0)


def test_ctrl_c_drains_and_says_how_to_go_on(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(1000)
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "200/s"}
        process = expunge.start("run", expunge.csv(ids))
        wait_for(lambda: len(upstream.log) > 200)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "To go on: expunge run customers.csv" in err
        sent = len(upstream.log)
        ended = expunge("run", "customers.csv", EXPUNGE_RATE_LIMIT="2000/s")
        assert ended.returncode == 0, ended.stderr
        assert len(upstream.log) == len(ids), "after a soft stop nothing is asked twice"
        assert sent < len(ids)
