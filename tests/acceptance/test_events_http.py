"""Events over HTTP (SPEC 8): what was answered 202 is deleted and reported once, whenever ``expunge web`` is killed."""

import csv
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from tests.acceptance.accounting import assert_agree, wait_for
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from tests.web.sender import CLOSED, PATH, batched, binary, cloud_event, make_secret, request, structured
from tests.web.served import Served
from tests.web.test_serving import first_token
from worker.simulator import Scenario, SimulatorThread

ONE_BY_ONE, AT_ONCE, BATCHES = 400, 20, 130
EVENTS = 2 * ONE_BY_ONE + AT_ONCE * BATCHES
SENDERS = 4
KILLED_AT = (600, 1_200, 2_400)  # events that were answered


@dataclass
class Sender:
    """Another system: sends each message again and again until it is answered 202."""

    url: str
    secret: str
    answered: dict[str, str] = field(default_factory=dict)
    """The batch's reference that each event was answered with."""
    unanswered: int = 0
    """Requests that were not answered 202."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def send_all(self) -> None:
        with ThreadPoolExecutor(SENDERS) as pool, httpx.Client(base_url=self.url, timeout=30) as client:
            list(pool.map(partial(self._send, client), messages()))

    def _send(self, client: httpx.Client, message: tuple[str, tuple[Mapping[str, str], bytes]]) -> None:
        message_id, sent = message
        while not self.stopping.is_set():
            answer = self._ask(client, message_id, sent)
            if answer is not None and answer.status_code == 202:
                self._note(answer.json()["events"])
                return
            assert answer is None or answer.status_code == 503, answer.text
            self.unanswered += 1
            self.stopping.wait(0.1)

    def _ask(
        self, client: httpx.Client, message_id: str, sent: tuple[Mapping[str, str], bytes]
    ) -> httpx.Response | None:
        try:
            return client.post(PATH, **request(self.secret, sent, message_id))
        except httpx.TransportError:
            return None

    def _note(self, answers: list[dict[str, str]]) -> None:
        for answer in answers:
            assert self.answered.setdefault(answer["id"], answer["reference"]) == answer["reference"]


def messages() -> Iterator[tuple[str, tuple[Mapping[str, str], bytes]]]:
    """Each event once, in all three modes mixed."""
    events = [cloud_event(f"e{number}", f"customer_{number}") for number in range(EVENTS)]
    for at in range(ONE_BY_ONE):
        yield f"m{at}", structured(events[at])
        yield f"e{ONE_BY_ONE + at}", binary(events[ONE_BY_ONE + at])
        if at < BATCHES:
            first = 2 * ONE_BY_ONE + at * AT_ONCE
            yield f"b{at}", batched(*events[first : first + AT_ONCE])


def test_events_that_were_answered_are_deleted_and_reported_once_though_the_server_is_killed(
    expunge: Expunge, redis_server: str
) -> None:
    token, secret = first_token(redis_server), make_secret()
    with ExitStack() as stack:
        upstream = stack.enter_context(SimulatorThread(Scenario()))
        expunge.environment |= {"EXPUNGE_UPSTREAM_URL": upstream.url, "EXPUNGE_REDIS_URL": redis_server}
        settings = {
            "EXPUNGE_EVENT_SECRETS": secret,
            "EXPUNGE_EVENT_TYPES": CLOSED,
            "EXPUNGE_EVENT_BATCH_SIZE": "500",
            "EXPUNGE_EVENT_BATCH_AGE": "1",
        }
        served = Served(expunge.folder, redis_server, **{**expunge.environment, **settings})
        stack.enter_context(served)
        stack.enter_context(SupervisedWorker(expunge))
        sender = Sender(served.url, secret)
        stack.callback(sender.stopping.set)
        sending = threading.Thread(target=sender.send_all, name="sender")
        sending.start()
        for answered in KILLED_AT:
            wait_for(lambda: len(sender.answered) >= answered)  # noqa: B023 - asked before the next round
            served.kill()
            assert len(sender.answered) < EVENTS
            served.__enter__()
        wait_for(lambda: not sending.is_alive(), 90)
        assert len(sender.answered) == EVENTS
        assert sender.unanswered, "no request was in the middle when it was killed"

        customers = {f"customer_{number}" for number in range(EVENTS)}
        wait_for(lambda: {entry.id for entry in upstream.log} == customers, 90)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=served.url, headers=headers, timeout=30) as reader:
            wait_for(lambda: all(batch["state"] == "completed" for batch in batches(reader)))
            found = {batch["reference"]: report(reader, batch["batch"]) for batch in batches(reader)}

    rows = [row for of_batch in found.values() for row in of_batch]
    assert Counter(row["event_id"] for row in rows) == Counter(sender.answered.keys())
    for reference, of_batch in found.items():
        assert {sender.answered[row["event_id"]] for row in of_batch} == {reference}
    assert {row["event_id"].removeprefix("e") for row in rows if row["event_source"] == "/crm"} == {
        row["customer_id"].removeprefix("customer_") for row in rows
    }
    assert_agree([row["customer_id"] for row in rows], rows, upstream.log, most_repeated=0)


def batches(reader: httpx.Client) -> list[dict[str, Any]]:
    """All rolling batches."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = json.loads(reader.get("/v1/batches", params={"submitted_by": "events", **after}).content)
        found += page["batches"]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


def report(reader: httpx.Client, batch_id: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(reader.get(f"/v1/batches/{batch_id}/report").text, newline="")))
