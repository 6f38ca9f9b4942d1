"""Events over HTTP: signed ones are kept before they are answered, each once; anything else gets a clear answer."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from tests.acceptance.servers import RedisServer
from tests.web.conftest import Client, Serve, client_of, problem
from tests.web.reading import until_refused
from tests.web.sender import (
    BATCHED,
    CLOSED,
    PATH,
    STRUCTURED,
    answers,
    batched,
    binary,
    cloud_event,
    make_secret,
    raw,
    request,
    signature,
    structured,
)
from tests.web.served import Served
from worker.domain.events import REUSED
from worker.store import keys
from worker.web.inbox import LARGEST, MOST

OLD, NEW = make_secret(), make_secret()
SET = {"EXPUNGE_EVENT_SECRETS": f"{OLD} {NEW}", "EXPUNGE_EVENT_TYPES": CLOSED}


@pytest.fixture(scope="module")
def served(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("web"), server, **SET, EXPUNGE_LOG_LEVEL="debug") as running:
        yield running


@pytest.fixture
def sender(served: Served, redis_url: str) -> Iterator[httpx.Client]:  # noqa: ARG001 - an empty server
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def waiting(redis_url: str) -> list[str]:
    """The lines of all events that are to become a batch."""
    with Redis.from_url(redis_url) as redis:
        names = list(redis.scan_iter(f"{keys.GATHERING}*:lines"))
        return [line for name in names for some in redis.lrange(name, 0, -1) for line in some.decode().splitlines(True)]


def body(**others: Any) -> bytes:
    """A good event with other attributes; ``None`` leaves one out."""
    event = {"specversion": "1.0", "id": "e1", "source": "/crm", "type": CLOSED, "data": {"customer_id": "c1"}}
    return json.dumps({name: value for name, value in (event | others).items() if value is not None}).encode()


def test_what_a_stock_client_sends_is_kept_in_each_mode(sender: httpx.Client, redis_url: str) -> None:
    of = {"reference": "CRM 17", "due": "2026-12-24T12:00:00Z"}
    sent = [
        request(OLD, structured(cloud_event("e1", **of))),
        request(OLD, binary(cloud_event("e2", **of)), "e2"),
        request(OLD, batched(cloud_event("e3"), cloud_event("e4"))),
    ]
    found = [answer for each in sent for answer in answers(sender.post(PATH, **each))]
    assert [(answer["source"], answer["id"]) for answer in found] == [("/crm", f"e{n}") for n in (1, 2, 3, 4)]
    assert len({answer["reference"] for answer in found}) == 1
    also = "CRM 17,2026-12-24T12:00:00Z,/crm"
    assert waiting(redis_url) == [
        f"e1,{also},e1\r\n",
        f"e2,{also},e2\r\n",
        "e3,,,/crm,e3\r\n",
        "e4,,,/crm,e4\r\n",
    ]


def test_an_event_that_comes_again_in_another_mode_counts_once_and_is_answered_the_same(
    sender: httpx.Client, redis_url: str
) -> None:
    event = cloud_event("e1")
    first = sender.post(PATH, **request(OLD, structured(event)))
    for again in (request(OLD, structured(event)), request(NEW, binary(event), "e1"), request(OLD, batched(event))):
        repeated = sender.post(PATH, **again)
        assert (repeated.status_code, repeated.json()) == (202, first.json())
    assert len(waiting(redis_url)) == 1


def test_either_of_two_secrets_counts_so_that_one_can_be_rotated(sender: httpx.Client) -> None:
    for number, secret in enumerate((OLD, NEW)):
        answers(sender.post(PATH, **request(secret, structured(cloud_event(f"e{number}")))))
    problem(sender.post(PATH, **request(make_secret(), structured(cloud_event("e3")))), "signature")


def test_an_empty_batch_is_taken(sender: httpx.Client, redis_url: str) -> None:
    assert answers(sender.post(PATH, **request(OLD, batched()))) == []
    assert waiting(redis_url) == []


def test_if_one_event_of_a_batch_is_bad_it_is_named_and_none_is_kept(sender: httpx.Client, redis_url: str) -> None:
    events = [cloud_event("e1"), cloud_event("e2", "no such/id"), cloud_event("e3")]
    detail = problem(sender.post(PATH, **request(OLD, batched(*events))), "event")
    assert detail == "event 2: its customer ID is not accepted by EXPUNGE_ID_PATTERN"
    assert waiting(redis_url) == []


def test_an_id_that_was_used_for_another_customer_is_refused_and_what_came_with_it_is_stored(
    sender: httpx.Client, redis_url: str
) -> None:
    answers(sender.post(PATH, **request(OLD, structured(cloud_event("e1")))))
    one = sender.post(PATH, **request(OLD, binary(cloud_event("e1", "c2")), "e1"))
    assert problem(one, "event_reused") == REUSED
    several = sender.post(PATH, **request(OLD, batched(cloud_event("e3"), cloud_event("e1", "c2"), cloud_event("e4"))))
    assert problem(several, "event_reused") == f"event 2: {REUSED}; all others are stored"
    assert several.json()["events"] == [2]
    assert [line.split(",")[0] for line in waiting(redis_url)] == ["e1", "e3", "e4"]


def test_a_batch_has_a_thousand_events_at_most(sender: httpx.Client, redis_url: str) -> None:
    events = [cloud_event(f"e{number}") for number in range(MOST + 1)]
    assert "at most 1,000" in problem(sender.post(PATH, **request(OLD, batched(*events))), "event")
    assert waiting(redis_url) == []
    assert len(answers(sender.post(PATH, **request(OLD, batched(*events[:MOST]))))) == MOST
    assert len(waiting(redis_url)) == MOST


NESTED = b"[" * 10_000 + b"]" * 10_000
BAD = {
    "no ID": (body(id=None), "it has no id"),
    "another type": (body(type="com.example.account.opened"), "none of EXPUNGE_EVENT_TYPES"),
    "not JSON": (b"{", "no CloudEvent 1.0 as JSON"),
    "nothing": (b"", "no CloudEvent 1.0 as JSON"),
    "an ID that the pattern refuses": (body(data={"customer_id": "../admin"}), "EXPUNGE_ID_PATTERN"),
    "another version": (body(specversion="0.3"), "specversion"),
    "a key twice": (body().replace(b'{"customer_id"', b'{"customer_id": "c2", "customer_id"'), "twice"),
    "an attribute twice": (b'{"id": "e0", ' + body()[1:], "twice"),
    "nested deep": (NESTED, "no CloudEvent 1.0 as JSON"),
    "data that are nested deep": (body().replace(b'"c1"', NESTED), "no CloudEvent 1.0 as JSON"),
    "half a letter": (body(data={"customer_id": "\ud800"}), "EXPUNGE_ID_PATTERN"),
    "a number that is none": (body(data={"customer_id": "c1", "n": float("nan")}), "NaN"),
    "an extension that is an object": (body(ticket={"no": 1}), "its ticket"),
    "data that are no JSON": (body(datacontenttype="text/xml"), "datacontenttype"),
    "a time that is none": (body(time="9999-12-31T24:00:00Z"), "its time is none"),
    "a due beyond time": (body(due="9999-12-31T23:59:59-14:00"), "due"),
}


@pytest.mark.parametrize(("sent", "detail"), BAD.values(), ids=BAD)
def test_what_can_never_be_right_is_refused_in_one_line(
    sender: httpx.Client, redis_url: str, sent: bytes, detail: str
) -> None:
    said = problem(sender.post(PATH, **raw(OLD, sent)), "event")
    assert detail in said
    assert "\n" not in said
    in_a_batch = problem(
        sender.post(PATH, **raw(OLD, b"[" + body() + b"," + sent + b"]", content_type=BATCHED)), "event"
    )
    assert "\n" not in in_a_batch
    assert "admin" not in said + in_a_batch
    assert waiting(redis_url) == []


@pytest.mark.parametrize("sent", [b"{", NESTED, b"", b'"text"', b'{"customer_id": "c1", "customer_id": "c2"}'])
def test_bad_data_are_refused_in_binary_mode_too(sender: httpx.Client, redis_url: str, sent: bytes) -> None:
    headers, _ = binary(cloud_event("e1"))
    problem(sender.post(PATH, **request(OLD, (headers, sent), "e1")), "event")
    assert waiting(redis_url) == []


@pytest.mark.parametrize(
    ("content_type", "others"),
    [
        ("text/plain", {}),
        ("application/json", {}),
        ("application/cloudevents+xml", {"ce-specversion": "1.0"}),
        ("text/csv", {"ce-specversion": "1.0", "ce-id": "m1"}),
        ("multipart/form-data", {}),
        ("", {}),
        (STRUCTURED, {"content-encoding": "gzip"}),
    ],
)
def test_content_of_another_type_is_refused(
    sender: httpx.Client, redis_url: str, content_type: str, others: dict[str, str]
) -> None:
    sent = raw(OLD, body(), content_type=content_type)
    problem(sender.post(PATH, content=sent["content"], headers=sent["headers"] | others), "media_type")
    assert waiting(redis_url) == []


def test_a_content_type_may_say_its_letters(sender: httpx.Client) -> None:
    answers(sender.post(PATH, **raw(OLD, body(), content_type=f"{STRUCTURED.title()}; charset=utf-8")))


def test_packed_events_are_refused_as_what_nobody_signed(sender: httpx.Client) -> None:
    headers = {"content-type": STRUCTURED, **signature(OLD, body())}
    detail = problem(sender.post(PATH, content=gzip.compress(body()), headers=headers), "signature")
    assert "no UTF-8" in detail


def test_a_body_over_the_limit_is_refused(sender: httpx.Client, redis_url: str) -> None:
    large = body(data={"customer_id": "c1", "more": "x" * (1 << 20)})
    detail = problem(sender.post(PATH, **raw(OLD, large)), "too_large")
    assert "send fewer events at once" in detail
    assert "pack" not in detail, "packed events are refused"
    sent = raw(OLD, large)
    problem(sender.post(PATH, content=iter([large]), headers=sent["headers"]), "too_large")  # no length is announced
    padded = body() + b" " * (LARGEST - len(body()))
    problem(sender.post(PATH, **raw(OLD, padded + b" ")), "too_large")
    answers(sender.post(PATH, **raw(OLD, padded)))
    assert len(waiting(redis_url)) == 1


def test_only_post_is_for_this_address(sender: httpx.Client) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        problem(sender.request(method, PATH), "method")


def test_nothing_of_an_event_is_logged(sender: httpx.Client, served: Served) -> None:
    for message in (
        structured(cloud_event("secret-event", "secret-customer", reference="secret-r")),
        structured(cloud_event("secret-event", "secret customer")),
        structured(cloud_event("secret-event", type="secret-type")),
        ({"content-type": STRUCTURED}, b'{"secret'),
    ):
        sender.post(PATH, **request(OLD, message))
        sender.post(PATH, **request(make_secret(), message))
    for shown in ("secret-", "secret customer", "secret'", OLD, NEW, OLD.removeprefix("whsec_")):
        assert shown not in served.log


SIGNED = signature(OLD, body())
V1 = SIGNED["webhook-signature"]
JUNK: dict[str, dict[str, str | bytes]] = {
    "no signature": {"webhook-signature": ""},
    "no ID": {"webhook-id": ""},
    "no time stamp": {"webhook-timestamp": ""},
    "another ID": {"webhook-id": "m2"},
    "another version": {"webhook-signature": V1.replace("v1,", "v2,")},
    "no version": {"webhook-signature": V1.removeprefix("v1,")},
    "too many commas": {"webhook-signature": f"{V1},{V1}"},
    "no base64": {"webhook-signature": "v1,a"},
    "letters beyond ASCII": {"webhook-signature": "v1,ä".encode()},
    "bytes that are no text": {"webhook-signature": b"v1,\xff\xfe"},
    "an ID that is no text": {"webhook-id": b"\xff"},
    "only spaces": {"webhook-signature": "  v1  "},
    "no number": {"webhook-timestamp": "soon"},
    "not a number": {"webhook-timestamp": "nan"},
    "endless": {"webhook-timestamp": "inf"},
    "beyond time": {"webhook-timestamp": "1e300"},
    "before time": {"webhook-timestamp": "-1e14"},
    "a thousand digits": {"webhook-timestamp": "1" * 1000},
}


@pytest.fixture
async def inbox(serve: Serve) -> Client:
    """Another process's address: this one refuses nobody for having asked too often."""
    settings = {"event_secrets": (SecretStr(OLD), SecretStr(NEW)), "event_types": frozenset({CLOSED})}
    return client_of(await serve(**settings))


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_whatever_is_in_the_headers_an_event_that_nobody_signed_is_not_taken(
    inbox: Client, redis_url: str, junk: dict[str, str | bytes]
) -> None:
    fresh = signature(OLD, body())
    headers: dict[str, Any] = {"content-type": STRUCTURED} | fresh | junk
    response = await inbox.post(PATH, content=body(), headers=headers)
    problem(response, "signature")
    assert response.headers["www-authenticate"] == "StandardWebhooks"
    assert waiting(redis_url) == []


