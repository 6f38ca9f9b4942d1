"""The client on the wire: real sockets, a server that keeps every byte it gets, and no trust in any library."""

import asyncio
import gzip
import logging
import shutil
import socket
import ssl
import string
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.customer_ids import IdRule
from worker.domain.outcomes import Reason
from worker.domain.records import Doubt
from worker.upstream.client import MAX_BODY, Client, Endpoint, UnsafeIdError, open_client
from worker.upstream.reply import Facts, NoReply, Reply
from worker.upstream.verdict import Retry, Settled, judge

CUSTOMER = "customer_d4668153816c4c0c92c62b84fc5ada3f"
DOCUMENTED = (Path(__file__).parents[1] / "upstream_reply.json").read_bytes()
PATH = "/customer/customer/"
ANYTHING = "(?s).*"
UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")  # RFC 3986, 2.3
KEY = "0123456789abcdef0123456789abcdef"
ENOUGH = 10.0  # seconds, where a test does not wait for the timeout
LITTLE = 0.3  # where it does
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


# --- the server ---

Answer: TypeAlias = Callable[["Wire", int, asyncio.StreamWriter], Awaitable[None]]
"""Called after each request with the number of its connection."""


class Wire:
    """A server that keeps what arrives, byte by byte, and answers as the test says."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.raw = b""
        self.heads: list[tuple[int, bytes]] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def request_lines(self) -> list[bytes]:
        return [head.split(b"\r\n", 1)[0] for _, head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, received = self.connections, b""
        with suppress(OSError, asyncio.CancelledError):
            while chunk := await reader.read(65536):
                self.raw += chunk
                received += chunk
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    self.heads.append((number, head))
                    self.arrived.set()
                    await self._answer(self, number, writer)
        writer.close()


@asynccontextmanager
async def wire(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    found = Wire(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


@asynccontextmanager
async def client_of(
    url: str,
    *,
    pattern: str | None = None,
    path: str = PATH,
    timeout: float = ENOUGH,  # noqa: ASYNC109 - the endpoint's setting of that name
    headers: dict[str, str] | None = None,
    concurrency: int = 4,
    ca_file: Path | None = None,
) -> AsyncIterator[Client]:
    rule = IdRule.of() if pattern is None else IdRule.of(pattern)
    async with open_client(Endpoint(url + path, headers or {}, rule, timeout), concurrency, ca_file) as client:
        yield client


def response(body: bytes = DOCUMENTED, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sending(*parts: bytes, then: Callable[[asyncio.StreamWriter], None] | None = None) -> Answer:
    """Answer each request with these bytes, then do something with the connection."""

    async def answer(_wire: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is not None:
            then(writer)

    return answer


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


confirmed = sending(response())


async def never(_wire: Wire, _connection: int, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def delete_over(answer: Answer, timeout: float = ENOUGH) -> Reply | NoReply:  # noqa: ASYNC109 - as above
    async with wire(answer) as server, client_of(server.url, timeout=timeout) as client:
        return await client.delete(CUSTOMER, KEY)


# --- the request is exactly path + ID ---


async def sent_request_lines(pattern: str | None, ids: list[str], path: str = PATH) -> list[bytes]:
    async with wire(confirmed) as server, client_of(server.url, pattern=pattern, path=path) as client:
        for customer_id in ids:
            assert isinstance(await client.delete(customer_id, KEY), Reply)
        return server.request_lines


@settings(max_examples=25, deadline=None)
@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True), min_size=1, max_size=20))
def test_the_request_line_is_exactly_path_and_id_for_every_id_that_is_accepted(ids: list[str]) -> None:
    expected = [f"DELETE {PATH}{customer_id} HTTP/1.1".encode() for customer_id in ids]
    assert asyncio.run(sent_request_lines(None, ids)) == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.from_regex(r"[A-Za-z0-9._~-]{1,200}", fullmatch=True).filter(lambda text: text not in (".", "..")),
        min_size=1,
        max_size=20,
    )
)
def test_the_request_line_is_exactly_path_and_id_under_a_wider_pattern_too(ids: list[str]) -> None:
    ids = [*ids, "...", "a..", "..a", "~", ".a", "-", "_"]
    expected = [f"DELETE {PATH}{customer_id} HTTP/1.1".encode() for customer_id in ids]
    assert asyncio.run(sent_request_lines(ANYTHING, ids)) == expected


@pytest.mark.parametrize("path", ["/", "/api/v1/customer/", "/a.b/c_d/e~f/"])
async def test_a_path_from_the_settings_is_sent_as_it_is(path: str) -> None:
    assert await sent_request_lines(None, ["c1"], path) == [f"DELETE {path}c1 HTTP/1.1".encode()]


UNSAFE = [
    "",
    ".",
    "..",
    "../c1",
    "a/b",
    "a/../b",
    "/",
    "a\\b",
    "a?x",
    "?",
    "a#x",
    "#",
    "a;x",
    "%2e%2e",
    "a%2fb",
    "a%00",
    "%",
    "a\nb",
    "a\n",
    "\na",
    "a\r\nb",
    "a HTTP/1.1\r\nHost: evil\r\n\r\nDELETE /customer/customer/b",
    "a\tb",
    "a\0b",
    " a",
    "a ",
    "a b",
    "\u00e9",
    "\u2025",
    "\uff0e\uff0e",
    "a\u2028b",
    "\u0661",
    "a\ud800",
    "a@b",
    "a:b",
    "a&b",
    "a+b",
]


@pytest.mark.parametrize("pattern", [None, ".*", ANYTHING], ids=["default", "dot", "anything"])
async def test_an_id_that_could_hit_another_resource_is_refused_and_no_byte_is_sent(pattern: str | None) -> None:
    async with wire(confirmed) as server, client_of(server.url, pattern=pattern) as client:
        for customer_id in UNSAFE:
            with pytest.raises(UnsafeIdError):
                await client.delete(customer_id, KEY)
        assert (server.connections, server.raw) == (0, b"")


@settings(max_examples=300)
@given(st.text(max_size=6) | st.text("./%?#a \r\n\\", max_size=6))
def test_whatever_the_pattern_allows_only_unreserved_characters_leave_the_client(customer_id: str) -> None:
    sent: list[bytes] = []

    def keep(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.raw_path)
        return httpx.Response(204)

    client = Client(Endpoint("https://h" + PATH, {}, IdRule.of(ANYTHING), ENOUGH), httpx.MockTransport(keep))
    with suppress(UnsafeIdError):
        asyncio.run(client.delete(customer_id, KEY))
    safe = bool(customer_id) and UNRESERVED.issuperset(customer_id) and customer_id not in (".", "..")
    assert sent == ([f"{PATH}{customer_id}".encode()] if safe else [])


async def test_an_address_that_hides_the_id_behind_a_fragment_is_never_called() -> None:
    """The settings refuse it as well; here, the DELETE would hit the address itself."""
    async with wire(confirmed) as server, client_of(server.url, path="/all#/") as client:
        with pytest.raises(UnsafeIdError):
            await client.delete(CUSTOMER, KEY)
        assert server.connections == 0


async def test_the_refusal_of_an_id_does_not_show_it() -> None:
    async with client_of("http://127.0.0.1:9") as client:
        with pytest.raises(UnsafeIdError) as refusal:
            await client.delete("mrs smith", KEY)
    assert "smith" not in str(refusal.value) + repr(refusal.value)


# --- headers ---


def headers_of(head: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


async def test_each_delete_carries_merchant_environment_its_key_and_the_headers_of_the_settings() -> None:
    given_headers = {"X-Merchant-Identifier-Id": "3kqrchza3j", "X-Type": "sandbox", "X-token": "t0ken: x; y"}
    async with wire(confirmed) as server, client_of(server.url, headers=given_headers) as client:
        for key in (KEY, KEY, "another"):
            await client.delete(CUSTOMER, key)
        found = [headers_of(head) for _, head in server.heads]
    for head in found:
        assert head["x-merchant-identifier-id"] == ["3kqrchza3j"]
        assert head["x-type"] == ["sandbox"]
        assert head["x-token"] == ["t0ken: x; y"]
        assert head["host"] == [f"127.0.0.1:{server.port}"]
        assert head["accept-encoding"] == ["identity"]
        assert head["accept"] == ["application/json"]
        assert "cookie" not in head
        assert "authorization" not in head
    assert [head["idempotency-key"] for head in found] == [[KEY], [KEY], ["another"]]


async def test_a_delete_has_no_body() -> None:
    async with wire(confirmed) as server, client_of(server.url) as client:
        await client.delete(CUSTOMER, KEY)
        assert server.raw.endswith(b"\r\n\r\n")
        head = headers_of(server.heads[0][1])
    assert head.get("content-length", ["0"]) == ["0"]
    assert "transfer-encoding" not in head


async def test_cookies_of_a_reply_are_not_sent_back() -> None:
    """Under a host name: aiohttp's jar never keeps a cookie of an IP address."""
    answer = sending(response(DOCUMENTED, "200 OK", "Set-Cookie: session=1; Path=/"))
    async with wire(answer) as server, client_of(f"http://localhost:{server.port}") as client:
        for _ in range(2):
            assert isinstance(await client.delete(CUSTOMER, KEY), Reply)
        assert len(server.heads) == 2
        assert b"session" not in server.raw


