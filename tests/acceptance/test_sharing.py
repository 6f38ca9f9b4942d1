"""Batches share workers and a rate, and targets a deployment (SPEC 5): real workers, and the upstream's log."""

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
from redis import Redis

from tests.acceptance.accounting import MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Entry, Scenario, SimulatorThread
from worker.store import keys

_LARGE = 1_000_000

log = logging.getLogger(__name__)


@pytest.fixture
def upstream() -> Iterator[SimulatorThread]:
    with SimulatorThread(Scenario(latency="20ms")) as simulator:
        yield simulator


@pytest.fixture
def site(expunge: Expunge, redis_server: str, upstream: SimulatorThread) -> Expunge:
    """Settings of a deployment whose Redis and upstream run."""
    expunge.environment |= {
        "EXPUNGE_REDIS_URL": redis_server,
        "EXPUNGE_UPSTREAM_URL": upstream.url,
        "EXPUNGE_RATE_LIMIT": "50/s",
    }
    return expunge


def seconds_until_sent(site: Expunge, upstream: SimulatorThread, ids: list[str], *options: str) -> float:
    """From the batch's acceptance until the upstream has seen the last of it."""
    submitted = site("submit", site.csv(ids, f"{ids[0]}.csv"), *options)
    assert submitted.returncode == 0, submitted.stderr
    of = partial(keys.of_batch, submitted.stdout.strip())
    with Redis.from_url(site.environment["EXPUNGE_REDIS_URL"]) as redis:
        wait_for(lambda: redis.hget(of("tally"), "pending") == b"0")
        accepted = int(redis.hget(of("meta"), "created_at") or 0) / 1000
    return max(entry.t for entry in upstream.log if entry.id in set(ids)) - accepted


@pytest.mark.timeout(600)  # a busy machine takes minutes for a million rows
def test_a_small_batch_does_not_wait_for_a_large_one_and_an_urgent_one_hardly_notices_it(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    with SupervisedWorker(site, "--processes", "2"):
        wait_for(lambda: "no worker" not in site("doctor").stdout)
        alone = seconds_until_sent(site, upstream, make_ids(100))
        with (site.folder / "large.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["customer_id"], *([f"large_{number}"] for number in range(_LARGE))])
        submitting = site.start("submit", "large.csv")
        _, err = submitting.communicate(timeout=400)
        assert submitting.returncode == 0, err
        wait_for(lambda: len(upstream.log) > 300)
        behind = seconds_until_sent(site, upstream, make_ids(100))
        urgent = seconds_until_sent(site, upstream, make_ids(100), "--lane", "urgent")
        large = sum(entry.id.startswith("large_") for entry in upstream.log)
    log.info("100 records: alone %.1f s, behind %d %.1f s, urgent %.1f s", alone, _LARGE, behind, urgent)
    assert behind < 3 * alone
    assert urgent < 1.5 * alone
    assert large > 250, "nobody else was at work"


@dataclass
class Target:
    """A merchant in an environment, with a rate, and a batch of its own."""

    site: Expunge
    ids: list[str]
    batch: str = ""

    def submit(self) -> str:
        """Hand in its batch; returns what was said."""
        count = len(self.ids)
        submitted = self.site("submit", self.site.csv(self.ids, f"{count}.csv"), "--confirm", str(count))
        assert submitted.returncode == 0, submitted.stderr
        self.batch = submitted.stdout.strip()
        return submitted.stderr

    def requests(self, upstream: SimulatorThread) -> list[Entry]:
        """What was sent in its name."""
        name, kind = self.site.environment["EXPUNGE_MERCHANT_ID"], self.site.environment["EXPUNGE_ENVIRONMENT"]
        return [entry for entry in upstream.log if (entry.merchant, entry.type) == (name, kind)]

    def completes(self, upstream: SimulatorThread) -> None:
        """Wait for it; what was sent in its name is its batch."""
        assert self.site("watch", self.batch).returncode == 0
        assert self.site("report", self.batch, "--out", f"{self.batch}.csv").returncode == 0
        report = read_report(self.site.folder / f"{self.batch}.csv")
        assert_agree(self.ids, report, self.requests(upstream), most_repeated=0)


def test_targets_of_one_deployment_have_workers_and_rates_of_their_own(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    """What one cannot send, since its rate is low or no worker serves it, is nothing to the others."""

    def target(merchant: str, environment: str, rate: str, count: int) -> Target:
        own = {"MERCHANT_ID": merchant, "ENVIRONMENT": environment, "RATE_LIMIT": rate}
        settings = site.environment | {f"EXPUNGE_{name}": value for name, value in own.items()}
        return Target(replace(site, environment=settings), make_ids(count))

    slow = target("m1", "sandbox", "10/s", 150)
    fast = target("m1", "production", "200/s", 400)
    unserved = target("m2", "sandbox", "200/s", 50)
    with SupervisedWorker(slow.site), SupervisedWorker(fast.site):
        wait_for(lambda: "no worker" not in slow.site("doctor").stdout + fast.site("doctor").stdout)
        assert "no worker is running" in unserved.submit()
        assert "no worker is running" not in slow.submit() + fast.submit()
        fast.completes(upstream)
        slow.completes(upstream)
        assert slow.requests(upstream)[0].t < fast.requests(upstream)[-1].t < slow.requests(upstream)[-1].t
        assert unserved.requests(upstream) == []
        times = [entry.t for entry in slow.requests(upstream)]
        assert max(sum(begin <= at < begin + 1 for at in times) for begin in times) <= 12
    with SupervisedWorker(unserved.site):
        unserved.completes(upstream)
