"""``expunge purge`` at the command line: asked for twice, only by an admin, and nothing of the batch is left."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from redis import Redis

from tests.acceptance.accounting import MakeIds, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.test_approval import People, is_refused
from tests.acceptance.test_confirmation import typed
from worker.simulator import SimulatorThread
from worker.store import keys

REFERENCE = "ticket-4711"
STAYS = (keys.AUDIT, keys.LEDGER, keys.TOKENS, keys.NAMES, keys.DIGEST_KEY)
OF_WORKERS = (
    "expunge:pace:",
    "expunge:circuit:",
    "expunge:celery:",
    "expunge:workers:",
    "expunge:reconciler:",
    "expunge:event-reader:",
)
"""What workers leave, whatever becomes of batches."""


def ran(expunge: Expunge, name: str, *options: str, **more: str) -> str:
    """Run a file to its end; returns the batch."""
    ended = expunge("run", name, "--json", "--workers", "1", *options, **more)
    assert ended.returncode == 0, ended.stderr
    return str(json.loads(ended.stdout)["batch"])


def left_of(url: str) -> set[bytes]:
    """All keys but those of workers."""
    with Redis.from_url(url) as redis:
        return {name for name in redis.scan_iter("*") if not name.decode("latin-1").startswith(OF_WORKERS)}


def test_a_real_run_leaves_nothing_after_its_purge_and_the_command_says_what_went(
    site: Expunge, make_ids: MakeIds, redis_server: str, upstream: SimulatorThread
) -> None:
    ids = make_ids(600)
    batch = ran(site, site.csv(ids), "--reference", REFERENCE)
    before = left_of(redis_server)
    purged = site("purge", batch, "--confirm", batch, "--json")
    assert purged.returncode == 0, purged.stderr
    said = json.loads(purged.stdout)
    left = left_of(redis_server)
    assert said == {"batch": batch, "records": 600, "keys": len(before) - len(left) - 1}, "the list of batches is the 1"
    assert {name for name in left if not name.decode("latin-1").startswith(STAYS)} == set()
    assert "BGREWRITEAOF" in purged.stderr

    for command in ("status", "report"):
        ended = site(command, batch)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"there is no batch '{batch}'" in ended.stderr
    again = site("purge", batch, "--confirm", batch)
    assert (again.returncode, again.stderr) == (2, site("status", batch).stderr)
    assert "no batches" in site("batches").stderr
    trail = json.loads(site("audit", "--batch", batch, "--json").stdout)["entries"]
    assert [entry["deed"] for entry in trail] == ["submitted", "completed", "purged"]

    sent = len(upstream.log)
    second = ran(site, "customers.csv", "--reference", REFERENCE)
    assert second != batch, "file and reference are free again"
    assert len(upstream.log) == sent, "and nobody is asked for twice: the ledger knows them"


def test_what_does_not_name_the_batch_removes_nothing(site: Expunge, make_ids: MakeIds, redis_server: str) -> None:
    name = site.csv(make_ids(20))
    batch = ran(site, name)
    other = ran(site, name, "--again")
    before = left_of(redis_server)
    assert is_refused(site("purge", batch), "nothing was removed", f"--confirm {batch}")
    for wrong in (other, "20"):
        assert is_refused(site("purge", batch, "--confirm", wrong), "nothing was removed", batch)
    for wrong in ("", "y"):
        assert typed(site, wrong, "purge", batch) == 4
    assert left_of(redis_server) == before
    assert json.loads(site("status", batch, "--json").stdout)["state"] == "completed"
    refused = json.loads(site("audit", "--batch", batch, "--json").stdout)["entries"][2:]
    assert {entry["deed"] for entry in refused} == {"refused"}
    assert {(entry["detail"]["act"], entry["detail"]["guard"]) for entry in refused} == {("purge", "confirmation")}

    assert typed(site, batch, "purge", batch) == 0
    assert json.loads(site("status", other, "--json").stdout)["state"] == "completed"


def test_only_an_admin_purges_and_the_trail_says_who_tried(site: Expunge, make_ids: MakeIds) -> None:
    people = People(site)
    site.csv(make_ids(5))
    more = {"EXPUNGE_TOKEN": people.tokens["anna"]}
    batch = ran(site, "customers.csv", "--as", "anna", **more)
    for name in ("anna", "ben", "vera"):
        assert is_refused(people("purge", batch, "--confirm", batch, by=name), f"{name} is", "purge is for admin")
    assert is_refused(people("purge", batch, "--confirm", batch), "say who you are")
    assert people("purge", batch, "--confirm", batch, by="ada").returncode == 0
    of_batch = [entry for entry in people.trail() if entry["batch"] == batch]
    assert [(entry["actor"], entry["deed"]) for entry in of_batch][2:] == [
        *((name, "refused") for name in ("anna", "ben", "vera", None)),
        ("ada", "purged"),
    ]


def test_a_batch_that_has_not_ended_says_to_cancel_it_first(site: Expunge, make_ids: MakeIds) -> None:
    batch = site("submit", site.csv(make_ids(5))).stdout.strip()
    refused = site("purge", batch, "--confirm", batch)
    assert is_refused(refused, f"batch {batch} is running", f"cancel it first with `expunge cancel {batch}`")
    assert site("cancel", batch).returncode == 0
    assert site("purge", batch, "--confirm", batch).returncode == 0
    assert site("status", batch).returncode == 2


_DIES = """
import os, signal, sys
from redis.asyncio import Redis
from worker.cli import main