# --- what the client must not do by itself ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    answer = sending(response(b"", f"{status} Moved", f"Location: {PATH}another"))
    async with wire(answer) as server, client_of(server.url) as client:
        reply = await client.delete(CUSTOMER, KEY)
        assert server.request_lines == [f"DELETE {PATH}{CUSTOMER} HTTP/1.1".encode()]
    assert isinstance(reply, Reply)
    assert reply.status == status
    assert judge(reply, CUSTOMER, 0.0) == Settled(Reason.REDIRECTED, Facts(http_status=status))


async def test_proxy_variables_and_netrc_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{dead_port()}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, dead)
        monkeypatch.setenv(name.lower(), dead)
    for name in ("NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with wire(confirmed) as server, client_of(server.url) as client:
        assert isinstance(await client.delete(CUSTOMER, KEY), Reply)
        assert b"uthorization" not in server.raw


@pytest.mark.parametrize("end", [close, reset])
async def test_a_delete_is_never_sent_twice_when_a_kept_connection_breaks_under_it(
    end: Callable[[asyncio.StreamWriter], None],
) -> None:
    """aiohttp would send it again by itself: an attempt nobody counted, whose 404 would read ``not_found``."""

    async def answer(server: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 2:
            end(writer)
            return
        writer.write(response())
        await writer.drain()

    async with wire(answer) as server, client_of(server.url) as client:
        first = await client.delete("first", KEY)
        second = await client.delete("second", KEY)
        lines = [line.split()[1] for line in server.request_lines]
        connections = [connection for connection, _ in server.heads]
    assert isinstance(first, Reply)
    assert second is NoReply.UNANSWERED
    assert lines == [f"{PATH}first".encode(), f"{PATH}second".encode()]
    assert connections == [1, 1]  # or the test would not test it


async def test_the_client_goes_on_after_a_connection_broke() -> None:
    broken = iter([True])

    async def answer(_wire: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
        if next(broken, False):
            reset(writer)
            return
        writer.write(response())
        await writer.drain()

    async with wire(answer) as server, client_of(server.url) as client:
        assert await client.delete(CUSTOMER, KEY) is NoReply.UNANSWERED
        assert await client.delete(CUSTOMER, KEY) == Reply(200, DOCUMENTED)


async def test_a_request_does_not_show_in_the_logs_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await delete_over(confirmed)
        await delete_over(sending(b"garbage\r\n\r\n"))
    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert CUSTOMER not in shown
    assert "Fatur" not in shown


def test_an_endpoint_does_not_show_its_headers() -> None:
    assert "t0ken" not in repr(Endpoint("https://h/", {"X-token": "t0ken"}, IdRule.of(), 1.0))


# --- a full reply ---


async def test_a_reply_comes_back_with_status_body_and_retry_after() -> None:
    reply = await delete_over(sending(response(b'{"status":false}', "429 Too Many Requests", "Retry-After: 7")))
    assert reply == Reply(429, b'{"status":false}', "7")


async def test_the_documented_reply_confirms_over_the_wire() -> None:
    reply = await delete_over(confirmed)
    assert isinstance(reply, Reply)
    verdict = judge(reply, CUSTOMER, 0.0)
    assert isinstance(verdict, Settled)
    assert verdict.reason is Reason.CONFIRMED


async def test_a_reply_in_chunks_or_pieces_is_read_in_full() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (DOCUMENTED[:7], DOCUMENTED[7:])]
    assert await delete_over(sending(chunked, *pieces, b"0\r\n\r\n")) == Reply(200, DOCUMENTED)
    whole = response()
    assert await delete_over(sending(*(whole[at : at + 100] for at in range(0, len(whole), 100)))) == Reply(
        200, DOCUMENTED
    )


async def test_204_without_a_body_is_a_reply() -> None:
    assert await delete_over(sending(b"HTTP/1.1 204 No Content\r\n\r\n")) == Reply(204, b"")


async def test_an_interim_reply_is_not_taken_for_the_final_one() -> None:
    assert await delete_over(sending(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response())) == Reply(200, DOCUMENTED)


async def test_a_reason_phrase_that_is_not_utf_8_breaks_nothing_and_keeps_no_connection() -> None:
    body = b'{"status":true}'
    answer = sending(b"HTTP/1.1 200 caf\xe9\r\nContent-Length: 15\r\n\r\n" + body)
    async with wire(answer) as server, client_of(server.url, concurrency=1) as client:
        for _ in range(3):
            assert await client.delete(CUSTOMER, KEY) in (Reply(200, body), NoReply.UNANSWERED)
        assert len(server.heads) == 3


# --- bodies that are too long, or packed although nobody asked ---

HUGE = 64 << 20


@pytest.mark.parametrize(
    "start",
    [b'{"status":true,"x":"', b'{"status":true}', b" ", b"x"],
    ids=["in a string", "after a whole object", "white space", "text"],
)
async def test_an_endless_body_is_not_read_to_its_end_and_confirms_nothing(start: bytes) -> None:
    written = 0

    async def answer(_wire: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n".encode() + start)
        while written < HUGE:
            written += 1 << 16
            writer.write(b" " * (1 << 16))
            await writer.drain()

    reply = await delete_over(answer)
    assert isinstance(reply, Reply)
    assert len(reply.body) <= MAX_BODY
    assert written < HUGE
    assert judge(reply, CUSTOMER, 0.0) == Retry(Reason.UNREADABLE_REPLY, Facts(http_status=200), Doubt.UNANSWERED)


async def test_a_body_of_exactly_the_most_that_is_read_still_counts() -> None:
    body = b'{"status":true}'.ljust(MAX_BODY)
    assert await delete_over(sending(response(body))) == Reply(200, body)


async def test_a_body_that_is_packed_although_nobody_asked_is_unpacked() -> None:
    packed = gzip.compress(DOCUMENTED)
    assert await delete_over(sending(response(packed, "200 OK", "Content-Encoding: gzip"))) == Reply(200, DOCUMENTED)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", DOCUMENTED),
        ("gzip", gzip.compress(DOCUMENTED)[:-200]),
        ("gzip", b"\x1f\x8b" + bytes(30)),
        ("gzip", b""),
        ("gzip", gzip.compress(b" " * HUGE)),
        ("deflate", b"\xff" * 20),
        ("br", b"\x0b\x02\x80"),
        ("unheard-of", gzip.compress(DOCUMENTED)),
        ("gzip, gzip", gzip.compress(DOCUMENTED)),
    ],
)
async def test_a_body_that_cannot_be_unpacked_confirms_nothing_and_breaks_nothing(encoding: str, body: bytes) -> None:
    reply = await delete_over(sending(response(body, "200 OK", f"Content-Encoding: {encoding}")))
    verdict = judge(reply, CUSTOMER, 0.0)
    assert isinstance(verdict, Retry)
    assert verdict.doubt is Doubt.UNANSWERED


# --- sent, then no full reply ---


@pytest.mark.parametrize(
    "answer",
    [
        sending(then=close),
        sending(then=reset),
        sending(b"HTTP/1.1 200 OK\r\nContent-Le", then=close),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + DOCUMENTED, then=close),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + DOCUMENTED, then=reset),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{", then=close),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", then=close),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", then=close),
        sending(b"SSH-2.0-OpenSSH_9.6\r\n", then=close),
        sending(b"\x00\xff\x00\xff\r\n\r\n", then=close),
        sending(b"HTTP/9.9 banana\r\n\r\n", then=close),
        sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", then=close),
    ],
    ids=[
        "closed",
        "reset",
        "closed in the head",
        "closed in the body",
        "reset in the body",
        "closed in a chunk",
        "no chunk",
        "no length",
        "ssh",
        "bytes",
        "no status",
        "endless header",
    ],
)
async def test_a_request_that_was_sent_and_got_no_full_reply_is_unanswered(answer: Answer) -> None:
    assert await delete_over(answer) is NoReply.UNANSWERED


