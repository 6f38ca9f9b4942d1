"""Events from Celery (SPEC 8), as another system sends them: by five lines of the documentation, and nothing of ours.

Real producers in processes of their own, real workers that are killed, and an upstream that logs each DELETE.
"""

import asyncio
import base64
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.acceptance.accounting import MakeIds, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from tests.conftest import TARGET, UPSTREAM, make_settings
from worker.intake.celery_message import TASK
from worker.queue import DELETE_SHARD, celery_app, events_queue_of, lists_of, queue_of
from worker.simulator import Scenario, SimulatorThread
from worker.store import keys
from worker.store.dead_letters import DeadLetter
from worker.wiring import open_store

ROOT = Path(__file__).parents[2]
QUEUE = events_queue_of(TARGET)
KILLS = 5
_SEND = """
import json, sys
for customers in json.load(open("customers.json")):
    delete_customers(customers, "A-1")
assert not {"worker", "tasks"} & set(sys.modules), "nothing of this project"
"""


@dataclass
class Site:
    """A store, an upstream, and the folder of producers and workers."""

    expunge: Expunge
    redis_url: str
    upstream: SimulatorThread
    redis: "Redis"

    @property
    def kombu_url(self) -> str:
        return self.redis_url.replace("unix://", "redis+socket://")

    def example(self) -> str:
        """The documentation's code, with this broker and queue."""
        section = (ROOT / "docs" / "events.md").read_text().partition("## From Celery")[2]
        code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
        assert code is not None
        text = code[1].replace("redis://redis.example.com:6379/0", self.kombu_url)
        assert len([line for line in text.splitlines() if line]) <= 5
        assert self.kombu_url in text
        assert f'"{QUEUE}"' in text
        return text

    def produce(self, chunks: Sequence[Sequence[str]], options: str = "") -> "subprocess.Popen[bytes]":
        """A producer that cannot import this project, isolated and in a folder of its own; ``options`` of its call."""
        folder = Path(tempfile.mkdtemp(dir=self.expunge.folder))
        (folder / "customers.json").write_text(json.dumps(chunks))
        (folder / "producer.py").write_text(self.example().replace("queue=", f"{options}queue=") + _SEND)
        return subprocess.Popen([sys.executable, "-I", "producer.py"], cwd=folder)

    def waiting(self) -> int:
        return sum(self.redis.llen(name) for name in lists_of(QUEUE))

    def wait_until_some_were_taken(self, producer: "subprocess.Popen[bytes]") -> None:
        """Of those that wait now or come, of which a fast worker may leave none; or until none will come."""
        most = 0

        def fewer() -> bool:
            nonlocal most
            ended, waiting = producer.poll() is not None, self.waiting()
            most = max(most, waiting)
            return waiting < most or (ended and not waiting)

        wait_for(fewer)

    def close_gatherings(self) -> int:
        """Let what has gathered be old enough to become a batch; returns how many records that are."""
        ids: list[bytes] = self.redis.zrange(keys.gatherings(TARGET), 0, -1)  # type: ignore[assignment]
        records = sum(int(self.redis.hget(keys.GATHERING + each.decode(), "rows") or 0) for each in ids)
        self.redis.zadd(keys.gatherings(TARGET), dict.fromkeys(ids, 1))
        return records

    async def _read(self) -> tuple[list[tuple[str, str | None]], list[DeadLetter]]:
        async with open_store(make_settings(self.redis_url)) as store:
            rows: list[tuple[str, str | None]] = []
            for batch in await store.batches.recent(None):
                found = await store.batches.get(batch.id)
                assert found is not None
                all_lines = [line async for page in store.batches.pages(found) for line in page]
                rows += [(line.customer_id, line.result.reason.text if line.result else None) for line in all_lines]
            return rows, [letter for _, letter in await store.dead_letters.list(10_000)]

    def rows(self) -> list[tuple[str, str | None]]:
        """Customer and reason of every row of every rolling batch."""
        return asyncio.run(self._read())[0]

    def letters(self) -> list[DeadLetter]:
        return asyncio.run(self._read())[1]


@pytest.fixture
def site(expunge: Expunge, redis_server: str) -> Iterator[Site]:
    with SimulatorThread(Scenario(latency="10ms")) as upstream, Redis.from_url(redis_server) as redis:
        expunge.environment |= {
            "EXPUNGE_UPSTREAM_URL": upstream.url,
            "EXPUNGE_UPSTREAM_NAME": UPSTREAM,
            "EXPUNGE_REDIS_URL": redis_server,
            "EXPUNGE_DIGEST_KEY": "a key for tests",
            "EXPUNGE_EVENT_BATCH_AGE": "1",
        }
        yield Site(expunge, redis_server, upstream, redis)


