"""The one way out to callback addresses: one POST, of whose answer nothing but status and ``Retry-After`` is read.

aiohttp asks the name's addresses and connects; each is checked where its socket is made, so that what is checked is
what is connected to. No redirect is followed, no proxy variable read, no cookie kept, no connection used twice.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.callbacks.message import Message
from worker.domain.addresses import is_public
from worker.domain.callbacks import MOST, PRIVATE, Callback

TIMEOUT = 10.0
"""Seconds for one try, from asking for the address to the answer's headers."""
_GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """How a try ended."""

    status: int | None
    """``None``: there was no answer."""
    problem: str
    """In a few words, without URL or body; empty if it was taken."""
    retry_after: str | None = None

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return not self.problem

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more, ever."""
        return self.status == _GONE


class PrivateAddressError(OSError):
    """A connection to an address that is not public was about to be made."""


class Poster:
    """Sends messages."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, callback: Callback, message: Message) -> Answer:
        """Send it once; whatever goes wrong is in the answer."""
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await self._session.post(
                    callback.url, data=message.body, headers=message.headers, allow_redirects=False
                )
                response.close()  # unread: what it says is not for us
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            return Answer(None, _words(error))
        return Answer(response.status, _problem(response.status), response.headers.get("Retry-After"))


def _problem(status: int) -> str:
    if 200 <= status < 300:
        return ""
    return f"answered {status}" + (", a redirect, which is not followed" if 300 <= status < 400 else "")


def _words(error: BaseException) -> str:
    """What went wrong, without the error's own text: it has the URL."""
    match error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error:
        case PrivateAddressError():
            return PRIVATE
        case socket.gaierror():
            return "is a name without an address"
        case ConnectionRefusedError():
            return "refuses connections"
        case TimeoutError():
            return f"did not answer within {TIMEOUT:g} s"
        case ssl.SSLCertVerificationError():
            return "has a certificate that is not to be trusted"
        case ssl.SSLError():
            return "speaks no TLS that is understood"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "closed the connection without an answer"
        case other:
            return f"cannot be reached ({type(other).__name__})"


class _Resolver(AbstractResolver):
    """The system's, in threads of its own: a name that hangs keeps nobody else waiting for the event loop's threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST, "expunge-resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=of,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for of, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _open_socket(allow_private: bool, address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, proto, _, where = address
    if not allow_private and not is_public(str(where[0])):
        raise PrivateAddressError(PRIVATE)
    return socket.socket(family, kind, proto)


@asynccontextmanager
async def open_poster(*, allow_private: bool) -> AsyncIterator[Poster]:
    """The factory; closed on leaving."""
    resolver = _Resolver()
    connector = aiohttp.TCPConnector(
        resolver=resolver,
        use_dns_cache=False,
        force_close=True,
        socket_factory=partial(_open_socket, allow_private),
        ssl=ssl.create_default_context(),
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"User-Agent": "expunge", "Accept-Encoding": "identity"},
    ) as session:
        try:
            yield Poster(session)
        finally:
            await resolver.close()
