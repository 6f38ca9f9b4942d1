"""Redis down is an error, not a loss (SPEC 4, promise 9): real workers, a real server, and an upstream that logs."""

import itertools
import json
import logging
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.accounting import IN_FLIGHT, MakeIds, assert_agree, read_report, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.servers import HOST, Cut, Proxy, RedisServer, SentinelGroup, free_port
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Scenario, SimulatorThread

_PERMITS_LAST = 1.5  # seconds; a quarter of one, and time for a busy machine

_RECOVERY = 90.0  # seconds; the longest that is lost: a message's life or a lease, and a round of the reconciler
_ROWS = 1000  # of a submission
_COMMIT = b"shard_size"  # is said to Redis in a submission's last step alone

TAKING = '"taking of messages"'

log = logging.getLogger(__name__)


@pytest.fixture
def upstream() -> Iterator[SimulatorThread]:
    with SimulatorThread(Scenario(latency="20ms")) as simulator:
        yield simulator


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(valkey.port) as before:
        yield before


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    with SentinelGroup(tmp_path / "group") as servers:
        yield servers


@dataclass
class Work:
    """A batch that a worker is at."""

    batch: str
    ids: list[str]
    worker: SupervisedWorker
    upstream: SimulatorThread
    expunge: Expunge

    def sends(self, more: int = 50) -> None:
        """Wait until that many more DELETEs arrived; records must be left."""
        sent = len(self.upstream.log)
        wait_for(lambda: len(self.upstream.log) >= sent + more)
        assert len({entry.id for entry in self.upstream.log}) < len(self.ids)

    def sends_nothing(self, seconds: float) -> None:
        """A fault has begun: permits of before may still be used, and nothing is sent without one."""
        before = len(self.upstream.log)
        time.sleep(_PERMITS_LAST)
        sent = len(self.upstream.log)
        assert sent - before <= IN_FLIGHT
        time.sleep(seconds - _PERMITS_LAST)
        assert len(self.upstream.log) == sent < len(self.ids)

    def recovers(self, fault: str) -> None:
        """Wait for the first DELETE after a fault that ends now."""
        ended = time.time()
        wait_for(lambda: self.upstream.log[-1].t > ended, _RECOVERY, self.standing)
        seconds = next(entry.t for entry in self.upstream.log if entry.t > ended) - ended
        log.info("%s: the next DELETE came after %.1f s", fault, seconds)

    def standing(self) -> str:
        arrived = len({entry.id for entry in self.upstream.log})
        said = "".join(self.worker.lines)
        status = self.expunge("status", self.batch).stdout
        return f"{arrived} of {len(self.ids)} arrived; the worker exited {self.worker.exits} times\n{said}\n{status}"

    def completes(self, most_repeated: int = 0) -> None:
        """The batch completes by itself, and its report agrees with the upstream's log."""
        wait_for(lambda: {entry.id for entry in self.upstream.log} >= set(self.ids), _RECOVERY)
        ended = report_when_complete(self.expunge, self.batch)
        assert ended.returncode == 0, ended.stderr + "".join(self.worker.lines)
        times = [entry.t for entry in self.upstream.log]
        log.info("longest time without a DELETE: %.1f s", max(after - at for at, after in itertools.pairwise(times)))
        log.debug("the worker exited %d times; it said:\n%s", self.worker.exits, "".join(self.worker.lines))
        report = read_report(self.expunge.folder / f"{self.batch}.csv")
        assert_agree(self.ids, report, self.upstream.log, most_repeated=most_repeated)


def report_when_complete(expunge: Expunge, batch: str) -> "subprocess.CompletedProcess[str]":
    """Wait for the batch, and write its report to ``BATCH.csv``."""
    watched = expunge("watch", batch)
    return expunge("report", batch, "--out", f"{batch}.csv") if not watched.returncode else watched


@contextmanager
def under_way(
    expunge: Expunge, ids: list[str], url: str, upstream: SimulatorThread, rate: str, **settings: str
) -> Iterator[Work]:
    """Submit IDs to a worker, and wait until it has begun."""
    with working(expunge, ids, url, upstream, rate, **settings) as work:
        work.sends()
        yield work


