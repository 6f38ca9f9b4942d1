"""The identity provider (OpenID Connect): where a browser is sent, and whom the provider says that it sent back.

Authlib and joserfc know the protocol, aiohttp carries it (Authlib's own client reads whatever comes): no redirect is
followed, no proxy variable read, no cookie kept, no reply read that is long or slow. What a token says is used at once;
the tokens themselves are kept nowhere.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn
from urllib.parse import quote_plus, urlsplit

import aiohttp
import orjson
import structlog
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey
from joserfc.jws import JWSRegistry

from worker.domain.addresses import is_loopback
from worker.domain.errors import Guard, RefusedError
from worker.domain.identities import SignOn
from worker.store.trips import Trip
from worker.web.problems import Kind, Problem

_PATIENCE = 10.0  # seconds for one answer
_LARGEST = 256 << 10  # bytes of one
_FRESH = 600.0  # seconds that addresses and keys are kept
_LEEWAY = 60  # seconds by which clocks may differ
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_SIGNATURES = JWSRegistry(
    algorithms=[f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)],
    strict_check_header=False,  # what is not understood in a header is to be ignored (RFC 7515, section 4)
)
"""Whoever may check these cannot make them: neither ``none`` nor ``HS256`` is among them."""

log = structlog.get_logger(__name__)


class Provider:
    """One provider, as it is set; many sign-ins may use it at once."""

    def __init__(self, sign_on: SignOn, session: aiohttp.ClientSession) -> None:
        self.sign_on = sign_on
        self._session = session
        self._kept: dict[str, tuple[float, Any]] = {}

    async def address(self, trip: Trip) -> str:
        """Where to send a browser that begins a round trip; raises ``Problem`` if the provider cannot be used."""
        endpoint = (await self._metadata())["authorization_endpoint"]
        address: str = prepare_grant_uri(
            endpoint,
            self.sign_on.client_id,
            "code",
            redirect_uri=self.sign_on.return_url,
            scope=self.sign_on.scopes,
            state=trip.state,
            nonce=trip.nonce,
            code_challenge=create_s256_code_challenge(trip.verifier),
            code_challenge_method="S256",
        )
        return address

    async def claims(self, trip: Trip, code: str, issuer: str) -> Mapping[str, Any]:
        """What the provider says of whom it sent back with this code and, if it names itself, as this ``issuer``.

        Raises ``RefusedError`` for what must not be trusted, ``Problem`` if the provider cannot be used.
        """
        metadata = await self._metadata()
        named = metadata.get("authorization_response_iss_parameter_supported") is True  # RFC 9207
        if (issuer or named) and issuer != self.sign_on.issuer:
            self._distrust("it came from another provider")
        token = await self._redeem(metadata, trip, code)
        try:
            found = await self._decoded(metadata, token)
            CodeIDToken(found.claims, found.header, self._expected(), self._sent(trip)).validate(leeway=_LEEWAY)
        except JoseError as error:
            self._distrust(_reason(error))
        except (ValueError, TypeError, LookupError):
            self._distrust("it cannot be read")
        return found.claims

    def _expected(self) -> dict[str, dict[str, Any]]:
        return {
            "iss": {"essential": True, "value": self.sign_on.issuer},
            "aud": {"essential": True, "value": self.sign_on.client_id},
            "sub": {"essential": True},
        }

    def _sent(self, trip: Trip) -> dict[str, str]:
        return {"nonce": trip.nonce, "client_id": self.sign_on.client_id}

    async def _redeem(self, metadata: Mapping[str, Any], trip: Trip, code: str) -> str:
        """The ID token for a code. The access token that comes with it is not even looked at."""
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self.sign_on.return_url, code_verifier=trip.verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url, headers, body = self._client_auth(metadata).prepare("POST", metadata["token_endpoint"], headers, body)
        status, answer = await self._ask("POST", url, headers=headers, data=body)
        if status in (400, 401) and answer.get("error") in ("invalid_client", "unauthorized_client"):
            self._unusable("it does not know us: check EXPUNGE_OIDC_CLIENT_ID and EXPUNGE_OIDC_CLIENT_SECRET")
        if status == 400:
            self._distrust("the code does not count")
        if status != 200:
            self._unusable(f"it answered {status} to the code")
        token = answer.get("id_token")
        return token if isinstance(token, str) else self._distrust("there is no ID token")

    def _client_auth(self, metadata: Mapping[str, Any]) -> ClientAuth:
        client_id, secret = self.sign_on.client_id, self.sign_on.client_secret
        if secret is None:
            return ClientAuth(client_id, None, "none")
        ways = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" in ways:
            return ClientAuth(quote_plus(client_id), quote_plus(secret))  # RFC 6749, section 2.3.1
        return ClientAuth(client_id, secret, "client_secret_post")

    async def _decoded(self, metadata: Mapping[str, Any], token: str) -> jwt.Token:
        """The token, if a key of the provider signed it; a new key is asked for once."""
        try:
            return jwt.decode(token, await self._keys(metadata), registry=_SIGNATURES)
        except InvalidKeyIdError:
            self._kept.pop("keys", None)
            return jwt.decode(token, await self._keys(metadata), registry=_SIGNATURES)

    async def _keys(self, metadata: Mapping[str, Any]) -> KeySet:
        keys: KeySet | None = self._fresh("keys")
        if keys is not None:
            return keys
        answer = await self._get(metadata["jwks_uri"])
        try:
            found = KeySet.import_key_set({"keys": answer["keys"]})
        except (JoseError, ValueError, TypeError, LookupError):
            self._unusable("its keys cannot be read")
        keys = KeySet([key for key in found if isinstance(key, RSAKey | ECKey)])
        self._kept["keys"] = time.monotonic() + _FRESH, keys
        return keys

    async def _metadata(self) -> Mapping[str, Any]:
        kept: Mapping[str, Any] | None = self._fresh("metadata")
        if kept is not None:
            return kept
        answer = await self._get(f"{self.sign_on.issuer.rstrip('/')}/.well-known/openid-configuration")
        if answer.get("issuer") != self.sign_on.issuer:
            self._unusable(f"it calls itself {str(answer.get('issuer'))[:200]!r}, which is not EXPUNGE_OIDC_ISSUER")
        for name in _ENDPOINTS:
            if not _is_safe(answer.get(name), self.sign_on.issuer):
                self._unusable(f"its {name} is missing, or not https://")
        self._kept["metadata"] = time.monotonic() + _FRESH, answer
        return answer

    def _fresh(self, name: str) -> Any:
        until, kept = self._kept.get(name, (0.0, None))
        return kept if time.monotonic() < until else None

    async def _get(self, url: str) -> dict[str, Any]:
        status, answer = await self._ask("GET", url)
        return answer if status == 200 else self._unusable(f"it answered {status}")

    async def _ask(self, method: str, url: str, **content: Any) -> tuple[int, dict[str, Any]]:
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                self._session.request(method, url, allow_redirects=False, **content) as response,
            ):
                body = await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._unusable(f"it does not answer: {type(error).__name__}")
        if body is None:
            self._unusable("its answer is too long")
        try:
            answer = orjson.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._unusable(f"it answered {response.status}, and no JSON object")
        return response.status, answer

    def _unusable(self, why: str) -> NoReturn:
        log.warning("the identity provider cannot be used", provider=self.sign_on.host, why=why)
        raise Problem(
            Kind.PROVIDER,
            f"{self.sign_on.host} cannot be used now to sign in; try again in a moment, or sign in with a token",
        )

    def _distrust(self, why: str) -> NoReturn:
        log.warning("a sign-in was refused", provider=self.sign_on.host, why=why)
        raise RefusedError(
            f"what {self.sign_on.host} answered cannot be trusted ({why}); sign in again, and tell an admin if it "
            "stays so",
            Guard.IDENTITY,
        )


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, ``None`` if it is too long."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST:
            return None
    return bytes(body)


def _is_safe(url: object, issuer: str) -> bool:
    """Whether an address that the provider names is as safe as its own."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and issuer.startswith("http:") and is_loopback(host))


def _reason(error: JoseError) -> str:
    """What is wrong with a token, without anything that it says."""
    claim = getattr(error, "claim", "")
    return f"{error.error.replace('_', ' ')}: {claim}" if claim else error.error.replace("_", " ")


@asynccontextmanager
async def open_provider(sign_on: SignOn) -> AsyncIterator[Provider]:
    """The provider; nothing connects before somebody signs in."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=8, ssl=ssl.create_default_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "expunge"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield Provider(sign_on, session)
