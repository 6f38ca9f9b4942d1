"""The plan and its confirmation (SPEC 6), with the upstream's own log as witness that nothing is sent without it."""

import itertools
import json
import os
from dataclasses import replace

from tests.acceptance.accounting import MakeIds
from tests.acceptance.conftest import Expunge
from worker.simulator import Scenario, SimulatorThread


def test_production_sends_nothing_but_what_was_confirmed(expunge: Expunge, make_ids: MakeIds) -> None:
    name = expunge.csv(make_ids(20))
    expunge.environment["EXPUNGE_ENVIRONMENT"] = "production"
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        planned = json.loads(expunge("plan", name, "--json").stdout)
        sandbox = json.loads(expunge("plan", name, "--json", "--environment", "sandbox").stdout)
        other = json.loads(expunge("plan", name, "--json", "--merchant", "m2").stdout)
        allowed = f"--confirm 20 or --confirm {planned['plan']}"
        expected = {
            (): (4, f"production: nothing was sent; to delete 20 customers, look at the plan, then add {allowed}"),
            ("--confirm", "19"): (4, "19 was confirmed, but there are 20 records"),
            ("--confirm", "19", "--environment", "sandbox"): (4, "19 was confirmed, but there are 20 records"),
            ("--confirm", sandbox["plan"]): (4, allowed),
            ("--confirm", other["plan"]): (4, allowed),
            ("--confirm", "yes"): (2, "neither a number of records nor a plan's ID"),
        }
        for arguments, (exit_code, said) in expected.items():
            ended = expunge("run", name, *arguments)
            assert (ended.returncode, ended.stderr.count("\n")) == (exit_code, 1), ended.stderr
            assert said in ended.stderr

        with (expunge.folder / name).open("a") as file:
            file.write("customer_slipped_in\n")
        changed = expunge("run", name, "--confirm", planned["plan"])
        assert (changed.returncode, changed.stderr.count("\n")) == (4, 1), changed.stderr
        assert ", 21 records; look at" in changed.stderr
        assert upstream.log == []
        assert not (expunge.folder / ".expunge").exists()

        planned = json.loads(expunge("plan", name, "--json").stdout)
        ended = expunge("run", name, "--confirm", planned["plan"])
        assert ended.returncode == 0, ended.stderr
        assert planned["plan"] in ended.stderr
        assert {(entry.merchant, entry.type) for entry in upstream.log} == {("m1", "production")}
        assert len(upstream.log) == 21


def typed(expunge: Expunge, text: str, *arguments: str) -> int:
    """Run a command at a terminal at which somebody types this; returns its exit code."""
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, f"{text}\n".encode())
        return replace(expunge, stdin=terminal)(*arguments).returncode
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_at_a_terminal_production_goes_on_only_when_the_number_of_records_is_typed(
    expunge: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    name = expunge.csv(make_ids(20))
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {
            "EXPUNGE_ENVIRONMENT": "production",
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_REDIS_URL": redis_server,
        }
        for command, text in itertools.product(("submit", "run"), ("", "19", "y")):
            assert typed(expunge, text, command, name) == 4
        assert "no batches" in expunge("batches").stderr
        assert upstream.log == []
        assert typed(expunge, "20", "run", name) == 0
        assert len(upstream.log) == 20
        assert typed(expunge, "20", "submit", name, "--again") == 0


def test_a_plan_says_what_a_run_would_do_and_sends_nothing(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = make_ids(30)
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_RATE_LIMIT": "10/s"}
        first = json.loads(expunge("plan", expunge.csv(ids[:12]), "--json").stdout)
        assert (first["on_hold"], first["deleted_earlier"], first["earlier"]) == (None, None, None)
        assert expunge("run", "customers.csv").returncode == 0
        assert expunge("hold", "add", ids[20], "--ground", "litigation").returncode == 0
        sent = len(upstream.log)

        name = expunge.csv([*ids, "", "in valid", ids[3], *ids[25:]], "second.csv")
        planned = json.loads(expunge("plan", name, "--json").stdout)
        assert [planned[key] for key in ("rows", "valid", "invalid", "duplicates")] == [37, 30, 1, 6]
        assert planned["invalid_lines"] == [{"line": 33, "problem": "contains a space"}]
        assert (planned["on_hold"], planned["deleted_earlier"], planned["to_send"]) == (1, 12, 17)
        assert planned["seconds"] == 1.7
        assert planned["earlier"] == {"batches": 1, "largest": 12}
        shown = expunge("plan", name).stdout
        assert planned["plan"] in shown
        for words in ("on hold           1", "the batch before had 12 rows", "line 33: contains a space"):
            assert words in shown
        assert len(upstream.log) == sent

        ended = expunge("run", name, "--json")
        (line,) = [line for line in ended.stderr.splitlines() if planned["plan"] in line]
        assert "37 rows, 1 invalid, 6 duplicates, 1 on hold, 12 deleted earlier; 17 to send in about 1 s" in line
        assert len(upstream.log) == sent + 17
        tally = json.loads(ended.stdout)["reasons"]
        assert tally == {"confirmed": 17, "deleted_earlier": 12, "invalid_id": 1, "duplicate": 6, "on_hold": 1}