@contextmanager
def working(
    expunge: Expunge, ids: list[str], url: str, upstream: SimulatorThread, rate: str, **settings: str
) -> Iterator[Work]:
    """Submit IDs to a worker."""
    expunge.environment |= {
        "EXPUNGE_UPSTREAM_URL": upstream.url,
        "EXPUNGE_REDIS_URL": url,
        "EXPUNGE_RATE_LIMIT": rate,
        "EXPUNGE_SHARD_SIZE": "25",
        **settings,
    }
    with SupervisedWorker(expunge) as worker:
        submitted = expunge("submit", expunge.csv(ids))
        assert submitted.returncode == 0, submitted.stderr
        yield Work(submitted.stdout.strip(), ids, worker, upstream, expunge)


def test_twenty_kills_of_redis_cost_time_not_records(
    expunge: Expunge, make_ids: MakeIds, valkey: RedisServer, upstream: SimulatorThread
) -> None:
    with under_way(expunge, make_ids(1500), valkey.url, upstream, "150/s") as work:
        for number in range(20):
            time.sleep((0.1, 0.9, 0.4, 0.0, 0.6)[number % 5])
            valkey.kill()
            time.sleep((0.0, 0.3, 0.1, 1.2)[number % 4])
            valkey.start()
        work.recovers("20 kills")
        work.completes(most_repeated=work.worker.exits * IN_FLIGHT)


@pytest.mark.slow
def test_a_redis_that_hears_nothing_for_30_seconds_is_waited_for(
    expunge: Expunge, make_ids: MakeIds, proxy: Proxy, upstream: SimulatorThread
) -> None:
    """Longer than a lease; no connection of before is ever answered again."""
    with under_way(expunge, make_ids(400), proxy.url, upstream, "100/s") as work:
        proxy.freeze()
        work.sends_nothing(30)
        proxy.thaw()
        work.recovers("frozen for 30 s, connections lost")
        work.completes()


def test_short_faults_are_waited_for_one_after_another(
    expunge: Expunge, make_ids: MakeIds, valkey: RedisServer, upstream: SimulatorThread
) -> None:
    """Stopped, it later does what it was asked by clients that have given up since (after 5 s)."""
    with (
        under_way(expunge, make_ids(700), valkey.url, upstream, "150/s", EXPUNGE_SHARD_SIZE="250") as work,
        valkey.client() as redis,
    ):
        valkey.stop()
        work.sends_nothing(6)
        valkey.go_on()
        work.recovers("stopped for 6 s")

        redis.replicaof(HOST, free_port())
        work.sends_nothing(4)
        redis.replicaof("NO", "ONE")
        work.recovers("read-only for 4 s")

        for _ in range(5):
            redis.script_flush()
            work.sends(30)
        assert redis.info("errorstats")["errorstat_NOSCRIPT"]["count"] >= 5
        work.completes()
        assert work.worker.exits == 0


def test_a_full_redis_is_waited_for_and_refuses_submissions(
    expunge: Expunge, make_ids: MakeIds, valkey: RedisServer, upstream: SimulatorThread
) -> None:
    with under_way(expunge, make_ids(1500), valkey.url, upstream, "100/s") as work, valkey.client() as redis:
        others = make_ids(20_000)
        name = expunge.csv(others, "others.csv")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 100_000)  # full in mid-submission
        refused = [expunge("submit", name)]
        redis.config_set("maxmemory", "1mb")
        work.sends_nothing(4)
        refused.append(expunge("submit", name))
        redis.config_set("maxmemory", 0)
        work.recovers("full for some seconds")
        for submission in refused:
            assert (submission.returncode, submission.stdout) == (1, "")
            assert re.fullmatch(r"(plan-.+\n)?expunge: .+is full.+\n", submission.stderr)
        assert {key.split(b"}")[0].split(b"{")[1] for key in redis.keys("expunge:{*")} == {work.batch.encode()}
        work.completes()
        assert expunge("submit", name).returncode == 0


