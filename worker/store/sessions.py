"""Sessions of a browser in Redis: for some hours a random word stands for a token, which is kept nowhere."""

import hashlib
import secrets

from redis.asyncio import Redis

from worker.domain.people import Token
from worker.store import keys
from worker.store.tokens import Tokens

LASTS = 12 * 3600
"""Seconds from signing in."""


class Sessions:
    """Begins, finds and ends sessions; one whose token was revoked is over as well."""

    def __init__(self, redis: Redis, tokens: Tokens) -> None:
        self._redis = redis
        self._tokens = tokens

    async def begin(self, token: Token) -> str:
        """The word that stands for the token from now on; only its digest is kept."""
        word = secrets.token_urlsafe(32)
        await self._redis.set(_key(word), f"{token.id} {token.digest}", ex=LASTS)
        return word

    async def find(self, word: str) -> Token | None:
        """The token that a word stands for, if it still does."""
        kept: bytes | None = await self._redis.get(_key(word))  # type: ignore[assignment]
        if kept is None:
            return None
        token_id, _, digest = kept.decode().partition(" ")
        token = await self._tokens.named(token_id)
        return token if token is not None and token.digest == digest else None

    async def begun(self, word: str) -> bool:
        """Whether it is one, be it that its token was revoked."""
        return bool(await self._redis.exists(_key(word)))

    async def end(self, word: str) -> None:
        """Forget it; does nothing if it is over."""
        await self._redis.delete(_key(word))


def _key(word: str) -> str:
    return keys.SESSION + hashlib.sha256(word.encode()).hexdigest()