async def test_a_body_that_was_changed_is_not_taken(inbox: Client, redis_url: str) -> None:
    sent = raw(OLD, body())
    problem(await inbox.post(PATH, content=body(data={"customer_id": "c2"}), headers=sent["headers"]), "signature")
    assert waiting(redis_url) == []


async def test_a_header_that_is_there_twice_does_not_count(inbox: Client) -> None:
    sent = raw(OLD, body())
    headers = [*sent["headers"].items(), ("webhook-id", "m2")]
    problem(await inbox.post(PATH, content=body(), headers=headers), "signature")


@pytest.mark.parametrize("minutes", [-6, 6, -60 * 24 * 365])
async def test_an_old_or_future_time_stamp_is_refused(inbox: Client, redis_url: str, minutes: int) -> None:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    headers = {"content-type": STRUCTURED, **signature(OLD, body(), at=at)}
    detail = problem(await inbox.post(PATH, content=body(), headers=headers), "signature")
    assert "more than five minutes" in detail
    assert waiting(redis_url) == []


@pytest.mark.parametrize("minutes", [-4, 4])
async def test_clocks_may_differ_by_some_minutes(inbox: Client, minutes: int) -> None:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    headers = {"content-type": STRUCTURED, **signature(OLD, body(), at=at)}
    answers(await inbox.post(PATH, content=body(), headers=headers))


