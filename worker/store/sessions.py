"""Sessions of a browser in Redis: for some hours a random word stands for a token, which is kept nowhere, or for
somebody whom an identity provider knows."""

import hashlib
import secrets

from redis.asyncio import Redis

from worker.domain.people import Known, Person, Role, Token
from worker.store import keys
from worker.store.scripts import Script
from worker.store.tokens import to_token

LASTS = 12 * 3600
"""Seconds from signing in."""


class Sessions:
    """Begins, finds and ends sessions; one whose token was revoked is over as well."""

    def __init__(self, redis: Redis, mark: str) -> None:
        """``mark`` stands for how the identity provider is set up: sessions that began under another are over."""
        self._redis = redis
        self._mark = mark
        self._find = Script(redis, "find_session")
        self._sign_in = Script(redis, "sign_in")
        self._sign_out = Script(redis, "sign_out")

    async def begin(self, token: Token) -> str:
        """The word that stands for the token from now on; only its digest is kept."""
        word = secrets.token_urlsafe(32)
        seconds, micros = await self._redis.time()
        began = int(seconds) * 1000 + int(micros) // 1000
        await self._redis.set(_key(word), f"token {began} {token.id} {token.digest}", ex=LASTS)
        return word

    async def begin_by_provider(self, subject: str, claim: str, name: str, role: Role) -> tuple[str, str] | None:
        """The word for somebody whom the provider knows as ``subject``, and what they are called here.

        That is ``name``, from this ``claim``, unless they had another at their first time. ``None`` if it is somebody
        else's.
        """
        word = secrets.token_urlsafe(32)
        arguments = [subject, claim, name, role.value, self._mark, LASTS]
        called: bytes | None = await self._sign_in(keys=[keys.IDENTITIES, _key(word)], args=arguments)
        return (word, called.decode()) if called else None

    async def find(self, word: str) -> Known | None:
        """Whom a word stands for, if it still does."""
        found: tuple[bytes | None, bytes | None, bytes | None]
        found = await self._find(keys=[_key(word), keys.TOKENS, keys.SIGNED_OUT], args=[])
        kept, kept_token, over_until = found
        match kept.decode().split(" ") if kept else []:
            case ["token", began, token_id, digest]:
                token = to_token(token_id, kept_token) if kept_token else None
                known = Known.by(token) if token is not None and token.digest == digest else None
            case ["provider", began, mark, role, name] if mark == self._mark:
                known = Known(Person(name, Role(role)), f"@{name}")
            case _:
                return None
        return None if over_until is not None and int(began) <= int(over_until) else known

    async def begun(self, word: str) -> bool:
        """Whether it is one, be it that its token was revoked."""
        return bool(await self._redis.exists(_key(word)))

    async def end(self, word: str) -> None:
        """Forget it; does nothing if it is over."""
        await self._redis.delete(_key(word))

    async def end_all(self, name: str, actor: str | None) -> None:
        """End all of somebody's sessions; whoever may, can sign in again."""
        await self._sign_out(keys=[keys.SIGNED_OUT + name], args=[name, LASTS, actor or ""])

    async def any_by_provider(self) -> bool:
        """Whether anybody ever signed in by a provider."""
        return bool(await self._redis.exists(keys.IDENTITIES))


def _key(word: str) -> str:
    return keys.SESSION + hashlib.sha256(word.encode()).hexdigest()
