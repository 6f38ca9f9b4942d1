"""A batch with a deadline (SPEC 5): ``--due`` of ``submit`` and ``run``, and what ``status`` makes of it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.accounting import MakeIds
from tests.acceptance.conftest import Expunge
from worker.simulator import Scenario, SimulatorThread


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(("due", "said"), [("2020-01-31", "is not after now"), ("soon", "write a day")])
def test_a_deadline_that_is_past_or_none_is_refused_in_one_line(
    expunge: Expunge, make_ids: MakeIds, redis_server: str, command: str, due: str, said: str
) -> None:
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": upstream.url}
        refused = expunge(command, expunge.csv(make_ids(3)), "--due", due)
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
        assert f"--due: '{due}': {said}" in refused.stderr
        assert json.loads(expunge("batches", "--json").stdout) == {"batches": []}
        assert upstream.log == []


def test_status_says_whether_the_present_pace_meets_the_deadline(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    """Nothing was sent yet, so the pace is the rate: 360 records take six minutes at one a second."""
    nobody = "http://127.0.0.1:9"
    expunge.environment |= {
        "EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": nobody, "EXPUNGE_RATE_LIMIT": "1/s"
    }  # fmt: skip
    soon = (datetime.now(UTC) + timedelta(minutes=4)).strftime("%Y-%m-%dT%H:%M:%SZ")
    late = expunge("submit", expunge.csv(make_ids(360)), "--due", soon).stdout.strip()
    found = json.loads(expunge("status", late, "--json").stdout)
    assert (found["due"], found["on_time"]) == (soon, False)
    assert found["expected_end"] > soon
    assert f"due {soon}: too late at the present pace, which ends {found['expected_end'][:15]}" in (
        expunge("status", late).stdout
    )
    fast = json.loads(expunge("status", late, "--json", EXPUNGE_RATE_LIMIT="10/s").stdout)
    assert fast["on_time"]

    assert expunge("pause", late).returncode == 0
    paused = json.loads(expunge("status", late, "--json", EXPUNGE_RATE_LIMIT="10/s").stdout)
    assert (paused["expected_end"], paused["on_time"]) == (None, False)
    assert "not in time as things stand" in expunge("status", late).stdout


def test_a_run_that_ended_before_its_deadline_was_in_time(expunge: Expunge, make_ids: MakeIds) -> None:
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        ran = json.loads(expunge("run", expunge.csv(make_ids(3)), "--due", "+1month", "--json").stdout)
    found = json.loads(expunge("status", ran["batch"], "--json").stdout)
    assert ran["due"] == found["due"] > found["ended_at"] == found["expected_end"]
    assert found["on_time"]
    assert f"due {found['due']}: in time\n" in expunge("status", ran["batch"]).stdout