async def test_a_body_that_ends_early_where_no_length_was_given_confirms_nothing() -> None:
    reply = await delete_over(sending(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + DOCUMENTED[:900], then=close))
    verdict = judge(reply, CUSTOMER, 0.0)
    assert isinstance(verdict, Retry)
    assert verdict.doubt is Doubt.UNANSWERED


async def drip(_wire: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
    """Never silent for long: only a limit on the whole attempt ends it before the reply is complete."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
    for _ in range(40):
        await asyncio.sleep(LITTLE / 20)
        writer.write(b" ")
        await writer.drain()


async def stall_in_the_body(_wire: Wire, _connection: int, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + DOCUMENTED)
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [never, stall_in_the_body, drip])
async def test_an_attempt_ends_with_its_timeout_and_is_unanswered(answer: Answer) -> None:
    assert await delete_over(answer, LITTLE) is NoReply.UNANSWERED


# --- not sent ---


def dead_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_is_not_sent() -> None:
    async with client_of(f"http://127.0.0.1:{dead_port()}") as client:
        assert await client.delete(CUSTOMER, KEY) is NoReply.NOT_SENT


async def test_a_host_that_has_no_address_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with client_of("http://upstream.invalid") as client:
        assert await client.delete(CUSTOMER, KEY) is NoReply.NOT_SENT


async def test_waiting_in_vain_for_a_free_connection_is_not_sent() -> None:
    async with wire(never) as server, client_of(server.url, timeout=1.0, concurrency=1) as client:
        first = asyncio.create_task(client.delete("first", KEY))
        await server.arrived.wait()
        assert await client.delete("second", KEY) is NoReply.NOT_SENT
        assert server.request_lines == [f"DELETE {PATH}first HTTP/1.1".encode()]
        assert await first is NoReply.UNANSWERED


# --- TLS ---


class Certificate:
    """A self-signed certificate in PEM files, and a server context that shows it."""

    def __init__(self, folder: Path, name: str, subject: str) -> None:
        self.file = folder / f"{name}.pem"
        key = folder / f"{name}.key"
        openssl = shutil.which("openssl") or "openssl"
        options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}"]
        files = ["-keyout", str(key), "-out", str(self.file)]
        subprocess.run([openssl, "req", "-x509", *options, *names, *files], check=True, capture_output=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file, key)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For the address where the server really is."""
    return Certificate(tmp_path_factory.mktemp("tls"), "right", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def certificate_of_another(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"), "other", "DNS:api.example.com")


async def delete_over_tls(shown: Certificate, trusted: Path | None) -> tuple[Reply | NoReply, bytes]:
    async with wire(confirmed, shown.context) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with client_of(url, ca_file=trusted) as client:
            return await client.delete(CUSTOMER, KEY), server.raw


async def test_a_certificate_of_the_authority_in_the_settings_is_trusted(certificate: Certificate) -> None:
    reply, raw = await delete_over_tls(certificate, trusted=certificate.file)
    assert reply == Reply(200, DOCUMENTED)
    assert raw.startswith(f"DELETE {PATH}{CUSTOMER} HTTP/1.1".encode())


async def test_nothing_is_sent_to_a_server_whose_certificate_nobody_trusts(certificate: Certificate) -> None:
    assert await delete_over_tls(certificate, trusted=None) == (NoReply.NOT_SENT, b"")


async def test_nothing_is_sent_to_a_server_with_the_certificate_of_another_host(
    certificate_of_another: Certificate,
) -> None:
    assert await delete_over_tls(certificate_of_another, trusted=certificate_of_another.file) == (
        NoReply.NOT_SENT,
        b"",
    )


async def plain_http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    reset(writer)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        while await reader.read(65536):
            pass
    writer.close()


@pytest.mark.parametrize("peer", [plain_http, hang_up, silence])
async def test_a_tls_handshake_that_fails_is_not_sent(
    peer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, client_of(url, timeout=2 * LITTLE) as client:
        assert await client.delete(CUSTOMER, KEY) is NoReply.NOT_SENT