async def test_in_binary_mode_the_id_is_the_one_that_was_signed(inbox: Client, redis_url: str) -> None:
    """The other headers are not signed; else what somebody caught could be sent again as another event."""
    headers, sent = binary(cloud_event("e1"))
    problem(await inbox.post(PATH, **request(OLD, (headers, sent), "m1")), "signature")
    changed = headers | {"ce-id": "e2"}
    problem(await inbox.post(PATH, **request(OLD, (changed, sent), "e1")), "signature")
    assert waiting(redis_url) == []
    answers(await inbox.post(PATH, **request(OLD, (headers, sent), "e1")))
    for spelt in ("a b", "a%20b"):
        answers(await inbox.post(PATH, **request(OLD, binary(cloud_event("a b", "c1")), spelt)))


async def test_what_was_signed_as_an_event_is_not_taken_for_the_data_of_another(serve: Serve, redis_url: str) -> None:
    """Somebody caught an event that asks for nothing, and sends it in binary mode under headers of their own."""
    opened = body(type="com.example.account.opened")
    app = await serve(
        event_secrets=(SecretStr(OLD),), event_types=frozenset({CLOSED}), event_customers="$..customer_id"
    )
    async with client_of(app) as inbox:
        for sent in (opened, b"[" + opened + b"]"):
            problem(await inbox.post(PATH, **raw(OLD, sent)), "event")
            headers = {"ce-specversion": "1.0", "ce-id": "m1", "ce-source": "/crm", "ce-type": CLOSED}
            answer = await inbox.post(PATH, **request(OLD, (headers, sent)))
            assert "is an event itself" in problem(answer, "event")
    assert waiting(redis_url) == []


