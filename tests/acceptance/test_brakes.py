"""A batch that ends badly pauses by itself (SPEC 6): real workers, and the upstream's log of what was sent."""

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.acceptance.accounting import IN_FLIGHT, MakeIds, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Rule, Scenario, SimulatorThread

PROCESSES = 2
RATE = 200
NOTICED = 1.0
"""Seconds in which every worker has seen a pause: two writes of outcomes, and the permits reserved ahead."""
BEYOND = int(PROCESSES * IN_FLIGHT + RATE * NOTICED)
"""Most records that are sent beyond those that tripped a brake: what was in flight, and what workers send unaware."""

REJECTING = Scenario(latency="20ms", rules=[Rule(fault="rejected")])
NOBODY = Scenario(latency="20ms", customers=())
CASES = [
    pytest.param(REJECTING, "failure_threshold", "failed, were rejected or are unknown", id="failure_threshold"),
    pytest.param(NOBODY, "mostly_not_found", "were not found", id="mostly_not_found"),
]


@pytest.fixture
def site(expunge: Expunge, redis_server: str) -> Expunge:
    """Settings of a deployment whose Redis runs."""
    expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_RATE_LIMIT": f"{RATE}/s"}
    expunge.environment["EXPUNGE_SHARD_SIZE"] = "50"
    return expunge


def status(site: Expunge, batch: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site("status", batch, "--json").stdout)
    assert sum(found["tally"].values()) == found["rows"]
    return found


def is_still(upstream: SimulatorThread) -> bool:
    """Whether nothing is sent any more, for longer than the reconciler takes for a round."""
    time.sleep(NOTICED)
    before = len(upstream.log)
    time.sleep(7)
    return len(upstream.log) == before


@pytest.mark.parametrize(("scenario", "reason", "words"), CASES)
def test_a_brake_pauses_the_batch_and_a_despite_goes_on(
    site: Expunge, make_ids: MakeIds, scenario: Scenario, reason: str, words: str
) -> None:
    ids = make_ids(1500)
    with SimulatorThread(scenario) as upstream:
        site.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        batch = site("submit", site.csv(ids)).stdout.strip()
        with SupervisedWorker(site, "--processes", str(PROCESSES)):
            watched = site("watch", batch, "--json")
            assert watched.returncode == 4, watched.stderr
            assert is_still(upstream)
            found = status(site, batch)
            assert (found["state"], found["state_reason"]) == ("paused", reason)
            assert found["tripped"]["count"] == found["tripped"]["done"] >= 100
            assert len(upstream.log) == 1500 - found["tally"]["pending"] <= found["tripped"]["done"] + BEYOND
            told = site("status", batch).stdout
            assert f"{found['tripped']['count']} of {found['tripped']['done']} records that were sent {words}" in told
            assert f"expunge resume {batch} --despite {reason}" in told

            refused = site("resume", batch)
            assert (refused.returncode, len(refused.stderr.splitlines())) == (4, 1)
            assert f"--despite {reason}" in refused.stderr
            assert words in refused.stderr

            upstream.use(Scenario())
            assert site("resume", batch, "--despite", reason).returncode == 0
            ended = site("watch", batch, "--json")
        assert ended.returncode == (3 if reason == "failure_threshold" else 0), ended.stderr
    assert json.loads(ended.stdout)["despite"] == [reason]
    assert Counter(entry.id for entry in upstream.log) == dict.fromkeys(ids, 1)


@pytest.mark.parametrize(("scenario", "reason", "words"), CASES)
def test_nobody_beyond_a_canary_that_ends_badly_is_asked_for(
    site: Expunge, make_ids: MakeIds, scenario: Scenario, reason: str, words: str
) -> None:
    """The default in production: twenty."""
    ids = make_ids(400)
    with SimulatorThread(scenario) as upstream:
        site.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_ENVIRONMENT": "production"}
        with SupervisedWorker(site, "--processes", str(PROCESSES)):
            batch = site("submit", site.csv(["", "../x", *ids]), "--confirm", "401").stdout.strip()
            watched = site("watch", batch)
            assert (watched.returncode, is_still(upstream)) == (4, True)
            assert f"20 of the first 20 records that were sent {words}" in watched.stderr
            assert sorted(entry.id for entry in upstream.log) == sorted(ids[:20])
            assert status(site, batch)["state_reason"] == reason

            upstream.use(Scenario())
            assert site("resume", batch, "--despite", "canary").returncode == 0
            assert site("watch", batch, "--json").returncode == 3
    assert Counter(entry.id for entry in upstream.log) == dict.fromkeys(ids, 1)


def test_a_canary_that_is_well_is_alone_and_the_rest_follows_at_once(site: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(400)
    with SimulatorThread(Scenario(latency="200ms")) as upstream:
        site.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_ENVIRONMENT": "production"}
        with SupervisedWorker(site, "--processes", str(PROCESSES)):
            batch = site("submit", site.csv(ids), "--confirm", "400").stdout.strip()
            assert site("watch", batch).returncode == 0
    times = [entry.t for entry in upstream.log]
    assert sorted(entry.id for entry in upstream.log[:20]) == sorted(ids[:20])
    assert 0.2 <= times[20] - times[19] < 6
    assert Counter(entry.id for entry in upstream.log) == dict.fromkeys(ids, 1)


def test_a_canary_whose_worker_dies_is_still_alone(site: Expunge, make_ids: MakeIds) -> None:
    """Its records are sent again by another, and nobody else meanwhile."""
    ids = make_ids(200)
    with SimulatorThread(Scenario(latency="2s")) as upstream:
        site.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_CANARY": "20"}
        with SupervisedWorker(site, "--processes", str(PROCESSES)) as worker:
            batch = site("submit", site.csv(ids)).stdout.strip()
            wait_for(lambda: len(upstream.log) == 20)
            worker.kill()
            wait_for(lambda: len(upstream.log) > 40)
            assert {entry.id for entry in upstream.log[:40]} == set(ids[:20])
            upstream.use(Scenario())
            assert site("watch", batch).returncode == 0


def test_run_stops_at_a_brake_and_the_same_run_does_not_go_on_by_itself(expunge: Expunge, make_ids: MakeIds) -> None:
    with SimulatorThread(REJECTING) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "200/s"}
        name = expunge.csv(make_ids(600))
        paused = expunge("run", name, "--json")
        assert paused.returncode == 4, paused.stderr
        found = json.loads(paused.stdout)
        assert found["state_reason"] == "failure_threshold"
        resume = f"expunge resume {found['batch']} --despite failure_threshold"
        assert resume in paused.stderr
        before = len(upstream.log)
        again = expunge("run", name)
        assert (again.returncode, len(again.stderr.splitlines())) == (4, 1)
        assert resume in again.stderr
        assert f"{found['tripped']['count']} of {found['tripped']['done']}" in again.stderr
        assert len(upstream.log) == before < 600
        assert expunge(*resume.split()[1:]).returncode == 0
        upstream.use(Scenario())
        assert expunge("run", name).returncode == 3
        assert len(upstream.log) == 600
