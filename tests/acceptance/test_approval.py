"""Nothing is sent before somebody else approved it, and the trail says who did what; the upstream is the witness."""

import asyncio
import hashlib
import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.acceptance.accounting import MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.domain.people import Role, make_token
from worker.simulator import SimulatorThread
from worker.store import keys
from worker.store.connection import open_redis
from worker.store.tokens import Tokens

OTHERS = {"anna": Role.SUBMITTER, "cleo": Role.SUBMITTER, "ben": Role.APPROVER, "vera": Role.VIEWER}
Ended = subprocess.CompletedProcess[str]


class People:
    """Somebody of every role; each call is one of them at the command line."""

    def __init__(self, site: Expunge) -> None:
        self._site = site
        self.tokens: dict[str, str] = {}
        self.add("ada", "admin")
        asyncio.run(self._add_the_others())

    async def _add_the_others(self) -> None:
        """As ``add`` does, without a process each."""
        async with open_redis(self._site.environment["EXPUNGE_REDIS_URL"]) as redis:
            for name, role in OTHERS.items():
                self.tokens[name] = make_token(secrets.token_hex(4), secrets.token_urlsafe(32))
                await Tokens(redis).add(self.tokens[name], name, role, "ada")

    def add(self, name: str, role: str, by: str | None = None) -> str:
        """Through the command line; returns the token."""
        added = self("token", "add", name, "--role", role, by=by)
        assert added.returncode == 0, added.stderr
        text = added.stdout.strip()
        assert text not in added.stderr
        self.tokens[name] = text
        return text

    def __call__(self, *arguments: str, by: str | None = None, token: str | None = None) -> Ended:
        if by is None:
            return self._site(*arguments)
        return self._site(*arguments, "--as", by, EXPUNGE_TOKEN=token or self.tokens[by])

    def trail(self) -> list[dict[str, Any]]:
        read = self("audit", "--json", by="vera")
        assert read.returncode == 0, read.stderr
        entries: list[dict[str, Any]] = json.loads(read.stdout)["entries"]
        return entries