@pytest.mark.slow
def test_no_event_is_lost_or_counted_twice_when_workers_are_killed_while_they_take_them(
    site: Site, make_ids: MakeIds
) -> None:
    ids = make_ids(6_000)
    site.expunge.environment["EXPUNGE_EVENT_BATCH_AGE"] = "3600"  # else it is batches that they are killed with
    producer = site.produce([ids[at : at + 2] for at in range(0, len(ids), 2)])
    with SupervisedWorker(site.expunge, "--processes", "2") as worker:
        for number in range(1, KILLS + 1):
            site.wait_until_some_were_taken(producer)
            worker.kill()
            wait_for(lambda: worker.exits == number)  # noqa: B023
            if producer.poll() is not None and not site.waiting():
                break
        assert producer.wait(60) == 0
        wait_for(lambda: not site.waiting())
        assert site.close_gatherings() == len(ids), "what has left the queue is kept"
        wait_for(lambda: len({entry.id for entry in site.upstream.log}) == len(ids), 100)
        wait_for(lambda: all(reason for _, reason in site.rows()))
    assert worker.exits >= 2, "they were killed in the middle"
    rows = site.rows()
    assert Counter(customer_id for customer_id, _ in rows) == Counter(ids)
    assert Counter(entry.id for entry in site.upstream.log if entry.executed) == Counter(ids)
    assert site.waiting() == 0
    assert site.letters() == []
    assert not [line for line in worker.lines if "customer_" in line]


def test_pickle_and_yaml_are_never_read_and_hold_up_nobody(site: Site, make_ids: MakeIds) -> None:
    bad, good = make_ids(2), make_ids(2)
    for serializer, customer_id in zip(("pickle", "yaml"), bad, strict=True):
        assert site.produce([[customer_id]], f'serializer="{serializer}", ').wait(30) == 0
    assert site.waiting() == len(bad)
    with SupervisedWorker(site.expunge) as worker:
        assert site.produce([[customer_id] for customer_id in good]).wait(30) == 0
        wait_for(lambda: sorted(entry.id for entry in site.upstream.log) == sorted(good))
        assert worker.exits == 0
    never = "its content is not application/json; pickle and YAML are never read"
    letters = site.letters()
    assert [(letter.way, letter.place.split()[0], letter.reason) for letter in letters] == [
        ("celery", QUEUE, never)
    ] * 2
    assert site.waiting() == 0
    assert not [line for line in worker.lines if "customer_" in line]
    assert len([line for line in worker.lines if never in line]) == len(bad)


def test_what_a_worker_cannot_read_in_its_own_queue_neither_ends_it_nor_shows_a_customer(
    site: Site, make_ids: MakeIds
) -> None:
    """Celery's own words for it would print the message; and some of it would end or stop the worker."""
    own, customer_id = queue_of(TARGET), make_ids(1)[0]
    app = celery_app(site.redis_url)
    for serializer in ("pickle", "yaml"):
        for task in (TASK, DELETE_SHARD):
            app.send_task(task, [[customer_id]], queue=own, serializer=serializer)
    app.send_task("crm.forget", [[customer_id]], queue=own)
    app.send_task(TASK, [[customer_id]], queue=own, compression="zlib")
    app.send_task(TASK, [customer_id], queue=own)
    site.redis.lpush(f"expunge:celery:{own}", *junk(own, customer_id))
    app.send_task(TASK, [["good"]], queue=own)
    app.close()
    with SupervisedWorker(site.expunge) as worker:
        wait_for(lambda: "good" in {entry.id for entry in site.upstream.log})
        wait_for(lambda: site.redis.llen(f"expunge:celery:{own}") == 0)  # a shard that was taken without its message
        assert worker.exits == 0
    assert customer_id not in "".join(worker.lines)
    assert "message dropped" in "".join(worker.lines)
    letters = [letter for letter in site.letters() if letter.reason.startswith("its customer_ids are no list")]
    assert letters, "the task that was called wrongly is kept with its reason"


def junk(queue: str, customer_id: str) -> Iterator[bytes]:
    """What is no message, and messages of which one part is something else."""
    yield from (customer_id.encode(), b"", b"\xff", b"[" * 100_000, b"{}", b"[1]", f'"{customer_id}"'.encode())
    wrong = (None, 7, customer_id, [customer_id], {customer_id: customer_id})
    good = message(queue, [[["c1"]], {}, {}])
    for part in good:
        yield from (json.dumps(good | {part: value}).encode() for value in wrong)
    for name in ("task", "id", "eta", "expires", "timelimit", "compression"):
        yield from (json.dumps(good | {"headers": good["headers"] | {name: value}}).encode() for value in wrong[1:])
    for body in (customer_id, [[], customer_id, {}], [[[customer_id]], {}, customer_id], {"task": customer_id}):
        yield json.dumps(message(queue, body)).encode()
        yield json.dumps(message(queue, body) | {"headers": {}}).encode()


def message(queue: str, body: Any) -> dict[str, Any]:
    """As kombu puts it into Redis."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": "t1"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "d1",
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }
