"""Which addresses may be told, what a secret is, when it is tried again, and what is connected to."""

import asyncio
import base64
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGET
from tests.receiver import SECOND_SECRET, SECRET, Receiver
from tests.unit.test_client import Certificate
from worker.callbacks.client import Answer, open_poster
from worker.callbacks.message import Message, Signer, envelope
from worker.domain.addresses import is_loopback, is_public
from worker.domain.callbacks import MOST, PRIVATE, Callback, Schedule, Standing, read_secret

NAME = "hooks.example.com"
PRIVATE_ADDRESSES = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",  # noqa: S104 - nobody binds it
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC_ADDRESSES = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


def message() -> Message:
    unsigned = envelope("test-1", "callback.test", TARGET, 1_769_860_800.0, {"environment": "sandbox"})
    return Signer([read_secret(SECRET)]).sign(unsigned, 1_769_860_800.0)


async def post(url: str, *, allow_private: bool = False) -> Answer:
    async with open_poster(allow_private=allow_private) as poster:
        return await poster.post(Callback(url, "host"), message())


# --- addresses ---


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_an_address_of_ones_own_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_an_address_that_everybody_reaches_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", NAME, "1.2.3", "0x7f.1", "2130706433", "8.8.8.8/32"])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize(("host", "loopback"), [("localhost", True), ("::1", True), ("127.9.9.9", True), (NAME, False)])
def test_this_machine_is_known_by_name_and_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("address", [address for address in PRIVATE_ADDRESSES if "%" not in address])
def test_a_url_with_a_private_address_is_refused_at_once(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match="is not a public address"):
        Callback.parse(f"https://{host}/x", allow_private=False)
    assert Callback.parse(f"https://{host}/x", allow_private=True).host == host


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "10.1.2.0x3", "1.2.3.4."]
)
def test_a_number_that_the_system_would_read_as_an_address_is_refused_always(host: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(ValueError, match="four decimal numbers"):
            Callback.parse(f"https://{host}/x", allow_private=allow_private)


@pytest.mark.parametrize("url", [f"http://{NAME}/x", "http://127.0.0.1/x", "http://localhost:8000/x"])
def test_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with https://"):
        Callback.parse(url, allow_private=False)


def test_http_is_for_this_machine_alone_even_if_private_addresses_are_allowed() -> None:
    assert Callback.parse("http://127.0.0.1:8000/x", allow_private=True).host == "127.0.0.1:8000"
    for host in (NAME, "10.0.0.1"):
        with pytest.raises(ValueError, match="must begin with https://"):
            Callback.parse(f"http://{host}/x", allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks",
        "ftp://hooks.example.com/",
        "https://",
        "https://user@hooks.example.com/",
        "https://user:sesame@hooks.example.com/",
        "https://hooks.example.com/#sesame",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://höoks.example.com/",
        "https://hooks.example.com/\x00sesame",
        "https://[::1/",
        "https://:443/x",
    ],
)
def test_what_is_no_address_to_tell_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be|four decimal") as refusal:
        Callback.parse(url, allow_private=False)
    assert "sesame" not in str(refusal.value)


# --- what is connected to ---


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_no_connection_is_made_to_a_private_address(receiver: Receiver, host: str) -> None:
    assert await post(f"http://{host}:{receiver.port}/x") == Answer(None, PRIVATE)
    assert receiver.requests == []
    assert (await post(f"http://127.0.0.1:{receiver.port}/x", allow_private=True)).taken


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"])  # noqa: S104 - nobody binds it
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    names(monkeypatch, [address])
    assert await post(f"http://{NAME}:{receiver.port}/x") == Answer(None, PRIVATE)
    assert receiver.requests == []
    assert (await post(f"http://{NAME}:{receiver.port}/x", allow_private=True)).taken


async def test_a_name_that_is_public_first_and_private_then_is_refused_then(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: whatever a name was when somebody looked, what is connected to counts."""
    asked = names(monkeypatch, ["192.0.2.1"], ["127.0.0.1"])
    monkeypatch.setattr(
        "worker.callbacks.client.is_public", lambda address: address == "192.0.2.1" or is_public(address)
    )
    monkeypatch.setattr("worker.callbacks.client.TIMEOUT", 0.2)
    async with open_poster(allow_private=False) as poster:
        callback = Callback(f"http://{NAME}:{receiver.port}/x", NAME)
        first, second = await poster.post(callback, message()), await poster.post(callback, message())
    assert first.problem != PRIVATE
    assert second == Answer(None, PRIVATE)
    assert len(asked) == 2, "an answer of the name's server must not be kept"
    assert receiver.requests == []


async def test_of_a_names_addresses_none_that_is_private_is_tried(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ["10.255.255.1", "127.0.0.1", "::1"])
    assert await post(f"http://{NAME}:{receiver.port}/x") == Answer(None, PRIVATE)
    assert receiver.requests == []


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let each question for an address be answered with these, the last for ever; returns who was asked for."""
    asked: list[str] = []

    def answer(host: str, port: int, *_: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    monkeypatch.setattr("worker.callbacks.client.socket.getaddrinfo", answer)
    return asked


async def test_proxy_variables_are_ignored(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(receiver.url, allow_private=True)).taken
        assert proxy.requests == []
    assert len(receiver.requests) == 1


async def test_what_is_wrong_is_said_in_words_without_the_url(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    assert (await post(receiver.url.replace("http:", "https:"), allow_private=True)).problem == (
        "speaks no TLS that is understood"
    )

    def unknown(*_: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("worker.callbacks.client.socket.getaddrinfo", unknown)
    assert await post(f"https://{NAME}/?key=sesame") == Answer(None, "is a name without an address")


async def test_only_a_certificate_that_is_trusted_is_told_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Certificate(tmp_path, "right", "IP:127.0.0.1")
    other = Certificate(tmp_path, "other", "DNS:hooks.example.com")
    told = []
    for shown, trusted in ((right, other), (other, other), (right, right)):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted.file))
        with Receiver(tls=shown.context) as receiver:
            answer = await post(receiver.url, allow_private=True)
            told.append((answer.problem, len(receiver.requests)))
    untrusted = "has a certificate that is not to be trusted"
    assert told == [(untrusted, 0), (untrusted, 0), ("", 1)]


async def test_names_that_hang_hold_up_nobody_else(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's own threads send the messages of batches."""
    released = threading.Event()
    whole = socket.getaddrinfo

    def answer(host: str, *rest: Any) -> Any:
        if host.startswith("slow"):
            released.wait(30)
        return whole(host, *rest)

    monkeypatch.setattr("worker.callbacks.client.socket.getaddrinfo", answer)
    try:
        async with open_poster(allow_private=True) as poster:
            slow = [
                asyncio.create_task(poster.post(Callback(f"http://slow{number}.invalid/", "slow"), message()))
                for number in range(MOST - 1)
            ]
            local = Callback(f"http://localhost:{receiver.port}/x", "localhost")
            assert (await poster.post(local, message())).taken
            assert await asyncio.to_thread(lambda: "sent") == "sent"
            assert not any(task.done() for task in slow)
            released.set()
            await asyncio.gather(*slow)
    finally:
        released.set()


# --- signatures ---


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        SECRET.replace("whsec_", "whsec_!!!!"),
        SECRET + "é",
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as refusal:
        read_secret(secret)
    assert len(secret) < 10 or secret not in str(refusal.value)


def test_a_secret_may_come_without_padding() -> None:
    assert read_secret(SECRET.rstrip("=")) == read_secret(SECRET) == b"the first secret of 32 bytes...."


@pytest.mark.parametrize("at", [0.0, 1_769_860_800.999, 1_785_000_000.5])
@pytest.mark.usefixtures("far_from_utc")
def test_the_time_that_is_signed_is_the_time_that_is_sent(at: float) -> None:
    signed = Signer([read_secret(SECOND_SECRET)]).sign(message(), at)
    text = f"test-1.{int(at)}.".encode() + signed.body
    by_hand = base64.b64encode(hmac.digest(read_secret(SECOND_SECRET), text, hashlib.sha256)).decode()
    assert signed.headers["webhook-timestamp"] == str(int(at))
    assert signed.headers["webhook-signature"] == f"v1,{by_hand}"


def test_without_a_merchant_the_source_is_that_of_the_environment() -> None:
    assert b'"source": "/expunge/sandbox"' in envelope("a", "b", replace(TARGET, merchant=""), 0.0, {}).body


# --- when it is tried again ---


def test_it_is_tried_again_after_seconds_first_and_after_an_hour_then() -> None:
    delays = [Schedule().delay(failures, None, 1.0) for failures in range(1, 9)]
    assert delays == [5, 30, 120, 600, 1800, 3600, 3600, 3600]


def test_what_the_receiver_asks_for_can_only_make_it_later() -> None:
    assert Schedule().delay(1, 60.0, 1.0) == 60
    assert Schedule().delay(6, 60.0, 1.0) == 3600


def test_an_address_that_takes_nothing_is_tried_two_dozen_times_in_its_day() -> None:
    standing, at, tries = Standing("0-0"), 1000.0, 0
    while not standing.is_hopeless(Schedule(), 1000.0, at):
        standing = standing.not_taken(Schedule(), at, None, 1.0, "answered 500")
        at, tries = standing.next_at, tries + 1
    assert 24 <= tries <= 32


def test_an_event_that_is_taken_ends_the_count_of_failures() -> None:
    failed = Standing("1-0").not_taken(Schedule(), 100.0, None, 1.0, "answered 500")
    assert failed.taken("2-0", last=True) == Standing("2-0")
    assert failed.taken("2-0", last=False) == Standing("1-0", part=1)