def test_a_worker_that_takes_messages_of_a_full_redis_or_loses_it_says_so_in_one_line_of_each_duty_and_goes_on(
    expunge: Expunge, make_ids: MakeIds, valkey: RedisServer, upstream: SimulatorThread
) -> None:
    expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_REDIS_URL": valkey.url}
    ids = make_ids(100)
    full = [f"error=OutOfMemoryError duty={duty}" for duty in (TAKING, '"restoring of messages"', "reconciler")]
    lost = f"error=ConnectionError duty={TAKING}"
    with SupervisedWorker(expunge) as worker, valkey.client() as redis:
        wait_for(lambda: redis.info("clients")["blocked_clients"] > 0)  # it waits for messages
        with worker.not_listening():
            submitted = expunge("submit", expunge.csv(ids))
            assert submitted.returncode == 0, submitted.stderr
            redis.config_set("maxmemory", "1mb")
        work = Work(submitted.stdout.strip(), ids, worker, upstream, expunge)
        wait_for(lambda: any(TAKING in line for line in worker.lines), otherwise=work.standing)
        time.sleep(12)  # a try of each second, and a sweep of each tenth
        wait_for(lambda: all(any(each in line for line in worker.lines) for each in full), otherwise=work.standing)
        redis.config_set("maxmemory", 0)
        work.completes()
        valkey.kill()
        time.sleep(8)  # Celery's tries come after 2 and 4 more seconds
        wait_for(lambda: any(lost in line for line in worker.lines), otherwise=work.standing)
        valkey.start()
        wait_for(lambda: sum(TAKING in line and "goes on" in line for line in worker.lines) == 2)
    told = [line for line in worker.lines[1:] if line.strip()]
    assert all(line.startswith("timestamp=") for line in told), work.standing()
    waiting = Counter(line.partition("error=")[2].strip() for line in told if 'event="waits for Redis"' in line)
    assert set(waiting.values()) == {1}, waiting
    assert {each.removeprefix("error=") for each in (*full, lost)} <= set(waiting), waiting


def test_replies_cut_in_the_middle_are_asked_for_again(
    expunge: Expunge, make_ids: MakeIds, proxy: Proxy, upstream: SimulatorThread
) -> None:
    """Among them those of a claim, of outcomes and of permits that were executed, unheard."""
    with under_way(expunge, make_ids(400), proxy.url, upstream, "100/s") as work:
        for cut in (Cut(times=2), Cut(b"EVALSHA", times=2, keep=1), Cut(b"confirmed", times=30)):
            proxy.cut(cut)
            work.sends(20)
            wait_for(lambda cut=cut: cut.times == 0)  # type: ignore[misc]
        work.recovers("replies cut")
        work.completes()


def test_a_worker_whose_acknowledgement_was_lost_takes_the_next_message(
    expunge: Expunge, make_ids: MakeIds, proxy: Proxy, upstream: SimulatorThread
) -> None:
    proxy.cut(Cut(b"ZREM\r\n", times=1000))
    with working(expunge, make_ids(200), proxy.url, upstream, "100/s") as work:
        wait_for(lambda: any("Couldn't ack" in line for line in work.worker.lines), otherwise=work.standing)
        proxy.cut(Cut(times=0))
        work.completes()
        assert work.worker.exits == 0


def test_a_failover_to_a_replica_that_lags_contradicts_nothing_that_the_upstream_saw(
    expunge: Expunge, make_ids: MakeIds, group: SentinelGroup, upstream: SimulatorThread
) -> None:
    """Outcomes and claims that the master alone had are lost with it; the worker knows, and writes them again."""
    with under_way(expunge, make_ids(400), group.url, upstream, "100/s", EXPUNGE_REPLICAS="1") as work:
        group.replication.freeze()
        wait_for(lambda: any("error=NotReplicatedError" in line for line in work.worker.lines))  # what it has alone
        group.master.kill()
        wait_for(group.promoted)
        group.rejoin()
        work.recovers("failed over to a replica that lagged")
        work.completes()


@pytest.mark.slow
def test_records_lost_with_master_and_worker_are_asked_again_and_never_called_not_found(
    expunge: Expunge, make_ids: MakeIds, group: SentinelGroup, upstream: SimulatorThread
) -> None:
    """Nobody is left who knows the outcomes that the replica never got: those alone are asked again."""
    with under_way(expunge, make_ids(400), group.url, upstream, "100/s", EXPUNGE_REPLICAS="1") as work:
        known = len(upstream.log)
        group.replication.freeze()
        time.sleep(2)  # without regard to replicas, some shards would be begun and finished
        group.master.kill()
        work.worker.kill()
        lost = len(upstream.log) - known + IN_FLIGHT
        wait_for(group.promoted)
        group.rejoin()
        work.completes(most_repeated=lost)
        assert len(upstream.log) > 400, "nothing was asked again"


