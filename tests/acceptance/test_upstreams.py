"""A batch is sent to the upstream that it was submitted for, and to no other; the upstreams' own logs are witnesses."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.acceptance.accounting import MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Scenario, SimulatorThread


@pytest.fixture
def upstreams() -> Iterator[tuple[SimulatorThread, SimulatorThread]]:
    with SimulatorThread(Scenario()) as one, SimulatorThread(Scenario()) as another:
        yield one, another


def at(expunge: Expunge, upstream: SimulatorThread) -> Expunge:
    """The command, set up for an upstream."""
    return replace(expunge, environment={**expunge.environment, "EXPUNGE_UPSTREAM_URL": upstream.url})


def test_workers_leave_a_batch_of_another_upstream_alone_and_it_is_said_that_nobody_serves_it(
    expunge: Expunge, make_ids: MakeIds, redis_server: str, upstreams: tuple[SimulatorThread, SimulatorThread]
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    here, there = (at(expunge, upstream) for upstream in upstreams)
    ids, others = make_ids(30), make_ids(40)
    with SupervisedWorker(here):
        wait_for(lambda: "no worker" not in here("doctor").stdout)
        unserved = there("submit", there.csv(ids, "unserved.csv"))
        assert "no worker is running" in unserved.stderr
        batch = unserved.stdout.strip()
        served = here("submit", here.csv(others, "served.csv")).stdout.strip()
        assert here("watch", served).returncode == 0
        for asking in (here, there):
            status = asking("status", batch, "--json")
            assert (json.loads(status.stdout)["workers"], json.loads(status.stdout)["tally"]["pending"]) == (0, 30)
            assert "no worker is running for merchant 'm1' in sandbox, upstream" in asking("status", batch).stderr
        watching = here.start("watch", batch)
        assert watching.stderr is not None
        assert any("no worker is running" in line for line in watching.stderr)
        watching.kill()
        watching.communicate()
        time.sleep(6)  # a round of the reconciler
    assert [{entry.id for entry in upstream.log} for upstream in upstreams] == [set(others), set()]
    with SupervisedWorker(there):
        assert there("watch", batch).returncode == 0
    assert there("report", batch, "--out", "report.csv").returncode == 0
    assert_agree(ids, read_report(there.folder / "report.csv"), upstreams[1].log, most_repeated=0)


def test_a_run_does_not_go_on_at_another_upstream(
    expunge: Expunge, make_ids: MakeIds, redis_server: str, upstreams: tuple[SimulatorThread, SimulatorThread]
) -> None:
    expunge.environment["EXPUNGE_REDIS_URL"] = redis_server
    here, there = (at(expunge, upstream) for upstream in upstreams)
    name = expunge.csv(make_ids(20))
    batch = here("submit", name).stdout.strip()
    refused = there("run", name)
    assert (refused.returncode, upstreams[1].log) == (4, []), refused.stderr
    assert f"batch {batch} of this file is for upstream" in refused.stderr.splitlines()[-1]
    ended = here("run", name)
    assert ended.returncode == 0, ended.stderr
    assert (len(upstreams[0].log), upstreams[1].log) == (20, [])


def test_without_an_upstream_nothing_is_submitted(expunge: Expunge, redis_server: str) -> None:
    refused = expunge("submit", expunge.csv(["c1"]), EXPUNGE_REDIS_URL=redis_server)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "EXPUNGE_UPSTREAM_URL" in refused.stderr
