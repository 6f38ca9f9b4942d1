"""The scenario format: what is accepted, what is refused and how, and which requests a rule meets."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.simulator import FAULTS, Outage, Rule, Scenario, ScenarioError, parse_rule
from worker.simulator.endpoint import PATH, Endpoint
from worker.simulator.faults import Ending
from worker.simulator.journal import Entry, Journal
from worker.simulator.rules import RuleBook

IDS = [f"customer_{number:032x}" for number in range(4000)]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_full_scenario_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\nb\n\n", "utf-8")
    scenario = Scenario.load(
        written(
            tmp_path,
            """
            seed = 7
            latency = "20ms..80ms"
            rate_limit = "100/s"
            retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"
            customers = "ids.txt"
            [[rule]]
            fault = "server_error"
            ids = "customer_bad_*"
            share = 0.02
            times = 2
            [[outage]]
            start = 5.0
            seconds = 10.0
            fault = "server_error"
            """,
        )
    )
    assert scenario.latency == pytest.approx((0.02, 0.08))
    assert scenario.rate_limit == (100, 1.0)
    assert scenario.customers == frozenset({"a", "b"})
    assert scenario.rules == (Rule(fault="server_error", ids="customer_bad_*", share=0.02, times=2),)
    assert scenario.outages == (Outage(fault="server_error", start=5.0, seconds=10.0),)


def test_customers_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    assert Scenario.load(written(tmp_path, 'customers = ["a"]')).customers == frozenset({"a"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[[rule]]\nfault="absent"\n[[rule]]\nfault="foo"',
            "rule 2: unknown fault 'foo'; known: status, rate_limited, ",
        ),
        ('[[rule]]\nfault="absent"\nshares=1', "rule 1: unknown key 'shares'; known: fault, status, "),
        ("[[rule]]\nshare=0.1", "rule 1: 'fault' is missing"),
        ('[[rule]]\nfault="absent"\nshare=2', "rule 1: share: input should be less than or equal to 1, not '2'"),
        ('[[rule]]\nfault="absent"\nretry_after=1', "rule 1: fault 'absent' takes no 'retry_after'"),
        ('[[rule]]\nfault="status"', "rule 1: fault 'status' needs 'status'"),
        ('[[rule]]\nfault="rejected"\nshape="html"', "rule 1: fault 'rejected' has no shape 'html'; it has: example, "),
        ('[[rule]]\nfault="rejected"\nmissing_field=1', "rule 1: missing_field 1 is neither a list of names nor one"),
        ('[[rule]]\nfault="redirect"\nlocation="a\\r\\nb"', "rule 1: 'a\\r\\nb' cannot stand in a header"),
        ('[[outage]]\nfault="absent"', "outage 1: 'seconds' is missing"),
        ('[[outage]]\nfault="absent"\nseconds=1\ntimes=1', "outage 1: unknown key 'times'; known: fault, "),
        ('latency = "soon"', "latency 'soon' is not a duration such as 50ms, 1.5s or 20ms..80ms"),
        ('latency = "80ms..20ms"', "latency '80ms..20ms' is not a duration"),
        ('rate_limit = "100"', "rate_limit '100' is not a rate such as 100/s"),
        ("speed = 1", "unknown key 'speed'; known: seed, latency, rate_limit, retry_after, customers, rule, outage"),
        (
            '[[rule]]\nfault="absent"\nshare=0.6\n[[rule]]\nfault="accepted"\nshare=0.6',
            "the shares of all rules add up",
        ),
        ("seed = ", "not TOML: "),
        ("rule = 1", "rule: input should be a valid tuple, not '1'"),
    ],
)
def test_a_wrong_scenario_is_refused_in_one_line_that_says_where(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        Scenario.load(written(tmp_path, text))
    assert str(caught.value).startswith(f"scenario.toml: {complaint}")
    assert "\n" not in str(caught.value)


def test_a_scenario_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere: no such file; built-in scenarios: clean, mixed$"):
        Scenario.load("nowhere")
    with pytest.raises(ScenarioError, match="cannot be read: Is a directory"):
        Scenario.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ScenarioError, match=r"latin\.toml: not UTF-8"):
        Scenario.load(tmp_path / "latin.toml")


def test_clean_injects_nothing() -> None:
    assert Scenario.load("clean") == Scenario()


def test_a_scenario_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Scenario().seed = 1  # type: ignore[misc]


def test_overrides_go_before_the_scenario_s_own_rules() -> None:
    scenario = Scenario(seed=3, rules=[Rule(fault="absent")])
    changed = scenario.with_overrides(latency="50ms", rate_limit="10/s", rules=[parse_rule("forbidden:ids=a*")])
    assert (changed.seed, changed.latency, changed.rate_limit) == (3, (0.05, 0.05), (10, 1.0))
    assert [rule.fault for rule in changed.rules] == ["forbidden", "absent"]
    assert scenario.with_overrides() == scenario
    with pytest.raises(ScenarioError, match=r"^options: latency 'x' is not a duration"):
        scenario.with_overrides(latency="x")


def test_a_rule_can_be_written_as_an_option() -> None:
    assert parse_rule("server_error") == Rule(fault="server_error")
    assert parse_rule("server_error:share=0.1,times=2") == Rule(fault="server_error", share=0.1, times=2)
    rule = parse_rule("status:status=503,retry_after=Wed, 21 Oct 2026 07:28:00 GMT,executed=true,ids=a*")
    assert (rule.status, rule.retry_after, rule.executed) == (503, "Wed, 21 Oct 2026 07:28:00 GMT", True)
    assert parse_rule("rejected:missing_field=tax_id+dob").missing_field == ("tax_id", "dob")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("foo:share=0.1", "rule 'foo:share=0.1': unknown fault 'foo'; known: status, "),
        ("absent:share", "rule 'absent:share': 'share' is not KEY=VALUE"),
        ("absent:share=x", "rule 'absent:share=x': share: input should be a valid number"),
        ("absent:shares=1", "rule 'absent:shares=1': unknown key 'shares'; known: fault, "),
    ],
)
def test_a_wrong_rule_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_rule(text)
    assert str(caught.value).startswith(complaint)


def test_shares_are_disjoint_of_the_size_asked_for_and_the_same_each_time() -> None:
    rules = [Rule(fault=fault, share=0.1) for fault in ("absent", "accepted", "forbidden")]
    book = RuleBook(rules, seed=7)
    met = {rule.fault: [i for i in IDS if book.find(i, 1) is rule] for rule in rules}
    for members in met.values():
        assert 300 < len(members) < 500
    assert sum(map(len, met.values())) == len(set().union(*met.values()))
    assert met["accepted"] == [i for i in IDS if RuleBook(rules, seed=7).find(i, 1) is rules[1]]
    assert met["accepted"] != [i for i in IDS if RuleBook(rules, seed=8).find(i, 1) is rules[1]]


def test_all_ids_are_met_when_the_shares_add_up_to_one() -> None:
    book = RuleBook([Rule(fault="absent", share=0.5), Rule(fault="accepted", share=0.5)], seed=0)
    assert all(book.find(i, 1) for i in IDS)


def test_the_first_matching_rule_wins_and_times_hands_on_to_the_next() -> None:
    rules = [
        Rule(fault="server_error", ids="bad_*", times=1),
        Rule(fault="rate_limited", ids="bad_*", times=2),
        Rule(fault="absent", ids="*_gone"),
    ]
    book = RuleBook(rules, seed=0)
    assert [getattr(book.find("bad_gone", n), "fault", None) for n in (1, 2, 3)] == [
        "server_error",
        "rate_limited",
        "absent",
    ]
    assert book.find("bad_1", 3) is None
    assert book.find("BAD_1", 1) is None


def test_an_outage_hits_every_id_for_its_time_since_the_first_request() -> None:
    outage = Outage(fault="server_error", start=5, seconds=10)
    endpoint = Endpoint(Scenario(rules=[Rule(fault="absent")], outages=[outage]))
    faults = [endpoint.delete(PATH + "a", "m", "sandbox", 1000.0 + t).fault for t in (0, 4.9, 5, 14.9, 15)]
    assert faults == ["absent", "absent", "server_error", "server_error", "absent"]


def test_the_rate_limit_window_slides() -> None:
    endpoint = Endpoint(Scenario(rate_limit="2/s"))
    statuses = [
        answer.reply and answer.reply.status
        for t in (0.0, 0.6, 0.9, 1.65, 3.0)
        for answer in [endpoint.delete(f"{PATH}c{t:.0%}".rstrip("%"), "m", "sandbox", t)]
    ]
    # At 1.65 the second of 0.65 to 1.65 holds one other arrival, that of 0.9, refused though it was.
    assert statuses == [200, 200, 429, 200, 200]


def test_latency_is_drawn_within_its_bounds_and_repeatable() -> None:
    def draws() -> list[float]:
        endpoint = Endpoint(Scenario(seed=5, latency="20ms..80ms"))
        return [endpoint.delete(PATH + i, "m", "sandbox", 0.0).delay for i in IDS[:200]]

    assert draws() == draws()
    assert all(0.02 <= delay <= 0.08 for delay in draws())
    assert any(a != b for a, b in pairwise(draws()))


def last_answers(endpoint: Endpoint, customer_id: str, attempts: int = 5) -> tuple[list[int | None], str | None]:
    """Every status and the last fault that a client sees which retries 429, 5xx, resets and unreadable replies."""
    statuses: list[int | None] = []
    for _ in range(attempts):
        answer = endpoint.delete(PATH + customer_id, "m", "sandbox", 0.0)
        statuses.append(answer.reply.status if answer.reply else None)
        unreadable = answer.reply is not None and answer.reply.status == 200 and answer.reply.body[:1] != b"{"
        if answer.reply is not None and answer.reply.status not in {429, 503} and not unreadable:
            break
    return statuses, answer.fault


def test_the_mixed_scenario_shows_every_outcome_and_fails_fewer_than_one_in_ten() -> None:
    """Over more IDs than a demo has: which of its rarest faults a small batch meets depends on its IDs."""
    endpoint = Endpoint(Scenario.load("mixed"))
    seen: dict[tuple[tuple[int | None, ...], str | None], int] = {}
    for customer_id in IDS:
        statuses, fault = last_answers(endpoint, customer_id)
        seen[tuple(statuses), fault] = seen.get((tuple(statuses), fault), 0) + 1
    expected = {
        ((200,), None),
        ((503, 200), None),
        ((429, 200), None),
        ((None, 200), None),
        ((200,), "deleted_with_missing_field"),
        ((404,), "absent"),
        ((None, 404), None),
        ((400,), "rejected"),
        ((409,), "rejected"),
        ((422,), "rejected"),
        ((503,) * 5, "server_error"),
        ((404,), "not_the_api"),
        ((200,), "still_active"),
        ((202,), "accepted"),
        ((200,) * 5, "unreadable"),
    }
    assert set(seen) == expected
    bad = {"rejected", "server_error", "not_the_api", "still_active", "accepted", "unreadable"}
    assert sum(count for (_, fault), count in seen.items() if fault in bad) < len(IDS) / 10


def test_the_mixed_scenario_neither_stalls_nor_pauses_a_demo() -> None:
    scenario = Scenario.load("mixed")
    met = {rule.fault for rule in scenario.rules}
    assert not met & {"unauthorized", "forbidden", "other_customer"}
    assert not [fault for fault in met if FAULTS[fault].ending is Ending.HANG]


def test_a_reply_is_json_for_every_fault_of_the_api_itself() -> None:
    html = {"unreadable", "redirect", "not_the_api"}
    for fault, kind in FAULTS.items():
        if kind.ending is Ending.REPLY and fault not in html:
            needed = {name: {"status": 418, "latency": "0ms"}[name] for name in kind.requires}
            rule = Rule.model_validate({"fault": fault, **needed})
            reply = Endpoint(Scenario(rules=[rule])).delete(PATH + "a", "m", "sandbox", 0.0).reply
            assert reply is not None, fault
            assert isinstance(json.loads(reply.body)["status"], bool), fault


def test_the_peak_is_that_of_the_fullest_second_wherever_it_begins() -> None:
    journal = Journal()
    entry = Entry(0.0, "a", 1, False, 404, None, None, None, None)
    for now in (0.0, 0.9, 1.0, 1.1, 1.89, 5.0):
        journal.record(entry, now)
    assert journal.peak_per_second == 4