class Submissions:
    """Files that are submitted by way of a fault each, and later once more without one."""

    def __init__(self, expunge: Expunge, upstream: SimulatorThread, make_ids: MakeIds, valkey: RedisServer) -> None:
        expunge.environment |= {
            "EXPUNGE_REDIS_URL": valkey.url,
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_SHARD_SIZE": str(_ROWS // 10),
        }
        self._expunge, self._upstream, self._make_ids, self._valkey = expunge, upstream, make_ids, valkey
        self._files: dict[str, list[str]] = {}
        self._printed: dict[str, str] = {}
        self._expected: list[str] = []

    def submit(self, url: str, ending: str) -> None:
        """Submit another file; the command prints the batch's ID, or one line that says why there is none.

        ``ending`` is ``accepted``, ``refused``, or ``unheard``: accepted, but the command could not know it.
        """
        ids = self._make_ids(_ROWS)
        name = self._expunge.csv(ids, f"{len(self._files)}.csv")
        self._files[name] = ids
        self._expected.append(ending)
        submission = self._expunge("submit", name, EXPUNGE_REDIS_URL=url)
        self._printed[name] = submission.stdout.strip()
        assert bool(submission.stdout) == (submission.returncode == 0)
        if submission.returncode:
            assert re.fullmatch(r"(plan-.+\n)?expunge: Redis .+\n", submission.stderr)
            assert ("may have been accepted" in submission.stderr) == (ending == "unheard")

    def assert_accounted(self) -> None:
        """Each file, submitted again, is one batch: that whose ID was printed, with all of its rows."""
        with ThreadPoolExecutor(2) as pool:
            endings, made = zip(*pool.map(self._submit_again, self._files), strict=True)
        assert list(endings) == self._expected
        batches = dict(zip(self._files, made, strict=True))
        listed = json.loads(self._expunge("batches", "--json").stdout)["batches"]
        assert {each["batch"]: each["tally"]["pending"] for each in listed} == dict.fromkeys(batches.values(), _ROWS)
        with self._valkey.client() as redis:
            for key in redis.keys("expunge:{*"):
                batch = key.decode().split("}")[0].removeprefix("expunge:{")
                assert batch in batches.values() or redis.ttl(key) > 0, "what was not accepted would stay"
        with SupervisedWorker(self._expunge), ThreadPoolExecutor(2) as pool:
            reports = pool.map(partial(report_when_complete, self._expunge), batches.values())
            assert [ended.returncode for ended in reports] == [0] * len(batches)
        for name, batch in batches.items():
            ids = set(self._files[name])
            entries = [entry for entry in self._upstream.log if entry.id in ids]
            report = read_report(self._expunge.folder / f"{batch}.csv")
            assert_agree(self._files[name], report, entries, most_repeated=0)
        assert len(self._upstream.log) == _ROWS * len(batches), "nobody else was deleted"

    def _submit_again(self, name: str) -> tuple[str, str]:
        again = self._expunge("submit", name)
        known = re.search(r"submitted before: batch (\S+)", again.stderr)
        assert again.returncode == (4 if known else 0), again.stderr
        batch = known[1] if known else again.stdout.strip()
        assert self._printed[name] in {"", batch}
        return "accepted" if self._printed[name] else "unheard" if known else "refused", batch


def test_a_submission_is_persisted_whole_or_says_that_it_is_not(
    expunge: Expunge, make_ids: MakeIds, valkey: RedisServer, proxy: Proxy, upstream: SimulatorThread
) -> None:
    """Replies cut, and Redis killed: while rows are loaded, when all are, and when the batch counts already."""

    def restart() -> None:
        valkey.kill()
        valkey.start()

    submissions = Submissions(expunge, upstream, make_ids, valkey)
    for cut, ending in (
        (Cut(b"HSET", skip=4), "accepted"),
        (Cut(b"HSET", skip=4, times=100), "refused"),
        (Cut(_COMMIT, skip=1), "accepted"),
        (Cut(_COMMIT, skip=1, times=100), "unheard"),
        (Cut(b"HSET", skip=4, also=restart), "accepted"),
        (Cut(b"HSET", skip=9, also=valkey.kill), "refused"),
        (Cut(_COMMIT, skip=1, also=valkey.kill), "unheard"),
    ):
        most = cut.times
        proxy.cut(cut)
        submissions.submit(proxy.url, ending)
        assert cut.times < most, "it was not cut"
        restart()
    submissions.assert_accounted()
