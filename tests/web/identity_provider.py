"""An identity provider (OpenID Connect) on this machine: it signs with a real key, and can be broken in many ways."""

import asyncio
import base64
import hashlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "expunge", "a secret: 1+1 %41"
Sign = Callable[[dict[str, Any]], str]


@cache
def _key(number: int) -> RSAKey:  # noqa: ARG001 - each number has another
    """A key takes a while to make."""
    return RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)


class IdentityProvider:
    """Knows people by their claims; ``url`` is there once it runs.

    What a test sets before somebody signs in is what goes wrong then.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.people: dict[str, dict[str, Any]] = {}
        self.url = ""
        self.claims: dict[str, Any] = {}
        """In place of what an ID token would say; ``None`` leaves a claim out."""
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, Callable[[], Awaitable[web.StreamResponse]]] = {}
        """In place of what a path would answer."""
        self.id_token: Sign = self.signed
        self.clients: dict[str, str | None] = {CLIENT_ID: CLIENT_SECRET}
        self.asked: list[str] = []
        self.tokens: list[str] = []
        """Whatever it gave out and nobody else may keep or show."""
        self.keys_made = 0
        self.rotate()
        self._codes: dict[str, dict[str, str]] = {}

    def add(self, name: str, *roles: str, **claims: Any) -> None:
        """Somebody whom it knows, and what it says of them."""
        subject = f"f0c3-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        self.people[name] = {
            "sub": subject,
            "preferred_username": name,
            "realm_access": {"roles": ["offline_access", *roles]},
            **claims,
        }

    def rotate(self) -> None:
        """Sign with another key from now on, and publish no other."""
        self.key = _key(self.keys_made)
        self.keys_made += 1

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """An ID token as it should be."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid, **header}, claims, self.key)

    def decide(self, address: str, name: str | None) -> str:
        """What a browser that was sent to ``address`` is sent back to when somebody signs in there, or denies it."""
        given = {key: values[0] for key, values in parse_qs(urlsplit(address).query).items()}
        assert given["client_id"] in self.clients
        assert (given["response_type"], given["code_challenge_method"]) == ("code", "S256")
        assert {"openid", "profile"} <= set(given["scope"].split())
        answer = {"state": given["state"]}
        if name is None:
            answer |= {"error": "access_denied", "error_description": "<script>you denied it</script>"}
        else:
            code = secrets.token_urlsafe(16)
            self.tokens.append(code)
            self._codes[code] = {**given, "name": name}
            answer["code"] = code
        return f"{given['redirect_uri']}?{urlencode(answer)}"

    # --- what it answers ---

    async def _discovery(self) -> web.StreamResponse:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                **self.metadata,
            }
        )

    async def _keys(self) -> web.StreamResponse:
        return web.json_response({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        links = [
            f'<p><a href="{self.decide(str(request.url), name)}">{name or "Deny"}</a></p>'.replace("&", "&amp;")
            for name in (*self.people, None)
        ]
        return web.Response(
            text=f"<!doctype html><title>Who are you?</title>{''.join(links)}", content_type="text/html"
        )

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {key: str(value) for key, value in (await request.post()).items()}
        client = self._client(request.headers.get("Authorization"), form)
        if client is None:
            return web.json_response({"error": "invalid_client"}, status=401)
        known = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            known is None
            or form["grant_type"] != "authorization_code"
            or (known["client_id"], known["redirect_uri"]) != (client, form["redirect_uri"])
            or known["code_challenge"] != challenge.decode().rstrip("=")
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token, access = self.id_token(self._says(known)), secrets.token_urlsafe(24)
        self.tokens += [token, access]
        return web.json_response({"access_token": access, "token_type": "Bearer", "id_token": token})

    def _client(self, header: str | None, form: dict[str, str]) -> str | None:
        name, secret = form.get("client_id", ""), form.get("client_secret")
        if header is not None:
            name, _, text = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            name, secret = unquote_plus(name), unquote_plus(text)
        return name if name in self.clients and self.clients[name] == secret else None

    def _says(self, known: dict[str, str]) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": known["client_id"],
            "iat": now,
            "exp": now + 300,
            "nonce": known["nonce"],
            **self.people[known["name"]],
            **self.claims,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def _answering(self, path: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        usual: dict[str, Callable[[], Awaitable[web.StreamResponse]]] = {
            "/.well-known/openid-configuration": self._discovery,
            "/keys": self._keys,
        }

        async def answer(request: web.Request) -> web.StreamResponse:
            self.asked.append(path)
            if path in self.answers:
                return await self.answers[path]()
            if path in usual:
                return await usual[path]()
            return await (self._token if path == "/token" else self._authorize)(request)

        return answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its address, the issuer."""
        app = web.Application()
        for path in ("/.well-known/openid-configuration", "/keys", "/authorize"):
            app.router.add_get(path, self._answering(path))
        app.router.add_post("/token", self._answering("/token"))
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://{self.host}:{runner.addresses[0][1]}"
            yield self.url
        finally:
            await runner.cleanup()

    @contextmanager
    def running_beside(self) -> Iterator[str]:
        """The same, in a thread of its own."""
        loop, ready = asyncio.new_event_loop(), threading.Event()
        stop = asyncio.Event()

        async def run() -> None:
            async with self.running():
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
        thread.start()
        try:
            assert ready.wait(10)
            yield self.url
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()