async def unlink(redis, *names, unlink=Redis.unlink):
    await unlink(redis, *names)
    os.kill(os.getpid(), signal.SIGKILL)

Redis.unlink = unlink
sys.exit(main())
"""
"""The command, killed behind the first piece of what the shards left."""

_DIES_BEFORE_THE_REWRITE = """
import os, signal, sys
from worker.cli import main, purge

purge.rewrite = lambda home: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""


def killed(site: Expunge, program: str, *command: str) -> bool:
    """Run the command by a program that kills itself; whether it did."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, *command],
        cwd=site.folder,
        env=environment | site.environment,
        check=False,
    )
    return ended.returncode == -signal.SIGKILL


def test_a_purge_that_is_killed_is_ended_by_the_same_command(
    site: Expunge, make_ids: MakeIds, redis_server: str
) -> None:
    site.environment["EXPUNGE_SHARD_SIZE"] = "1"
    batch = ran(site, site.csv(make_ids(510)))
    command = ("purge", batch, "--confirm", batch, "--json")
    assert killed(site, _DIES, *command)
    with Redis.from_url(redis_server) as redis:
        left = [name for name in redis.scan_iter("*", count=1000) if batch.encode() in name]
        assert len(left) == 11, "outcomes of ten shards, and what says that they are to be removed"
        status = site("status", batch)
        assert (status.returncode, f"there is no batch '{batch}'" in status.stderr) == (2, True)
        assert is_refused(site("purge", batch), "nothing was removed")
        ended = site(*command)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == {"batch": batch, "records": 510, "keys": 10}
        assert [name for name in redis.scan_iter("*", count=1000) if batch.encode() in name] == []
    assert site(*command).returncode == 2


def test_a_rehearsal_is_purged_from_its_own_store(expunge: Expunge, make_ids: MakeIds) -> None:
    name = expunge.csv(make_ids(20))
    ended = expunge("run", name, "--simulate", "--scenario", "clean", "--json")
    batch = json.loads(ended.stdout)["batch"]
    assert expunge("purge", batch, "--confirm", batch).returncode == 2, "there is no real store"
    assert expunge("purge", batch, "--confirm", batch, "--simulate").returncode == 0
    assert "no batches" in expunge("batches", "--simulate").stderr


def test_the_embedded_servers_files_forget_it_too(
    expunge: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
    batch = ran(expunge, expunge.csv(make_ids(20), "leavers.csv"), "--reference", REFERENCE)
    assert _files_with(expunge.folder / ".expunge", REFERENCE)
    purged = expunge("purge", batch, "--confirm", batch)
    assert (purged.returncode, purged.stderr.count("\n")) == (0, 1), purged.stderr
    wait_for(lambda: not _files_with(expunge.folder / ".expunge", f"{REFERENCE}|leavers.csv"), seconds=20)
    assert _files_with(expunge.folder / ".expunge", "purged"), "the trail is kept"


def test_what_a_killed_purge_left_in_the_embedded_servers_files_goes_with_the_same_command(
    expunge: Expunge, make_ids: MakeIds, upstream: SimulatorThread
) -> None:
    expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
    batch = ran(expunge, expunge.csv(make_ids(20)), "--reference", REFERENCE)
    command = ("purge", batch, "--confirm", batch)
    assert killed(expunge, _DIES_BEFORE_THE_REWRITE, *command)
    assert _files_with(expunge.folder / ".expunge", REFERENCE)
    again = expunge(*command)
    assert (again.returncode, f"there is no batch '{batch}'" in again.stderr) == (2, True)
    wait_for(lambda: not _files_with(expunge.folder / ".expunge", REFERENCE), seconds=20)


def _files_with(folder: Path, word: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and re.search(word.encode(), path.read_bytes())]
