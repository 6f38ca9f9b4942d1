"""``expunge retry`` with real workers: who is asked for again, and who is not."""

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.accounting import MakeIds, read_report
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Rule, Scenario, SimulatorThread

RULES = [
    Rule(fault="redirect", ids="moved_*", location="/elsewhere"),
    Rule(fault="accepted", ids="accepted_*", executed=True),
    Rule(fault="rejected", ids="rejected_*"),
    Rule(fault="absent", ids="absent_*"),
]
AGAIN = ["moved_1", "accepted_1", "moved_2"]
OTHERS = ["rejected_1", "absent_1", "../x"]


@pytest.fixture
def site(expunge: Expunge, redis_server: str) -> Iterator[tuple[Expunge, SimulatorThread]]:
    """A deployment with a worker."""
    with SimulatorThread(Scenario(rules=RULES)) as upstream:
        expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": upstream.url}
        with SupervisedWorker(expunge):
            yield expunge, upstream


def test_a_retry_asks_again_for_those_who_may_end_otherwise_and_for_nobody_else(
    site: tuple[Expunge, SimulatorThread], make_ids: MakeIds
) -> None:
    expunge, upstream = site
    old = expunge("submit", expunge.csv([*make_ids(30), *AGAIN[:2], *OTHERS, AGAIN[2]])).stdout.strip()
    assert expunge("watch", old).returncode == 3
    upstream.use(Scenario(customers=["moved_1", "moved_2"]))
    before = len(upstream.log)
    made = expunge("retry", old)
    assert made.returncode == 0, made.stderr
    new = made.stdout.strip()
    watched = expunge("watch", new, "--json")
    assert watched.returncode == 0, watched.stderr
    assert sorted(entry.id for entry in upstream.log[before:]) == sorted(AGAIN)

    assert json.loads(watched.stdout)["retry_of"] == old
    assert json.loads(expunge("status", old, "--json").stdout)["retried_by"] == new
    assert new in expunge("status", old).stdout
    assert old in expunge("status", new).stdout
    expunge("report", new, "--out", "second.csv")
    report = read_report(expunge.folder / "second.csv")
    assert [row["customer_id"] for row in report] == AGAIN
    assert [row["expunge_reason"] for row in report] == ["confirmed", "after_unanswered_attempt", "confirmed"]

    again = expunge("retry", old)
    assert (again.returncode, again.stdout.strip()) == (0, new)
    nothing = expunge("retry", new)
    assert (nothing.returncode, nothing.stdout, len(nothing.stderr.splitlines())) == (4, "", 1)
    assert len(upstream.log) == before + len(AGAIN)


def test_a_retry_in_production_needs_the_number_of_records(site: tuple[Expunge, SimulatorThread]) -> None:
    expunge, upstream = site
    expunge.environment["EXPUNGE_ENVIRONMENT"] = "production"
    with SupervisedWorker(expunge):
        old = expunge("submit", expunge.csv([*AGAIN, *OTHERS]), "--confirm", "6", EXPUNGE_CANARY="0").stdout.strip()
        assert expunge("watch", old).returncode == 3
    before = len(upstream.log)
    for wrong in ([], ["--confirm", "6"]):
        refused = expunge("retry", old, *wrong, EXPUNGE_ENVIRONMENT="sandbox")
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (4, "", 1)
    assert expunge("retry", old, "--confirm", "3").returncode == 0
    assert len(upstream.log) == before


def test_a_retry_without_workers_elsewhere_says_what_to_do(expunge: Expunge) -> None:
    refused = expunge("retry", "0123456789abc")
    assert refused.returncode == 2
    assert "feed the report to `expunge run`" in refused.stderr


def test_a_retry_in_production_has_its_guards_whatever_is_set_where_it_is_asked_for(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": upstream.url}
        old = expunge(
            "submit", expunge.csv(make_ids(30)), "--environment", "production", "--confirm", "30"
        ).stdout.strip()
        assert expunge("cancel", old).returncode == 0
        refused = expunge("retry", old)
        assert (refused.returncode, refused.stdout) == (4, "")
        assert "--confirm 30" in refused.stderr
        made = expunge("retry", old, "--confirm", "30", "--json", EXPUNGE_ENVIRONMENT="sandbox")
        assert json.loads(made.stdout)["canary_left"] == 20
        assert not upstream.log