def is_refused(ended: Ended, *words: str) -> bool:
    """Exit code 4, nothing on stdout, and one line that says these words."""
    said = ended.stderr.removeprefix("expunge: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert all(word in said for word in words), ended.stderr
    return ended.returncode == 4 and not ended.stdout


def test_nothing_is_sent_before_somebody_else_approves_it(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    people, ids = People(site), make_ids(40)
    site.environment["EXPUNGE_APPROVAL_ABOVE"] = "30"
    with SupervisedWorker(site):
        wait_for(lambda: "no worker" not in site("doctor").stdout)
        submitted = people("submit", site.csv(ids), by="anna")
        assert submitted.returncode == 0, submitted.stderr
        batch = submitted.stdout.strip()
        assert f"expunge approve {batch}" in submitted.stderr
        small = people("submit", site.csv(make_ids(30), "small.csv"), by="anna").stdout.strip()
        assert people("watch", small, by="vera").returncode == 0
        assert len(upstream.log) == 30, "a small one needs no approval"

        own = people.add("anna", "approver", by="ada")
        assert is_refused(people("approve", batch, by="anna", token=own), "submitted by anna", "approver or admin")
        for name in ("cleo", "vera"):
            assert is_refused(people("approve", batch, by=name), f"{name} is", "approver or admin")
        other = hashlib.sha256(b"another file").hexdigest()
        assert is_refused(people("approve", batch, "--sha256", other, by="ben"), "another file")
        assert is_refused(people("resume", batch, by="ada"), "awaiting_approval", "approved or cancelled")
        assert people("watch", batch, by="vera").returncode == 4
        assert json.loads(people("status", batch, "--json", by="vera").stdout)["tally"]["pending"] == 40
        assert len(upstream.log) == 30

        digest = hashlib.sha256((site.folder / "customers.csv").read_bytes()).hexdigest()
        approved = people("approve", batch, "--sha256", digest, by="ben")
        assert approved.returncode == 0, approved.stderr
        assert people("watch", batch, by="vera").returncode == 0
    report = people("report", batch, "--out", "r.csv", by="vera")
    assert report.returncode == 0, report.stderr
    ours = [entry for entry in upstream.log if entry.id in set(ids)]
    assert_agree(ids, read_report(site.folder / "r.csv"), ours, most_repeated=0)
    manifest = json.loads((site.folder / "r.csv.manifest.json").read_text())
    assert (manifest["submitted_by"], manifest["approved_by"]) == ("anna", "ben")

    of_batch = [entry for entry in people.trail() if entry["batch"] == batch]
    assert [(entry["actor"], entry["deed"]) for entry in of_batch] == [
        ("anna", "submitted"),
        *((name, "refused") for name in ("anna", "cleo", "vera", "ben", "ada")),
        ("ben", "approved"),
        ("worker", "completed"),
    ]
    assert [entry["detail"].get("guard") for entry in of_batch[1:6]] == [
        "approval",
        "role",
        "role",
        "approval",
        "state",
    ]
    assert of_batch[6]["detail"] == {"sha256": digest}
    said = people("audit", "--batch", batch, by="vera").stdout
    assert not [customer for customer in ids if customer in said]
    assert said.splitlines()[-1].split()[1:4] == ["worker", "completed", batch]


def test_a_run_that_needs_approval_waits_for_it_and_goes_on_after_it(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    people = People(site)
    site.environment |= {"EXPUNGE_APPROVAL_IN_PRODUCTION": "true", "EXPUNGE_ENVIRONMENT": "production"}
    command = ("run", site.csv(make_ids(12)), "--confirm", "12", "--json")
    first = people(*command, by="anna")
    assert first.returncode == 4, first.stderr
    batch = json.loads(first.stdout)
    assert (batch["state"], batch["submitted_by"]) == ("awaiting_approval", "anna")
    assert "somebody other than anna" in first.stderr
    assert is_refused(people(*command, by="anna"), "awaiting_approval", f"expunge approve {batch['batch']}")
    assert len(upstream.log) == 0
    assert people("approve", batch["batch"], by="ben").returncode == 0
    ended = people(*command, by="anna")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["approved_by"] == "ben"
    assert len(upstream.log) == 12


def test_the_embedded_store_keeps_tokens_and_what_awaits_approval(
    expunge: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_APPROVAL_ABOVE": "0"}
    ada = expunge("token", "add", "ada", "--role", "admin").stdout.strip()
    added = expunge("token", "add", "ben", "--role", "approver", "--as", "ada", EXPUNGE_TOKEN=ada)
    command = ("run", expunge.csv(make_ids(5)), "--as", "ada", "--json")
    waiting = expunge(*command, EXPUNGE_TOKEN=ada)
    assert waiting.returncode == 4, waiting.stderr
    assert len(upstream.log) == 0
    approval = ("approve", json.loads(waiting.stdout)["batch"], "--as", "ben")
    approved = expunge(*approval, EXPUNGE_TOKEN=added.stdout.strip())
    assert approved.returncode == 0, approved.stderr
    assert expunge(*command, EXPUNGE_TOKEN=ada).returncode == 0
    assert len(upstream.log) == 5


@pytest.mark.parametrize("canceller", ["anna", "ben"])
def test_a_batch_that_waits_for_approval_is_withdrawn_by_its_submitter_or_refused_by_an_approver(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread, canceller: str
) -> None:
    people = People(site)
    site.environment["EXPUNGE_APPROVAL_ABOVE"] = "0"
    batch = people("submit", site.csv(make_ids(5)), by="anna").stdout.strip()
    assert is_refused(people("cancel", batch, by="cleo"), "submitted by anna", "cancel only own batches")
    cancelled = people("cancel", batch, by=canceller)
    assert cancelled.returncode == 0, cancelled.stderr
    assert is_refused(people("approve", batch, by="ben"), "is cancelled", "has ended")
    assert is_refused(people("resume", batch, by="anna"), "is cancelled", "has ended")
    assert len(upstream.log) == 0


def test_when_all_tokens_are_lost_nobody_approves_without_a_name(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    site.environment["EXPUNGE_APPROVAL_ABOVE"] = "0"
    batch = People(site)("submit", site.csv(make_ids(5)), by="anna").stdout.strip()
    with Redis.from_url(site.environment["EXPUNGE_REDIS_URL"]) as redis:
        assert redis.delete(keys.TOKENS) == 1
    assert is_refused(site("approve", batch), "an approval needs a name", "expunge token add NAME --role admin")
    assert json.loads(site("status", batch, "--json").stdout)["state"] == "awaiting_approval"
    assert len(upstream.log) == 0


def test_whoever_submits_cannot_release_from_hold_and_a_retry_is_approved_anew(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    people, ids = People(site), make_ids(4)
    assert is_refused(people("hold", "add", ids[0], "--ground", "litigation", by="vera"), "vera is viewer")
    assert people("hold", "add", ids[0], "--ground", "litigation", by="anna").returncode == 0
    overlapping = people("hold", "add", ids[0], "--ground", "another", by="anna")
    assert is_refused(overlapping, "on hold until removed (litigation)")
    old = people("submit", site.csv(ids), by="anna").stdout.strip()
    with SupervisedWorker(site):
        assert people("watch", old, by="vera").returncode == 3
        assert is_refused(people("hold", "remove", ids[0], by="anna"), "release is for approver or admin")
        assert is_refused(people("hold", "remove", ids[0], "--resubmit", by="ben"), "submit is for submitter or admin")
        assert people("hold", "remove", ids[0], by="ben").returncode == 0
        site.environment["EXPUNGE_APPROVAL_ABOVE"] = "0"
        assert is_refused(people("retry", old, by="vera"), "submitter or admin")
        made = people("retry", old, by="anna")
        assert f"expunge approve {made.stdout.strip()}" in made.stderr, made.stderr
        shown = json.loads(people("status", made.stdout.strip(), "--json", by="vera").stdout)
        assert shown["submitted_by"] == "anna"
        assert len(upstream.log) == 3
        assert people("approve", made.stdout.strip(), by="ben").returncode == 0
        assert people("watch", made.stdout.strip(), by="vera").returncode == 0
    assert {entry.id for entry in upstream.log[3:]} == {ids[0]}
    done = [(entry["actor"], entry["deed"], entry["detail"].get("guard")) for entry in people.trail()]
    noted = [entry for entry in done if entry[1] in {"held", "released"} or entry[2] in {"role", "hold"}]
    assert noted == [
        ("vera", "refused", "role"),
        ("anna", "held", None),
        ("anna", "refused", "hold"),
        ("anna", "refused", "role"),
        ("ben", "refused", "role"),
        ("ben", "released", None),
        ("vera", "refused", "role"),
    ]


def test_once_there_are_tokens_nobody_acts_without_one(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    name = site.csv(make_ids(5))
    before = site("submit", name)
    assert before.returncode == 0, before.stderr
    batch = before.stdout.strip()
    assert is_refused(site("status", batch, "--as", "anna"), "expunge token add NAME --role admin")
    assert is_refused(site("token", "add", "anna", "--role", "viewer"), "first token", "admin")

    people = People(site)
    looks = (
        ["status", batch],
        ["watch", batch],
        ["batches"],
        ["report", batch],
        ["audit"],
        ["hold", "list"],
        ["plan", name],
    )
    for command in (*looks, ["cancel", batch]):
        assert is_refused(people(*command), "--as NAME", "EXPUNGE_TOKEN")
    assert is_refused(people("status", "customer_1"), "--as NAME")
    assert "customer_1" not in json.dumps(people.trail()), "what is no batch may be a customer"
    assert is_refused(people("status", batch, by="vera", token=people.tokens["ada"]), "not one of 'vera'")
    assert is_refused(people("token", "add", "eve", "--role", "admin"), "--as NAME")
    assert is_refused(people("token", "list", by="anna"), "anna is submitter", "admin")
    assert is_refused(people("submit", name, "--again", by="vera"), "vera is viewer", "submitter or admin")
    assert is_refused(people("run", name, "--again"), "--as NAME")
    assert is_refused(people("pause", batch, by="anna"), "somebody without a name")
    assert people("pause", batch, by="ada").returncode == 0

    token = people.tokens["vera"]
    token_id = token.split("_")[1]
    assert token_id in people("token", "list", by="ada").stdout
    assert people("token", "revoke", token, by="ada").returncode == 0, "who has but the token may give that"
    again = people("token", "revoke", token, by="ada")
    assert again.returncode == 2
    assert token_id in again.stderr
    assert token[-43:] not in again.stderr
    nonsense = people("token", "revoke", token[:-1], by="ada")
    assert (nonsense.returncode, token[-20:-1] in nonsense.stderr) == (2, False)
    assert is_refused(people("status", batch, by="vera"), "revoked")
    noted = json.loads(people("audit", "--json", by="ada").stdout)["entries"][-1]
    assert (noted["deed"], noted["detail"]["claimed"], noted["batch"]) == ("refused", "vera", batch)
    assert len(upstream.log) == 0


def test_without_tokens_a_setting_that_asks_for_approval_says_how_to_begin(
    site: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    site.environment["EXPUNGE_APPROVAL_ABOVE"] = "0"
    name = site.csv(make_ids(5))
    for command in ("submit", "run"):
        assert is_refused(site(command, name), "approval", "expunge token add NAME --role admin")
    assert "no batches" in site("batches").stderr
    assert len(upstream.log) == 0
    rehearsed = site("run", name, "--simulate", "--scenario", "clean")
    assert rehearsed.returncode == 0, rehearsed.stderr


def test_refusals_of_every_guard_are_in_the_trail(site: Expunge, make_ids: MakeIds) -> None:
    name, production = site.csv(make_ids(3)), ("--environment", "production")
    assert is_refused(site("submit", name, *production), "--confirm 3")
    assert is_refused(site("submit", name, *production, "--confirm", "4"), "3 records")
    batch = site("submit", name, *production, "--confirm", "3").stdout.strip()
    assert is_refused(site("submit", name, *production, "--confirm", "3"), batch)
    assert is_refused(site("resume", batch), "is running", "paused or cancelled")
    people = People(site)
    assert is_refused(site("audit", "--as", "ada", EXPUNGE_TOKEN="guess"), "not one of 'ada'")
    assert is_refused(site("audit", "--as", "customer_1", EXPUNGE_TOKEN="guess"), "not one of 'customer_1'")
    refusals = [entry for entry in people.trail() if entry["deed"] == "refused"]
    assert [entry["detail"]["guard"] for entry in refusals] == [
        "confirmation",
        "confirmation",
        "repeat",
        "state",
        "identity",
        "identity",
    ]
    assert [entry["detail"].get("claimed") for entry in refusals[-2:]] == ["ada", None]
    assert {entry["actor"] for entry in refusals} == {None}
    assert [entry["batch"] for entry in refusals] == [None, None, batch, batch, None, None]
    assert {entry["detail"]["environment"] for entry in refusals[:3]} == {"production"}
    assert {entry["detail"]["merchant"] for entry in refusals} == {"m1"}


def test_no_token_is_in_what_is_stored_logged_or_shown(site: Expunge, make_ids: MakeIds, tmp_path: Path) -> None:
    people = People(site)
    submitted = people("submit", site.csv(make_ids(3)), by="anna")
    said = [people(*command, by="ada") for command in (["token", "list", "--json"], ["audit"], ["batches"])]
    shown = "".join(each.stdout + each.stderr for each in [submitted, *said])
    stored = b"".join(path.read_bytes() for path in (tmp_path / "server").rglob("*") if path.is_file())
    for text in people.tokens.values():
        assert text[-43:] not in shown
        assert text[-43:].encode() not in stored
        assert hashlib.sha256(text.encode()).hexdigest().encode() in stored, "the store is where it was looked for"
