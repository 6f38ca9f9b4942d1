"""Round trips of browsers to the identity provider, in Redis: each is begun here, ends once, and not much later."""

import hashlib
import secrets
from dataclasses import dataclass, field

from redis.asyncio import Redis

from worker.store import keys

LASTS = 600
"""Seconds that somebody has at the provider."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What the provider is given, and must give back or be shown."""

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    """Of PKCE."""
    back: str = ""
    """The path of the page that it began for, without spaces."""


class Trips:
    """Begins and ends them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, back: str) -> tuple[str, Trip]:
        """A new one, and the word by which the browser shows on its return that it is the one that left."""
        word = secrets.token_urlsafe(32)
        trip = Trip(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), back)
        await self._redis.set(_key(word, trip.state), f"{trip.nonce} {trip.verifier} {back}", ex=LASTS)
        return word, trip

    async def end(self, word: str, state: str) -> Trip | None:
        """The one that began with these, the first time that it is asked for; another browser does not use it up."""
        kept: bytes | None = await self._redis.getdel(_key(word, state))  # type: ignore[assignment]
        if kept is None:
            return None
        nonce, verifier, *back = kept.decode().split(" ")
        return Trip(state, nonce, verifier, *back)


def _key(word: str, state: str) -> str:
    return keys.TRIP + hashlib.sha256(f"{word} {state}".encode()).hexdigest()
