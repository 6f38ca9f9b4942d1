"""Holds by the command line (SPEC 6): real workers, and the upstream's own log as witness that nobody held was sent."""

import json
import time

from tests.acceptance.accounting import MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Scenario, SimulatorThread

GROUND = "litigation 12/2026"


def told(expunge: Expunge, *arguments: str) -> float:
    """Run a command that succeeds; returns when it said so, before its process has ended."""
    process = expunge.start(*arguments)
    assert process.stderr is not None
    line, at = process.stderr.readline(), time.time()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, line + out + err
    return at


def test_a_hold_in_mid_batch_stops_its_customers_from_when_it_returns_and_released_they_can_be_resubmitted(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    ids = make_ids(1200)
    expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_RATE_LIMIT": "100/s"}
    with SimulatorThread(Scenario(latency="20ms..60ms")) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        with SupervisedWorker(expunge, "--processes", "2"):
            batch = expunge("submit", expunge.csv(ids)).stdout.strip()
            wait_for(lambda: len(upstream.log) > 100)
            sent_before = {entry.id for entry in upstream.log}
            held = [customer_id for customer_id in ids[::2] if customer_id not in sent_before]
            at = told(expunge, "hold", "add", "--file", expunge.csv(held, "held.csv"), "--ground", GROUND)
            assert expunge("watch", batch).returncode == 3

            late = {entry.id for entry in upstream.log if entry.t > at}
            assert len(late) > 100, "the others were to go on"
            assert late.isdisjoint(held)
            sent = {entry.id for entry in upstream.log}
            expunge("report", batch, "--out", "first.csv")
            for row in read_report(expunge.folder / "first.csv"):
                if row["customer_id"] in sent:
                    assert row["expunge_outcome"] == "deleted"
                else:
                    assert (row["expunge_outcome"], row["expunge_reason"]) == ("skipped", "on_hold")
                    assert GROUND in row["expunge_next_step"]
                    assert row["customer_id"] in held

            released = expunge("hold", "remove", "--file", "held.csv", "--resubmit", "--json")
            assert released.returncode == 0, released.stderr
            result = json.loads(released.stdout)
            left = [customer_id for customer_id in held if customer_id not in sent]
            assert [each["customer_id"] for each in result["held_back"]] == left
            assert expunge("watch", result["resubmitted"]).returncode == 0
        expunge("report", result["resubmitted"], "--out", "second.csv")
        assert_agree(left, read_report(expunge.folder / "second.csv"), upstream.log[len(sent) :], most_repeated=0)


def test_who_is_on_hold_when_a_file_is_run_is_planned_as_such_and_not_sent(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(30)
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        held = expunge("hold", "add", ids[7], "--ground", GROUND, "--until", "2999-12-31")
        assert held.returncode == 0, held.stderr
        elsewhere = expunge("hold", "list", "--environment", "production")
        for said in (held.stderr, elsewhere.stderr):
            assert f"on hold for merchant 'm1' in {'sandbox' if said is held.stderr else 'production'}" in said
        ended = expunge("run", expunge.csv(ids), "--json")
        assert ended.returncode == 3, ended.stderr
        assert json.loads(ended.stdout)["reasons"] == {"confirmed": 29, "on_hold": 1}
        assert ids[7] not in {entry.id for entry in upstream.log}
    (row,) = [row for row in read_report(expunge.folder / "customers.report.csv") if row["customer_id"] == ids[7]]
    assert row["expunge_next_step"].endswith(f"({GROUND})")
    (listed,) = json.loads(expunge("hold", "list", "--json").stdout)["holds"]
    assert (listed["customer_id"], listed["ground"], listed["until"]) == (ids[7], GROUND, "2999-12-31T23:59:59Z")
    released = expunge("hold", "remove", ids[7])
    assert released.stdout.split() == [json.loads(ended.stdout)["batch"], "8", ids[7]]

    late = expunge.folder / "late.csv"
    late.write_text(f"customer_id,ground,until\n{ids[0]},tax audit,\n{ids[7]},,2998-12-31\n")
    added = expunge("hold", "add", "--file", str(late), "--ground", GROUND, "--until", "2999-12-31", "--json")
    assert added.returncode == 0, added.stderr
    assert "hint: 1 of them were deleted before, which no hold undoes: row 1 of late.csv (batch " in added.stderr
    assert [each["customer_id"] for each in json.loads(added.stdout)["deleted_earlier"]] == [ids[0]]
    holds = {each["customer_id"]: each for each in json.loads(expunge("hold", "list", "--json").stdout)["holds"]}
    assert {which: (each["ground"], each["until"]) for which, each in holds.items()} == {
        ids[0]: ("tax audit", "2999-12-31T23:59:59Z"),
        ids[7]: (GROUND, "2998-12-31T23:59:59Z"),
    }


def test_a_resubmission_has_the_guards_of_a_submission_and_if_it_is_refused_nobody_is_released(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    ids = make_ids(3)
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_ENVIRONMENT": "production",
        }
        assert expunge("hold", "add", ids[0], "--ground", GROUND).returncode == 0
        with SupervisedWorker(expunge):
            batch = expunge("submit", expunge.csv(ids), "--confirm", "3").stdout.strip()
            assert expunge("watch", batch).returncode == 3

        resubmit = ("hold", "remove", ids[0], "--resubmit", "--json")
        assert expunge(*resubmit).returncode == 4
        assert expunge(*resubmit, "--confirm", "3").returncode == 4
        assert expunge(*resubmit, "--confirm", "1", EXPUNGE_APPROVAL_ABOVE="0").returncode == 4
        (held,) = json.loads(expunge("hold", "list", "--json").stdout)["holds"]
        assert held["customer_id"] == ids[0]

        assert expunge("hold", "remove", ids[0]).returncode == 0, "as far as a resubmission that is killed gets"
        made = json.loads(expunge(*resubmit, "--confirm", "1").stdout)["resubmitted"]
        again = json.loads(expunge(*resubmit, "--confirm", "1").stdout)
        assert (again["released"], again["resubmitted"]) == (0, made)
        assert json.loads(expunge("status", made, "--json").stdout)["canary_left"] == 20
        assert len(upstream.log) == 2


def test_bad_input_of_holds_is_one_line_and_changes_nothing(expunge: Expunge) -> None:
    expunge.csv(["c1", "c2", "c3"], "three.csv")
    expunge.csv(["c3", "c 4", "", "c5/", "c6"], "invalid.csv")
    expunge.csv(["c0", "c1", "c2"], "other.csv")
    assert expunge("hold", "add", "--file", "three.csv", "--ground", GROUND).returncode == 0
    before = expunge("hold", "list", "--json").stdout
    expected = {
        ("add", "c9"): (2, "the customer has no ground: name one with --ground"),
        ("add", "--file", "three.csv"): (2, "row 1 of three.csv has no ground"),
        ("add", "c9", "--ground", " "): (2, "a hold needs a ground"),
        ("add", "c9", "--ground", "x", "--until", "2020-02-29"): (2, "is not after now"),
        ("add", "c9", "--ground", "x", "--until", "soon"): (2, "--until: 'soon': write a day (2026-12-24)"),
        ("add", "--ground", "x"): (2, "name one customer's ID, or a file"),
        ("add", "c9", "--file", "three.csv", "--ground", "x"): (2, "name one customer's ID, or a file"),
        ("add", "../c9", "--ground", "x"): (2, "not acceptable"),
        ("add", "--file", "invalid.csv", "--ground", "x"): (2, "line 3 contains a space, line 5 contains '/'"),
        ("add", "--file", "other.csv", "--ground", "x"): (4, f"row 2 of other.csv is on hold until removed ({GROUND})"),
        ("remove", "c9"): (2, "not on hold: the customer"),
        ("remove", "--file", "other.csv"): (2, "not on hold: row 1 of other.csv"),
        ("remove", "c1", "--resubmit"): (2, "EXPUNGE_REDIS_URL"),
    }
    for arguments, (exit_code, said) in expected.items():
        ended = expunge("hold", *arguments)
        assert ended.returncode == exit_code, (arguments, ended.stderr)
        assert said in ended.stderr, (arguments, ended.stderr)
        assert ended.stderr.count("\n") == 1, (arguments, ended.stderr)
        assert ended.stdout == ""
    assert expunge("hold", "list", "--json").stdout == before
