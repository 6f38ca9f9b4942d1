"""The outermost layer: what holds for every request and answer, whichever route it is for."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.logs import where
from worker.web.counting import Metrics
from worker.web.problems import Kind, Problem

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORM = 1 << 20
"""Bytes of the largest body where nothing else is said."""
_SPLIT = "split it (a file may be packed with gzip instead)"
_PATIENCE = 20.0  # seconds for the next part of a body
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would not say the Origin of our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""Of every answer, unless the route says otherwise (``Cache-Control`` of what never changes)."""

log = structlog.get_logger(__name__)


class Cap(NamedTuple):
    """How much a body may have, in bytes."""

    named: int
    """What somebody who sends more is told: the largest file, where there is room for a form around it."""
    most: int
    advice: str = _SPLIT
    """What somebody who sends more can do."""


_OF_FORMS = Cap(FORM, FORM)


class Shell:
    """ASGI middleware: headers of every answer, no other site's requests, no endless or idle body, no error's text."""

    def __init__(
        self,
        app: ASGIApp,
        caps: Mapping[str, Cap],
        metrics: Metrics,
        answer: Callable[[Request, Problem], Response],
    ) -> None:
        """``caps`` has those of the paths where it is not a form's."""
        self._app = app
        self._caps = caps
        self._metrics = metrics
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, time.monotonic()

        async def hardened(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refuse_other_sites(scope)
            await self._app(scope, self._limited(scope, receive), hardened)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the text of an unforeseen error may hold what must not be shown
            problem = error if isinstance(error, Problem) else _internal(error)
            if not status:  # else the answer ends before its end, which its reader notices
                await self._answer(Request(scope), problem)(scope, receive, hardened)
        finally:
            self._metrics.count(scope, status, time.monotonic() - began)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        named, most, advice = self._caps.get(scope["path"], _OF_FORMS)
        length = Headers(scope=scope).get("content-length", "")
        announced, received, more = int(length) if length.isascii() and length.isdigit() else 0, 0, True

        async def limited() -> Message:
            nonlocal received, more
            if announced > most:
                raise too_large(named, advice)
            message = await (_patiently(receive) if more else receive())
            more = message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > most:
                raise too_large(named, advice)
            return message

        return limited


async def _patiently(receive: Receive) -> Message:
    """The next part of a body; raises ``Problem`` if it does not come."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await receive()
    except TimeoutError:
        detail = f"nothing of the content came for {_PATIENCE:.0f} s: send it again"
        raise Problem(Kind.TIMEOUT, detail, headers={"Connection": "close"}) from None


def too_large(most: int, advice: str = _SPLIT) -> Problem:
    """What a body of more bytes is refused with; the rest of it is not read."""
    return Problem(
        Kind.TOO_LARGE,
        f"the content has more than {most:,} bytes: {advice}",
        headers={"Connection": "close"},
    )


def refuse_other_sites(scope: Scope) -> None:
    """Raise ``Problem`` for what may change something and was begun by a page of another site.

    Browsers send ``Sec-Fetch-Site``, or at least ``Origin``, with each such request; programs need not. Without
    either, only a token counts, which no browser sends by itself.
    """
    headers = Headers(scope=scope)
    if scope["method"] in _SAFE:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        same = site in ("same-origin", "none")
    elif origin is not None:
        same = urlsplit(origin).netloc == headers.get("host")
    else:
        same = "cookie" not in headers or "authorization" in headers
    if not same:
        raise Problem(Kind.CROSS_SITE, "this must come from a page of this server, or from a program with a token")


def _internal(error: Exception) -> Problem:
    log.error("request failed", error=where(error))
    return Problem(Kind.INTERNAL, "something failed here; it is in the server's log, please report it")
