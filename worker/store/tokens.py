"""Tokens in Redis: who they belong to, and digests of them."""

from redis.asyncio import Redis

from worker.domain.errors import Guard, RefusedError, UsageError
from worker.domain.people import Role, Token, digest_of, id_of, is_id
from worker.store import keys
from worker.store.scripts import Script


class Tokens:
    """Adds, finds, lists and revokes tokens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add = Script(redis, "add_token")
        self._revoke = Script(redis, "revoke_token")

    async def exist(self) -> bool:
        """Whether anybody has one."""
        return bool(await self._redis.exists(keys.TOKENS))

    async def had(self, name: str) -> bool:
        """Whether somebody of this name has a token, or had one that was revoked."""
        return bool(await self._redis.sismember(keys.NAMES, name))

    async def find(self, text: str) -> Token | None:
        """The token, if this is one that was added and not revoked."""
        if (token_id := id_of(text)) is None:
            return None
        kept: bytes | None = await self._redis.hget(keys.TOKENS, token_id)  # type: ignore[assignment]
        token = to_token(token_id, kept) if kept else None
        return token if token is not None and token.fits(text) else None

    async def issued(self, text: str) -> bool:
        """Whether there is or was a token of this one's ID, whatever else is right about it."""
        if (token_id := id_of(text)) is None:
            return False
        return bool(
            await self._redis.hexists(keys.TOKENS, token_id) or await self._redis.sismember(keys.REVOKED, token_id)
        )

    async def all(self) -> list[Token]:
        """Every token, the oldest first; by name, if made in the same millisecond."""
        kept: dict[bytes, bytes] = await self._redis.hgetall(keys.TOKENS)  # type: ignore[assignment]
        found = [to_token(at.decode(), value) for at, value in kept.items()]
        return sorted(found, key=lambda token: (token.created_at, token.name))

    async def add(self, text: str, name: str, role: Role, actor: str | None) -> None:
        """Keep a token's digest. Raises ``RefusedError`` when ``actor`` has no name and it is not the first."""
        answer = await self._add(
            keys=[keys.TOKENS, keys.NAMES], args=[id_of(text) or "", digest_of(text), name, role.value, actor or ""]
        )
        if answer != b"ok":
            raise RefusedError("somebody made the first token meanwhile; ask an admin for yours", Guard.IDENTITY)

    async def revoke(self, token_id: str, actor: str) -> None:
        """Forget a token. Raises ``UsageError`` if there is none, ``RefusedError`` for an admin's last."""
        answer = await self._revoke(keys=[keys.TOKENS, keys.REVOKED], args=[token_id, actor])
        if answer == b"gone":
            named = f"token '{token_id}'" if is_id(token_id) else "such token"  # else it may be a secret
            raise UsageError(f"there is no {named}; `expunge token list` has the IDs: 8 digits and letters")
        if answer == b"last_admin":
            raise RefusedError(f"token {token_id} is the last of an admin; add another first", Guard.ROLE)


def to_token(token_id: str, kept: bytes) -> Token:
    """A token as it is kept under its ID, which does not show that somebody has it."""
    role, created_at, digest, name = kept.decode().split(" ")
    return Token(token_id, name, Role(role), int(created_at) / 1000, digest)
