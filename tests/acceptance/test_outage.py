"""The upstream goes away and comes back, or a record kills its workers: that costs time, and no record (SPEC 4)."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.accounting import read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.servers import free_port
from worker.cli.worker import worker_command
from worker.simulator import Scenario, SimulatorThread

MakeIds = Callable[[int], list[str]]
OUTAGE = 5.0
IN_VAIN = 120
"""Most attempts that an outage may cost: what was granted when it began and until it was known, each for a quarter of a
second at 200 a second, and some probes."""


@contextmanager
def workers(expunge: Expunge, *arguments: str, **more: str) -> Iterator[None]:
    """Worker processes, for the time of the context."""
    process = expunge.start("worker", *arguments, **more)
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def status(expunge: Expunge, batch: str) -> dict[str, Any]:
    answer = expunge("status", batch, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    assert sum(found["tally"].values()) == found["rows"]
    return found


def assert_waits(found: dict[str, Any]) -> None:
    """Paused by itself, with the time at which the upstream is asked again, and without a failure."""
    assert (found["state"], found["state_reason"]) == ("paused", "circuit_open")
    assert found["probe_at"] is not None
    assert found["tally"]["pending"] > 0
    assert found["tally"]["failed"] == found["tally"]["unknown"] == 0


def stays_away(expunge: Expunge, batch: str, began: float) -> list[dict[str, Any]]:
    """Look at the batch again and again until the outage has lasted long enough."""
    wait_for(lambda: status(expunge, batch)["state"] == "paused")
    waited: list[dict[str, Any]] = []
    while not waited or time.monotonic() < began + OUTAGE:
        waited.append(status(expunge, batch))
        assert_waits(waited[-1])
    assert waited[0]["tally"] == waited[-1]["tally"]
    return waited


def assert_accounted(ids: list[str], report: list[dict[str, str]], upstream: SimulatorThread) -> None:
    """Everybody was deleted, once; what the report says of attempts is what the upstream saw, and few were in vain."""
    assert [row["customer_id"] for row in report] == ids
    assert {row["expunge_outcome"] for row in report} <= {"deleted", "absent"}
    assert Counter(entry.id for entry in upstream.log if entry.executed) == dict.fromkeys(ids, 1)
    absent = {row["customer_id"] for row in report if row["expunge_outcome"] == "absent"}
    assert {row["expunge_reason"] for row in report if row["customer_id"] in absent} <= {"after_unanswered_attempt"}
    in_vain = sum(int(row["expunge_attempts"]) for row in report) - len(upstream.log)
    assert 3 <= in_vain <= IN_VAIN


def test_an_outage_in_the_middle_of_a_batch_is_waited_for(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    ids = make_ids(600)
    with SimulatorThread(Scenario(latency="10ms"), port=free_port()) as upstream:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_RATE_LIMIT": "200/s",
            "EXPUNGE_SHARD_SIZE": "50",
        }
        batch = expunge("submit", expunge.csv(ids)).stdout.strip()
        with workers(expunge, "--processes", "2"):
            wait_for(lambda: len(upstream.log) >= 200)
            upstream.stop()
            waited = stays_away(expunge, batch, time.monotonic())
            wait_for(lambda: status(expunge, batch)["probe_at"] > waited[0]["probe_at"])  # asked in vain meanwhile
            assert_waits(status(expunge, batch))
            upstream.start()
            watched = expunge("watch", batch, "--json")
        assert watched.returncode == 0, watched.stderr
        assert json.loads(watched.stdout)["state_reason"] is None
        expunge("report", batch, "--out", "report.csv")
        assert_accounted(ids, read_report(expunge.folder / "report.csv"), upstream)


def test_run_waits_for_an_upstream_that_goes_away_and_comes_back(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(600)
    with SimulatorThread(Scenario(latency="10ms"), port=free_port()) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "200/s"}
        process = expunge.start("run", expunge.csv(ids), "--workers", "2", "--json")
        try:
            wait_for(lambda: len(upstream.log) >= 200)
            upstream.stop()
            began = time.monotonic()
            batch = json.loads(expunge("batches", "--json").stdout)["batches"][0]["batch"]
            stays_away(expunge, batch, began)
            assert process.poll() is None
            upstream.start()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, err
        ended = json.loads(out)
        assert (ended["state"], ended["state_reason"], ended["tally"]["pending"]) == ("completed", None, 0)
        assert_accounted(ids, read_report(expunge.folder / "customers.report.csv"), upstream)


def test_a_record_that_kills_its_workers_is_skipped_and_all_others_are_deleted(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    ids = make_ids(30)
    deadly = ids[14]
    with SimulatorThread(Scenario(latency="20ms")) as upstream:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_SHARD_SIZE": "10",
        }
        batch = expunge("submit", expunge.csv(ids)).stdout.strip()
        with dying_workers(expunge, deadly):
            watched = expunge("watch", batch, "--json")
        assert watched.returncode == 3, watched.stderr
        ended = json.loads(watched.stdout)
        assert (ended["state"], ended["tally"]["skipped"], ended["reasons"]["poisonous"]) == ("completed", 1, 1)
        expunge("report", batch, "--out", "report.csv")
        report = {row["customer_id"]: row for row in read_report(expunge.folder / "report.csv")}
        found = report.pop(deadly)
        assert (found["expunge_outcome"], found["expunge_reason"]) == ("skipped", "poisonous")
        assert "developers" in found["expunge_next_step"]
        assert list(report) == [customer_id for customer_id in ids if customer_id != deadly]
        assert {row["expunge_outcome"] for row in report.values()} <= {"deleted", "absent"}
        assert {row["expunge_reason"] for row in report.values()} <= {"confirmed", "after_interrupted_attempt"}
        assert {entry.id for entry in upstream.log if entry.executed} == set(report)


@contextmanager
def dying_workers(expunge: Expunge, deadly: str) -> Iterator[None]:
    """Two worker processes that die when they are about to send a certain customer."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
    ours = {"TEST_DEADLY_CUSTOMER": deadly, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["tests.acceptance.poisoned" if word == "tasks" else word for word in worker_command(2)]
    with (expunge.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=expunge.folder, env={**inherited, **expunge.environment, **ours}, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)
