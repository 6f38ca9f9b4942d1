"""One limit for all (SPEC 4, promise 6), by the upstream's own log."""

from collections.abc import Callable

import pytest

from bench.arrivals import most_in_a_second, rate
from tests.acceptance.conftest import Expunge
from worker.simulator import Rule, Scenario, SimulatorThread


def test_three_worker_processes_keep_one_limit_and_use_it(
    expunge: Expunge, make_ids: Callable[[int], list[str]], redis_server: str
) -> None:
    """100/s: no one-second window over 105, and at least 97 % use."""
    with SimulatorThread(Scenario(latency="10ms..60ms")) as upstream:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_RATE_LIMIT": "100/s",
        }
        workers = [expunge.start("worker") for _ in range(3)]
        try:
            batch = expunge("submit", expunge.csv(make_ids(1500))).stdout.strip()
            assert expunge("watch", batch).returncode == 0
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.communicate(timeout=30)
        times = [entry.t for entry in upstream.log]
    assert len(times) == 1500
    assert most_in_a_second(times) <= 105
    assert rate(times) >= 97


@pytest.mark.parametrize("workers", [1, 3])
def test_after_a_429_every_worker_pauses(expunge: Expunge, make_ids: Callable[[int], list[str]], workers: int) -> None:
    ids = ["throttled", *make_ids(400)]
    scenario = Scenario(latency="5ms", rules=[Rule(fault="rate_limited", ids="throttled", retry_after=2, times=1)])
    with SimulatorThread(scenario) as upstream:
        ended = expunge(
            "run", expunge.csv(ids), "--workers", str(workers), EXPUNGE_UPSTREAM_URL=upstream.url,
            EXPUNGE_RATE_LIMIT="100/s",
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        (refused,) = [entry.t for entry in upstream.log if entry.status == 429]
        during = [entry for entry in upstream.log if refused + 0.35 < entry.t < refused + 2.0]
        after = [entry.t for entry in upstream.log if entry.t >= refused + 2.0]
    assert not during, "permits reserved before the pause may leak for a quarter of a second, no longer"
    assert most_in_a_second([at for at in after if at < refused + 4.0]) <= 60, "halved, and no burst on resuming"
