"""Workers that die, are stopped, paused or timed out at the worst moment (SPEC 4, promises 1, 2, 4 and 7).

Real workers, a real server, and an upstream whose log says what was really asked of it. Where a worker must die at one
certain point, it runs ``tests.acceptance.faulty``.
"""

import asyncio
import csv
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.acceptance.accounting import wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.test_crash import processes_below
from tests.conftest import TARGET, UPSTREAM, existing, make_settings, submit
from worker.cli.report import write_out
from worker.cli.worker import worker_command
from worker.pipeline import control
from worker.queue import Publisher
from worker.reports.columns import ReportFormat
from worker.simulator import Entry, Rule, Scenario, SimulatorThread
from worker.store import keys
from worker.wiring import broker_url, open_store

MakeIds = Callable[[int], list[str]]
Outcome = tuple[str, str]
ROOT = Path(__file__).parents[2]
IN_FLIGHT = 64
STOP_WITHIN = 15.0  # seconds; a promise
QUICK = Scenario(latency="20ms")
DELETED = ("deleted", "confirmed")
INTERRUPTED = ("absent", "after_interrupted_attempt")
UNANSWERED = ("absent", "after_unanswered_attempt")


@dataclass
class Deployment:
    """A store, an upstream, and workers that come and go."""

    expunge: Expunge
    redis_url: str
    redis: "Redis"
    upstream: SimulatorThread
    ids: list[str]
    shard_size: int
    batch: str = ""
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.expunge.folder

    @property
    def log(self) -> Sequence[Entry]:
        return self.upstream.log

    def submit(self) -> None:
        """Take in the batch and send its first messages, as ``expunge submit`` does."""

        async def act() -> str:
            async with open_store(make_settings(self.redis_url)) as store:
                accepted = await submit(store.batches, self.ids, self.shard_size)
                await store.feeder.feed(accepted.batch_id)
                return accepted.batch_id

        self.batch = asyncio.run(act())

    async def control(self, verb: str) -> float:
        """Do what the command of that name does, and return the time at which it was done, more exactly than that."""
        async with open_store(make_settings(self.redis_url)) as store:
            if verb == "pause":
                await control.pause(store.batches, self.batch)
            else:
                await control.cancel(store.batches, store.shards, self.batch, lambda _: None)
            return time.time()

    def worker(self) -> "subprocess.Popen[str]":
        """The command ``expunge worker``."""
        process = self.expunge.start("worker")
        self.started.append(process)
        return process

    def faulty_worker(self, **more: str) -> "subprocess.Popen[str]":
        """The same worker as ``tests.acceptance.faulty``, whose leases end soon."""
        command = ["tests.acceptance.faulty" if word == "tasks" else word for word in worker_command(1)]
        given = {"PYTHONPATH": str(ROOT), "TEST_FOLDER": str(self.folder), "TEST_LEASE": "4", "TEST_ROUND": "0.5"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
        with (self.folder / "worker.log").open("a") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**inherited, **self.expunge.environment, **given, **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def events(self) -> list[dict[str, Any]]:
        """What faulty workers wrote down, in order."""
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for_death(self) -> None:
        """Wait until the fault has killed its pool process."""
        wait_for((self.folder / "died").exists)
        wait_for(lambda: any(event["event"] == "died" for event in self.events()), 5)
        (died,) = [event for event in self.events() if event["event"] == "died"]
        wait_for(lambda: not is_alive(died["pid"]), 5)

    def key(self, part: str) -> str:
        return keys.of_batch(self.batch, part)

    def meta(self, name: str) -> str:
        value: bytes | None = self.redis.hget(self.key("meta"), name)  # type: ignore[assignment]
        return value.decode() if value else ""

    def recorded(self) -> set[str]:
        """Customers that have an outcome now."""
        found: set[str] = set()
        for shard in range(-(-len(self.ids) // self.shard_size)):
            offsets: list[bytes] = self.redis.hkeys(self.key(f"out:{shard}"))  # type: ignore[assignment]
            found |= {self.ids[shard * self.shard_size + int(offset)] for offset in offsets}
        return found

    def holders(self) -> list[str]:
        """What stands in the store of those who hold a shard; a shard that was given back is held by ``-``."""
        values: list[bytes] = self.redis.hvals(self.key("holders"))  # type: ignore[assignment]
        return [value.decode().partition(" ")[0] for value in values]

    def wait_until(self, state: str) -> None:
        wait_for(lambda: self.meta("state") == state)

    def report(self) -> list[Outcome]:
        """Outcome and reason of every row; they are the rows of the input, in its order."""
        path = self.folder / "report.csv"

        async def write() -> None:
            async with open_store(make_settings(self.redis_url)) as store:
                await write_out(store, await existing(store.batches, self.batch), None, str(path), ReportFormat.CSV)

        asyncio.run(write())
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["customer_id"] for row in rows] == self.ids
        assert [row["expunge_row"] for row in rows] == [str(row) for row in range(1, len(self.ids) + 1)]
        return [(row["expunge_outcome"], row["expunge_reason"]) for row in rows]

    def asked(self) -> Counter[str]:
        """How often the upstream was asked for each customer."""
        return Counter(entry.id for entry in self.log)


@pytest.fixture
def deploy(expunge: Expunge, make_ids: MakeIds, redis_server: str) -> Iterator[Callable[..., Deployment]]:
    """Makes a deployment, and ends all of its processes in the end."""
    made: list[Deployment] = []

    def make(count: int, scenario: Scenario, shard_size: int = 250, **settings: str) -> Deployment:
        upstream = SimulatorThread(scenario)
        upstream.start()
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_UPSTREAM_NAME": UPSTREAM,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_DIGEST_KEY": "a key for tests",
        } | settings
        redis = Redis.from_url(redis_server)
        made.append(Deployment(expunge, redis_server, redis, upstream, make_ids(count), shard_size))
        return made[-1]

    yield make
    for deployment in made:
        for process in deployment.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what its parent left behind
            process.communicate()
        deployment.upstream.stop()
        deployment.redis.close()


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def assert_asked_rightly(site: Deployment) -> None:
    """Nobody but those asked for, each deleted once, and every attempt of a record under one key of its own."""
    assert {entry.id for entry in site.log if entry.executed} == {entry.id for entry in site.log}
    assert set(site.asked()) <= set(site.ids)
    pairs = {(entry.id, entry.idempotency_key) for entry in site.log}
    assert len(pairs) == len({key for _, key in pairs}) == len(site.asked())
    if (site.folder / "events").exists():
        assert_no_attempt_outlives_its_task(site)


def assert_no_attempt_outlives_its_task(site: Deployment) -> None:
    """Every DELETE began in a process that had claimed the customer's shard, and while that task lasted."""
    shard_of = {customer_id: at // site.shard_size for at, customer_id in enumerate(site.ids)}
    held: dict[int, set[int]] = {}
    sent: Counter[str] = Counter()
    for event in site.events():
        shards = held.setdefault(event["pid"], set())
        match event["event"]:
            case "claimed":
                shards.add(event["shard"])
            case "task_ended":
                shards.clear()
            case "sending":
                assert shard_of[event["id"]] in shards, "a DELETE outside of its task"
                sent[event["id"]] += 1
    assert site.asked() <= sent, "a DELETE that nobody began"


def assert_each_once(site: Deployment) -> None:
    """All rows deleted, and the upstream saw no customer twice."""
    assert site.asked() == Counter(site.ids)
    assert site.report() == [DELETED] * len(site.ids)
    assert_asked_rightly(site)


def assert_repeated_once(site: Deployment, recorded: set[str], absent: set[Outcome], cuts: int = 1) -> set[str]:
    """All rows deleted but those that were in flight and are asked for again, once a cut; returns these.

    ``recorded`` had an outcome when the worker ended. A 404 for the others must not read ``not_found``: it was our own
    attempt that deleted the customer.
    """
    asked = site.asked()
    repeated = {customer_id for customer_id, count in asked.items() if count > 1}
    assert set(asked) == set(site.ids)
    assert not repeated & recorded, "what has an outcome is not sent again"
    assert max(asked.values()) <= 1 + cuts, "at most one attempt more for each record in flight when it was cut off"
    for customer_id, outcome in zip(site.ids, site.report(), strict=True):
        assert outcome in (absent if customer_id in repeated else {DELETED}), customer_id
    assert_asked_rightly(site)
    return repeated


def assert_ended_for_good(site: Deployment) -> None:
    """The batch is completed in every place that says so."""
    assert site.meta("state") == "completed"
    tally: dict[bytes, bytes] = site.redis.hgetall(site.key("tally"))  # type: ignore[assignment]
    assert tally.pop(b"pending") == b"0"
    assert sum(map(int, tally.values())) == len(site.ids)
    assert not site.redis.sismember(keys.active(TARGET), site.batch)
    assert not site.redis.exists(site.key("shards"), site.key("holders"), site.key("parked"))


def sent_and_unrecorded(site: Deployment) -> set[str]:
    """Customers that the upstream was asked for and that have no outcome."""
    return set(site.asked()) - site.recorded()


@pytest.mark.parametrize(
    ("point", "kills"),
    [
        ("before_sending", "child"),
        ("after_sending", "worker"),
        ("after_reply", "child"),
    ],
)
def test_a_worker_dies_in_an_attempt(deploy: Callable[..., Deployment], point: str, kills: str) -> None:
    """64 in flight: another goes on, what has an outcome is not sent again (also without the ledger), the rest once."""
    site = deploy(250, Scenario(latency="200ms..600ms"), EXPUNGE_LEDGER_DAYS="0")
    victim = site.ids[140]
    if point == "after_sending":
        site.upstream.use(Scenario(latency="200ms..600ms", rules=[Rule(fault="latency", ids=victim, latency="9s")]))
    site.faulty_worker(TEST_FAULT=f"{point}:{victim}", TEST_FAULT_KILLS=kills)
    site.submit()
    if point == "after_sending":
        wait_for(lambda: victim in site.asked())
        (site.folder / "arrived").touch()
    site.wait_for_death()
    site.upstream.use(QUICK)
    recorded = site.recorded()
    assert recorded, "it dies in the middle"
    assert len(sent_and_unrecorded(site)) >= IN_FLIGHT * 3 // 4, "with many in flight"
    if kills == "worker":
        site.faulty_worker()
    site.wait_until("completed")
    repeated = assert_repeated_once(site, recorded, {INTERRUPTED})
    assert (victim in repeated) is (point != "before_sending")
    assert_ended_for_good(site)


def test_a_worker_dies_before_it_records_the_last_outcome(deploy: Callable[..., Deployment]) -> None:
    """The last mile: the batch goes on running, and is finished by another, once."""
    site = deploy(160, Scenario(latency="100ms"), shard_size=80)
    site.faulty_worker(TEST_FAULT="before_recording:last", TEST_FAULT_KILLS="worker")
    site.submit()
    site.wait_for_death()
    unrecorded = sent_and_unrecorded(site)
    assert set(site.asked()) == set(site.ids), "all were sent and answered"
    assert unrecorded
    assert (site.meta("state"), site.meta("ended_at")) == ("running", "")
    site.faulty_worker()
    site.wait_until("completed")
    assert assert_repeated_once(site, set(site.ids) - unrecorded, {INTERRUPTED}) == unrecorded
    assert_ended_for_good(site)


@pytest.mark.parametrize("kills", ["child", "worker"])
def test_a_worker_dies_in_the_act_of_ending_the_batch(deploy: Callable[..., Deployment], kills: str) -> None:
    """The last mile: it is finished already, and a message that comes again changes nothing."""
    site = deploy(160, Scenario(latency="100ms"), shard_size=80)
    site.faulty_worker(TEST_FAULT="after_recording:last", TEST_FAULT_KILLS=kills)
    site.submit()
    site.wait_for_death()
    assert_ended_for_good(site)
    ended_at = site.meta("ended_at")
    assert ended_at
    if kills == "worker":
        site.faulty_worker()
    time.sleep(0.05)  # so that a second end would have another time
    deliver_again(site, shards=[0, 1])
    assert_ended_for_good(site)
    assert site.meta("ended_at") == ended_at
    assert_each_once(site)


def deliver_again(site: Deployment, shards: list[int]) -> None:
    """Send messages by hand, as the broker does with those that are not acknowledged, and wait until they were read."""
    seen = len(site.events())
    Publisher(broker_url(make_settings(site.redis_url))).send(site.batch, TARGET, shards)

    def read() -> bool:
        ended = [event["shard"] for event in site.events()[seen:] if event["event"] == "task_ended"]
        return set(shards) <= set(ended)

    wait_for(read)


@pytest.mark.parametrize("kills", ["child", "worker"])
def test_a_worker_dies_before_the_acknowledgement(deploy: Callable[..., Deployment], kills: str) -> None:
    """All outcomes are there, the message is not acknowledged: it comes again, and nobody is asked again."""
    site = deploy(192, Scenario(latency="100ms"), shard_size=96)
    site.faulty_worker(TEST_FAULT="before_ack:0", TEST_FAULT_KILLS=kills)
    site.submit()
    site.wait_for_death()
    assert set(site.ids[:96]) <= site.recorded()
    if kills == "worker":
        unacknowledged: list[bytes] = site.redis.hvals("expunge:celery:unacked")  # type: ignore[assignment]
        assert any(f"'{site.batch}', 0, " in message.decode() for message in unacknowledged)
        site.faulty_worker()
        deliver_again(site, shards=[0])
    site.wait_until("completed")
    if kills == "child":
        wait_for(lambda: [event["shard"] for event in site.events() if event["event"] == "task_ended"].count(0) == 2)
    assert_ended_for_good(site)
    assert_each_once(site)


def test_a_pool_process_that_dies_takes_no_lock_with_it(deploy: Callable[..., Deployment]) -> None:
    """A lock that processes share is never released by one that was killed, and its worker would wait for ever."""
    site = deploy(200, QUICK)
    worker = site.faulty_worker(TEST_FAULT="holding:lock", TEST_FAULT_KILLS="child")
    site.submit()
    site.wait_until("completed")
    worker.terminate()
    assert worker.wait(STOP_WITHIN) == 0
    assert_each_once(site)


def test_two_workers_whose_clocks_are_apart(deploy: Callable[..., Deployment]) -> None:
    """By a minute, and two reconcilers: no shard is worked on twice at a time; when one dies, the other takes over."""
    site = deploy(700, Scenario(latency="200ms..400ms"), shard_size=50, EXPUNGE_RATE_LIMIT="200/s")
    ahead = site.faulty_worker(TEST_CLOCK_OFFSET="30", TEST_EVERYBODY_RECONCILES="1")
    behind = site.faulty_worker(TEST_CLOCK_OFFSET="-30", TEST_EVERYBODY_RECONCILES="1")
    wait_for(lambda: site.redis.zcard(keys.workers(TARGET)) == 2)
    wait_for(lambda: site.redis.info("clients")["blocked_clients"] == 2)  # both wait for messages
    site.submit()
    wait_for(lambda: len(site.log) > 300)
    assert claimers(site) == {ahead.pid, behind.pid}, "both work"
    assert max(site.asked().values()) == 1
    for pid in (ahead.pid, *processes_below(ahead.pid)):  # the parent first: else it starts another child
        os.kill(pid, signal.SIGKILL)
    ahead.wait(5)
    recorded = site.recorded()
    site.wait_until("completed")
    repeated = assert_repeated_once(site, recorded, {INTERRUPTED})
    assert repeated <= {event["id"] for event in site.events() if event["worker"] == ahead.pid and "id" in event}
    assert 0 < len(repeated) <= 2 * IN_FLIGHT, "in flight, and answered but not yet written"
    assert_ended_for_good(site)


def test_a_worker_that_froze_past_its_lease_changes_nothing(deploy: Callable[..., Deployment]) -> None:
    """It wakes up with replies in hand while another works on its shard: it sends and writes nothing more."""
    site = deploy(200, Scenario(latency="1s"), EXPUNGE_TIMEOUT="60")
    frozen = site.faulty_worker()
    site.submit()
    wait_for(lambda: len(site.log) > IN_FLIGHT + IN_FLIGHT // 2)
    os.killpg(frozen.pid, signal.SIGSTOP)
    time.sleep(0.3)  # what is on its way arrives
    recorded, before = site.recorded(), len(site.log)
    site.upstream.use(Scenario(latency="3s"))
    other = site.faulty_worker()
    wait_for(lambda: len(site.log) >= before + IN_FLIGHT)
    assert claimers(site) == {frozen.pid, other.pid}
    thawed_at = time.time()
    os.killpg(frozen.pid, signal.SIGCONT)
    wait_for(lambda: frozen.pid in {event["worker"] for event in site.events() if event["event"] == "task_ended"})
    site.upstream.use(QUICK)
    site.wait_until("completed")
    late = [event for event in site.events() if event["worker"] == frozen.pid and event["t"] > thawed_at]
    assert "sending" not in {event["event"] for event in late}
    assert len(assert_repeated_once(site, recorded, {INTERRUPTED})) >= IN_FLIGHT * 3 // 4
    assert_ended_for_good(site)


def claimers(site: Deployment) -> set[int]:
    """Workers that have claimed a shard."""
    return {event["worker"] for event in site.events() if event["event"] == "claimed"}


def stop(process: "subprocess.Popen[str]", number: signal.Signals, how: str) -> None:
    """Send a signal to the worker, or to its whole process group, or to both within a moment, as ``timeout`` does."""
    if how != "group":
        process.send_signal(number)
        time.sleep(0.02)
    if how != "worker":
        os.killpg(process.pid, number)


def test_a_soft_stop_loses_and_repeats_nothing(deploy: Callable[..., Deployment]) -> None:
    """What is in flight ends and is recorded, the shard is given back, and the next worker goes on."""
    site = deploy(700, Scenario(latency="1s"), shard_size=350)
    site.submit()
    for number, how in ((signal.SIGTERM, "worker"), (signal.SIGTERM, "both"), (signal.SIGINT, "group")):
        sent = len(site.log)
        worker = site.faulty_worker()
        wait_for(lambda so_far=sent: len(site.log) > so_far + IN_FLIGHT + IN_FLIGHT // 2)  # type: ignore[misc]
        asked_at = time.monotonic()
        stop(worker, number, how)
        code = worker.wait(STOP_WITHIN)
        assert time.monotonic() - asked_at < STOP_WITHIN
        assert code == (0 if number is signal.SIGTERM else 128 + signal.SIGINT)
        assert not sent_and_unrecorded(site)
        assert set(site.holders()) == {"-"}
    assert len(site.log) < len(site.ids)
    site.upstream.use(QUICK)
    site.faulty_worker()
    site.wait_until("completed")
    assert_each_once(site)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_worker_at_once(deploy: Callable[..., Deployment], number: signal.Signals) -> None:
    """It waits for nothing in flight, leaves no process behind, and costs no more than a kill."""
    site = deploy(200, Scenario(latency="30s"), EXPUNGE_TIMEOUT="60")
    worker = site.faulty_worker()
    site.submit()
    wait_for(lambda: len(site.log) == IN_FLIGHT)
    pids = [worker.pid, *processes_below(worker.pid)]
    worker.send_signal(number)
    time.sleep(1.0)
    assert worker.poll() is None, "the first one lets requests in flight end"
    asked_at = time.monotonic()
    worker.send_signal(number)
    assert worker.wait(STOP_WITHIN) == 128 + number
    assert time.monotonic() - asked_at < 5.0
    wait_for(lambda: not any(map(is_alive, pids)), 5)
    site.upstream.use(QUICK)
    unrecorded = sent_and_unrecorded(site)
    assert len(unrecorded) == IN_FLIGHT
    site.faulty_worker()
    site.wait_until("completed")
    assert assert_repeated_once(site, set(site.ids) - unrecorded, {INTERRUPTED}) == unrecorded


def test_a_second_ctrl_c_ends_run_at_once(expunge: Expunge, make_ids: MakeIds) -> None:
    """It says how to go on all the same, and leaves no worker and no server behind."""
    with SimulatorThread(Scenario(latency="30s")) as upstream:
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_TIMEOUT": "60"}
        process = expunge.start("run", expunge.csv(make_ids(200)), "--workers", "1")
        wait_for(lambda: len(upstream.log) == IN_FLIGHT)
        pids = processes_below(process.pid)
        assert len(pids) >= 3, "server, worker, pool process"
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "stopping" not in process.stderr.readline():  # two signals that it has not seen yet would be one
            assert process.poll() is None
        time.sleep(0.3)
        assert process.poll() is None
        asked_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=STOP_WITHIN)
        assert time.monotonic() - asked_at < 5.0
        assert process.returncode == 130, err
        assert "To go on: expunge run customers.csv" in err
        assert "Traceback" not in err
        wait_for(lambda: not any(map(is_alive, pids)), 5)


@pytest.mark.slow
def test_a_soft_stop_does_not_wait_for_an_upstream_that_hangs(deploy: Callable[..., Deployment]) -> None:
    """What was in flight is an unanswered attempt: a 404 for it later is our own doing."""
    site = deploy(100, Scenario(latency="60s"), EXPUNGE_TIMEOUT="120")
    worker = site.worker()
    site.submit()
    wait_for(lambda: len(site.log) == IN_FLIGHT)
    asked_at = time.monotonic()
    worker.terminate()
    _, err = worker.communicate(timeout=2 * STOP_WITHIN)
    assert time.monotonic() - asked_at < STOP_WITHIN
    assert worker.returncode == 0, err
    assert set(site.holders()) == {"-"}, "given back, so that nobody waits for its lease"
    unrecorded = sent_and_unrecorded(site)
    assert len(unrecorded) == IN_FLIGHT
    site.upstream.use(QUICK)
    site.worker()
    site.wait_until("completed")
    assert assert_repeated_once(site, set(site.ids) - unrecorded, {UNANSWERED, INTERRUPTED}) == unrecorded


@pytest.mark.slow
def test_a_soft_stop_does_not_wait_for_a_redis_that_is_frozen(deploy: Callable[..., Deployment]) -> None:
    """Nothing can be given back: the lease ends by itself, and what had no outcome counts as interrupted."""
    site = deploy(300, Scenario(latency="500ms"))
    worker = site.worker()
    site.submit()
    wait_for(lambda: len(site.log) >= IN_FLIGHT)
    server = int(site.redis.info("server")["process_id"])
    sent = len(site.log)
    os.kill(server, signal.SIGSTOP)
    try:
        asked_at = time.monotonic()
        worker.terminate()
        worker.communicate(timeout=2 * STOP_WITHIN)
        assert time.monotonic() - asked_at < STOP_WITHIN
    finally:
        os.kill(server, signal.SIGCONT)
    assert len(site.log) <= sent + IN_FLIGHT


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_after_pause_or_cancel_returned_no_delete_starts(deploy: Callable[..., Deployment], verb: str) -> None:
    """With 64 in flight in each of two processes, whose true outcomes are recorded."""
    site = deploy(1500, Scenario(latency="200ms..800ms"), shard_size=100)
    site.faulty_worker()
    site.faulty_worker()
    site.submit()
    wait_for(lambda: len(site.log) > 4 * IN_FLIGHT and len(claimers(site)) == 2)
    returned_at = asyncio.run(site.control(verb))
    wait_for(lambda: site.upstream.stats()["in_flight"] == 0 and not sent_and_unrecorded(site), 10)
    time.sleep(1.0)  # as long as two rounds of the reconciler
    assert max(entry.t for entry in site.log) <= returned_at
    sent = set(site.asked())
    assert 4 * IN_FLIGHT < len(sent) < len(site.ids) - IN_FLIGHT
    if verb == "pause":
        site.upstream.use(QUICK)
        assert site.expunge("resume", site.batch).returncode == 0
        site.wait_until("completed")
        assert_each_once(site)
        return
    assert (site.meta("state"), site.redis.hget(site.key("tally"), "pending")) == ("cancelled", b"0")
    skipped = ("skipped", "cancelled")
    assert site.report() == [DELETED if customer_id in sent else skipped for customer_id in site.ids]
    assert max(site.asked().values()) == 1
    assert_asked_rightly(site)


def test_no_attempt_outlives_a_task_that_took_too_long(deploy: Callable[..., Deployment]) -> None:
    """Celery's soft time limit fires in mid-shard, and the same process takes the next shard at once."""
    site = deploy(400, Scenario(latency="700ms"), shard_size=200)
    site.faulty_worker(TEST_SOFT_LIMIT="2")
    site.submit()
    wait_for(lambda: {0, 1} <= {event["shard"] for event in site.events() if event["event"] == "task_ended"})
    site.upstream.use(QUICK)
    recorded = site.recorded()
    site.wait_until("completed")
    assert_no_attempt_outlives_its_task(site)
    cuts = (site.folder / "worker.log").read_text().count("took too long")  # of a task that may have had both shards
    assert cuts >= 2
    repeated = assert_repeated_once(site, recorded, {INTERRUPTED, UNANSWERED}, cuts)
    assert repeated, "attempts in flight were cut off"
    assert_ended_for_good(site)