async def test_data_too_deep_for_the_path_are_refused(serve: Serve) -> None:
    app = await serve(
        event_secrets=(SecretStr(OLD),), event_types=frozenset({CLOSED}), event_customers="$..customer_id"
    )
    deep = body().replace(b'"c1"', b"[" * 200 + b"]" * 200)
    async with client_of(app) as inbox:
        assert "too deep" in problem(await inbox.post(PATH, **raw(OLD, deep)), "event")


class Unread:
    """A body that nobody may read."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("it was read")


async def test_the_body_is_not_read_before_the_headers_give_it_a_chance(inbox: Client) -> None:
    for headers in ({"content-type": STRUCTURED}, {"content-type": "text/plain", **signature(OLD, b"")}):
        response = await inbox.post(PATH, content=Unread(), headers=headers)
        assert response.status_code in (401, 415)


async def test_strangers_are_limited_and_those_with_a_secret_are_not(inbox: Client) -> None:
    wrong = request(make_secret(), structured(cloud_event("e1")))
    statuses = await until_refused(lambda: inbox.post(PATH, **wrong))
    assert statuses == [401] * (len(statuses) - 1) + [429]
    good = [await inbox.post(PATH, **request(OLD, structured(cloud_event(f"e{number}")))) for number in range(60)]
    assert {response.status_code for response in good} == {202}


async def test_somebody_without_a_secret_is_refused_whatever_else_is_wrong(inbox: Client) -> None:
    problem(await inbox.post(PATH), "signature")
    problem(await inbox.post(PATH, content=b"{", headers={"content-type": "application/json"}), "signature")


async def test_without_secrets_no_event_is_taken_and_it_says_what_to_set(stranger: Client) -> None:
    detail = problem(await stranger.post(PATH, **raw(OLD, body())), "not_found")
    assert "EXPUNGE_EVENT_SECRETS" in detail


async def test_events_are_counted_as_accepted_or_repeated(inbox: Client, vera: Client) -> None:
    app = inbox._transport.app  # type: ignore[attr-defined]
    for _ in range(2):
        await inbox.post(PATH, **request(OLD, batched(cloud_event("e1"), cloud_event("e2"))))
    async with client_of(app, vera.headers["Authorization"].split()[1]) as reader:
        text = (await reader.get("/metrics")).text
    assert 'expunge_events_total{answer="accepted"} 2.0' in text
    assert 'expunge_events_total{answer="repeated"} 2.0' in text


async def test_what_became_of_an_event_is_found_by_the_reference_of_its_answer(serve: Serve, vera: Client) -> None:
    app = await serve(event_secrets=(SecretStr(OLD),), event_types=frozenset({CLOSED}), event_batch_age=0.000001)
    async with client_of(app) as inbox:
        (answer,) = answers(await inbox.post(PATH, **request(OLD, structured(cloud_event("e1")))))
        named = {"reference": answer["reference"]}
        async with asyncio.timeout(30):  # the process makes the batch by itself
            while not (found := (await vera.get("/v1/batches", params=named)).json()["batches"]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert [(batch["reference"], batch["rows"], batch["submitted_by"]) for batch in found] == [
        (answer["reference"], 1, "events")
    ]
    assert (await vera.get("/v1/batches", params=named | {"submitted_by": "anna"})).json() == {
        "batches": [],
        "next": None,
    }
    assert (await vera.get("/v1/batches", params={"reference": "events-"})).json()["batches"] == []


@pytest.mark.parametrize("trouble", ["stopped", "full", "replica"])
def test_while_redis_takes_nothing_it_is_said_when_to_send_again_and_nothing_is_lost(
    tmp_path: Path, trouble: str
) -> None:
    with (
        RedisServer(tmp_path / "valkey") as valkey,
        Served(tmp_path, valkey.url, **SET) as served,
        httpx.Client(base_url=served.url, timeout=60) as sender,
    ):
        answers(sender.post(PATH, **request(OLD, structured(cloud_event("e1")))))
        _begin(trouble, valkey)
        refused = sender.post(PATH, **request(OLD, batched(cloud_event("e1"), cloud_event("e2"))))
        detail = problem(refused, "unavailable")
        assert detail.startswith("the results store ")
        address = valkey.url.partition("://")[2].partition("/")[0]
        assert address not in refused.text
        assert served.log.count(address) == 1, "the log says which it is"
        problem(sender.post(PATH, **request(OLD, batched(cloud_event("e3")))), "unavailable")
        assert served.log.count(address) == 1, "and says it once"
        assert int(refused.headers["retry-after"]) > 0
        _end(trouble, valkey)
        again = answers(sender.post(PATH, **request(OLD, batched(cloud_event("e1"), cloud_event("e2")))))
        assert len(again) == 2
        assert sorted(line.partition(",")[0] for line in waiting(valkey.url)) == ["e1", "e2"]


def _begin(trouble: str, valkey: RedisServer) -> None:
    if trouble == "stopped":
        valkey.kill()
        return
    with valkey.client() as redis:
        if trouble == "full":
            redis.config_set("maxmemory", "1")
        else:
            redis.replicaof("127.0.0.1", "1")


def _end(trouble: str, valkey: RedisServer) -> None:
    if trouble == "stopped":
        valkey.start()
        return
    with valkey.client() as redis:
        if trouble == "full":
            redis.config_set("maxmemory", "0")
        else:
            redis.replicaof("NO", "ONE")
